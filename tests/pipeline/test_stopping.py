"""MUSE's stopping rule: which epoch it takes, and that the run keeps and compares the right models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.configs import problems_of, settings_of
from helpers.muse_corpus import write
from helpers.shared import shape

from lume_run.common.errors import ConfigError
from lume_run.config.resolve import run_identity
from lume_run.methods.objective import StopWhen
from lume_run.pipeline.artifacts import data_for_hash
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run
from lume_run.pipeline.unlearn.stopping import first_epoch

SMALL = (
    "task=muse",
    "evaluator=muse",
    "method=gd",
    *shape(32, 2, 48),
    "trainer.train.epochs=1",
    "trainer.unlearn.epochs=3",
    "trainer.unlearn.batch_size=2",
    "evaluator.resamples=10",
    "launch.device=cpu",
    "logger=none",
)


@pytest.mark.parametrize(
    ("values", "bound", "strictly", "epoch"),
    [
        ((0.60, 0.50, 0.30), 0.33, False, 3),  # News, GA_GDR: 0.310 under the retrained model's 0.331
        ((0.60, 0.33, 0.30), 0.33, False, 2),  # not above
        ((0.60, 0.33, 0.30), 0.33, True, 3),  # below
        ((0.60, 0.50), 0.33, True, None),
        ((0.0, 0.0), 0.0, False, 1),
        ((0.0, 0.0), 0.0, True, None),
    ],
)
def test_the_first_epoch_by_hand(values, bound, strictly, epoch):
    assert first_epoch(values, bound, strictly=strictly) == epoch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "epoch", "ending"), [("forget", 1, "epoch 1 of 3"), ("retain", 3, "as none qualifies")]
)
def test_the_unlearned_model_is_that_of_an_epoch(side, epoch, ending, tmp_path):
    """Models that say nothing right know 0 of either side: not above another 0, and not below it."""
    write(tmp_path / "data")
    data = ("task.shots=1", f"task.data_dir={tmp_path / 'data'}")
    rule = (f"method.stop_when.knowledge={side}", f"output_dir={tmp_path / 'out'}")
    run = Run(settings_of(*SMALL, *data, *rule), tmp_path / "out/run")
    run_pipeline(run.settings, run.folder, identity={}, command=["test"])
    artifacts = {artifact.name: artifact for artifact in plan(run).artifacts}
    assert all(artifact.is_cached for artifact in artifacts.values())
    outcome = json.loads((run.folder / "unlearned/outcome.json").read_text(encoding="utf-8"))
    steps = artifacts["epochs"].inputs["steps"]
    assert len(steps) == 3 and outcome["steps"] == steps[epoch - 1]
    assert outcome["knowledge"] == [0.0] * 3 and ending in outcome["stopped"]
    weights = [artifacts["epochs"].path / f"step-{step}/model.safetensors" for step in steps]
    assert (run.folder / "unlearned/model/model.safetensors").read_bytes() == weights[epoch - 1].read_bytes()
    report = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    assert f"unlearned.muse.{side}.knowledge" in report["scores"]
    plain = Run(settings_of(*SMALL, *data, f"output_dir={tmp_path / 'plain'}"), tmp_path / "plain/run")
    run_pipeline(plain.settings, plain.folder, identity={}, command=["test"])
    last = (plain.folder / "unlearned/model/model.safetensors").read_bytes()
    assert last == weights[-1].read_bytes()  # to keep epochs changes no weight


def test_a_rule_without_questions_or_retrained_model_is_refused(tmp_path):
    other = ("task=bios", "evaluator=lume", "method.stop_when.knowledge=forget", f"output_dir={tmp_path}")
    with pytest.raises(ConfigError, match="the rule asks what evaluator=muse asks"):
        plan(Run(settings_of(*SMALL, *other), Path(tmp_path / "run")))
    assert "method.stop_when.knowledge" in str(problems_of("method.stop_when.knowledge=both"))


def test_without_the_rule_hashes_are_what_they_were():
    assert "knowledge" not in data_for_hash(StopWhen())
    assert data_for_hash(StopWhen(knowledge="forget"))["knowledge"] == "forget"
    data = {"method": {"stop_when": {"knowledge": None, "retain_nll": None}}}
    assert run_identity(data)["method"]["stop_when"] == {"retain_nll": None}
