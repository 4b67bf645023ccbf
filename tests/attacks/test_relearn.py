"""What relearning trains on, for how long, and what it holds out; that a run without attacks is what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.configs import data_of, problems_of, settings_of

from lume_run.attacks.base import Situation, halve_documents, is_scored
from lume_run.attacks.relearn import Optimization, Relearn
from lume_run.common.errors import ConfigError
from lume_run.common.files import content_hash
from lume_run.config.resolve import run_identity
from lume_run.config.settings import Settings
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run
from lume_run.training.schedule import count_steps


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_of("task.num_documents=5")


@pytest.fixture(scope="module")
def situation(settings) -> Situation:
    return Situation.of(settings, settings.task.load(settings.seed))


def test_one_training_serves_all_steps(situation):
    train = situation.trainer.train
    slow, fast = Relearn().trainings(situation)
    assert (slow.series, fast.series) == (f"lr={train.learning_rate:g}", f"lr={2 * train.learning_rate:g}")
    assert [strength.label for strength in slow.strengths().values()] == [
        f"steps={steps},{slow.series}" for steps in (10, 25, 50, 100)
    ]
    phase = slow.phase
    assert (phase.schedule, phase.warmup, phase.weight_decay, phase.stop_accuracy) == ("constant", 0, 0, None)
    assert (phase.learning_rate, phase.batch_size) == (train.learning_rate, train.batch_size)
    assert slow.examples == situation.data.forget


@pytest.mark.parametrize("steps", [1, 7, 100, 250])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_so_many_steps_are_made(steps, batch_size, situation):
    optimization = Optimization(steps=(steps,), learning_rates=(1e-5,), batch_size=batch_size)
    (training,) = Relearn(optimization=optimization).trainings(situation)
    phase = training.phase
    made_of = count_steps(len(training.examples), batch_size=phase.batch_size, epochs=phase.epochs)
    assert made_of == steps


def test_an_epoch_in_place_of_steps(situation):
    rows = len(situation.data.forget)
    (training,) = Relearn(epochs=1, optimization=Optimization(learning_rates=(2e-5,), batch_size=4)).trainings(
        situation
    )
    assert training.steps == (-(-rows // 4),)
    assert training.phase.epochs == 1


def test_half_of_the_documents_are_held_out(situation):
    (training, _) = Relearn(rows="half").trainings(situation)
    shown = {example.document for example in training.examples}
    documents = {example.document for example in situation.data.forget}
    assert (len(shown), len(training.held_out)) == (2, 3)
    assert shown | training.held_out == documents
    assert not shown & training.held_out
    scored = [row for row in situation.data.forget if is_scored(row, training.held_out)]
    assert {row.document for row in scored} == training.held_out
    assert all(is_scored(row, training.held_out) for row in situation.data.retain)
    assert not all(is_scored(row, training.held_out) for row in situation.data.members)


def test_halves_depend_on_the_seed_and_on_no_order(situation):
    forget = situation.data.forget
    halves = {halve_documents(forget, seed, "attack") for seed in range(20)}
    assert len(halves) > 3
    assert halve_documents(forget[::-1], 0, "attack") == halve_documents(forget, 0, "attack")


def test_a_single_document_is_not_halved(situation):
    alone = [row for row in situation.data.forget if row.document == situation.data.forget[0].document]
    with pytest.raises(ConfigError, match="1 document, and is to be halved"):
        halve_documents(alone, 0, "attack")


def test_raw_text(situation):
    (training, _) = Relearn(rows="text").trainings(situation)
    assert {row.document for row in training.examples} == {row.document for row in situation.data.forget}
    assert all(row.kind == "document" for row in training.examples)


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("attack.attacks.relearn.optimization.steps=[]", "attack.attacks.relearn.optimization"),
        ("attack.attacks.relearn.optimization.steps=[50,10]", "attack.attacks.relearn.optimization"),
        ("attack.attacks.relearn.optimization.steps=[0,10]", "attack.attacks.relearn.optimization"),
        ("attack.attacks.relearn.optimization.learning_rates=[0]", "attack.attacks.relearn.optimization"),
        ("attack.attacks.relearn.optimization.learning_rates=[1e-5,1e-5]", "attack.attacks.relearn.optimization"),
        ("attack.attacks.relearn.rows=some", "attack.attacks.relearn.rows"),
        ("+attack.attacks.wrong={_target_: lume_run.methods.npo.NPO, beta: 0.1}", "attack.attacks.wrong"),
        ("stages=[train,unlearn]", "attack"),
    ],
)
def test_what_is_refused(override, place):
    assert place in problems_of("attack=relearn", override)


def test_without_attacks_a_run_is_what_it_was():
    """The folder's name and the plan; a config of before has no `attack` at all."""
    data = data_of()
    before = {key: value for key, value in data.items() if key != "attack"}
    assert content_hash(run_identity(data)) == content_hash(run_identity(before))
    assert content_hash(run_identity(data_of("attack=relearn"))) != content_hash(run_identity(data))


def test_the_control_is_asked_for(tmp_path):
    def names(*overrides: str) -> list[str]:
        settings = settings_of("task.num_documents=2", f"output_dir={tmp_path}", *overrides)
        return [artifact.name for artifact in plan(Run(settings, Path(tmp_path) / "run")).artifacts]

    one_rate = "attack.attacks.relearn.optimization.learning_rates=[1e-3]"
    assert not any("retrained" in name for name in names())
    attacked = names("attack=relearn", one_rate)
    assert "retrained" in attacked
    assert {"unlearned+relearn(lr=0.001)", "retrained+relearn(lr=0.001)"} <= set(attacked)
    assert attacked.count("retrained+relearn(steps=50,lr=0.001) responses") == 1
    by_base = names("attack=relearn", one_rate, "attack.control=base")
    assert "retrained" not in by_base
    assert {"base responses", "base+relearn(lr=0.001)"} <= set(by_base)
    alone = names("attack=relearn", one_rate, "attack.control=none")
    assert [name for name in alone if name.startswith(("base+", "retrained"))] == []
