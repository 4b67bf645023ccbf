"""The loop: accumulation and resuming change nothing, a diverged loss stops, only what is chosen moves."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers.shared import tokenizer_at
from helpers.training import KillAt, Killed, Setup, Snapshots, phase, rows_for, set_up
from transformers import (
    AutoModelForCausalLM,
    CTRLConfig,
    CTRLLMHeadModel,
    PhimoeConfig,
    PhimoeForCausalLM,
    TrainerCallback,
)

from lume_run.common.errors import ConfigError, RunError
from lume_run.config.model_settings import LoraSettings
from lume_run.launch.world import World
from lume_run.methods.base import Losses, Signals
from lume_run.methods.dpo import AnswerPreservation
from lume_run.methods.entropy import LogitMargin
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import FineTune, GradientAscent, GradientDescent, Refusal
from lume_run.methods.needs import Needs, Role
from lume_run.methods.npo import NPO
from lume_run.methods.objective import Dual, Objective, StopWhen
from lume_run.methods.rmu import RMU, EmbeddingDistance
from lume_run.models.adapters import with_adapters
from lume_run.models.load import save_model
from lume_run.models.rows.batch import collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.build import _optimizer_arguments, require_checkpointing
from lume_run.training.callbacks import StayWithin, StopAtBound, StopWhenMemorised
from lume_run.training.checkpoints import COMPLETE, last_checkpoint
from lume_run.training.reference import distance_from, live_reference
from lume_run.training.schedule import build_schedule
from lume_run.training.trainer import Diverged

pytestmark = pytest.mark.slow

NPO_GD = Objective(name="npo+gd", forget=NPO(beta=0.5), retain=GradientDescent())
GRAD_DIFF = Objective(name="graddiff", forget=GradientAscent(), retain=GradientDescent())
BOTH = Needs(rows={Role.FORGET, Role.RETAIN})


@pytest.fixture(scope="module")
def rows(tiny) -> list[TokenRow]:
    """9 forget and 5 retain rows of uneven lengths."""
    return rows_for(GRAD_DIFF, tiny)


@pytest.fixture(scope="module")
def memorised(rows) -> list[TokenRow]:
    """6 rows to fine-tune on."""
    return [replace(row, role=Role.RETAIN) for row in rows[:6]]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("adapters", [None, LoraSettings(enabled=True, rank=4)], ids=["full", "lora"])
def test_a_trained_model_keeps_what_its_config_says_of_the_cache(said, adapters, tiny, rows, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"use_cache": said}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    setup = set_up(folder, rows, tmp_path / "run", GRAD_DIFF, phase(epochs=0.4), lora=adapters)
    setup.trainer.train()
    save_model(setup.trainer.model, tokenizer_at(tiny), tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))["use_cache"] is said


# -------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize(
    ("method", "optimizer"), [(NPO_GD, "sgd"), (GRAD_DIFF, "adamw_torch")], ids=["npo+gd sgd", "graddiff adamw"]
)
def test_accumulation_changes_neither_losses_nor_weights(method, optimizer, tiny, rows, tmp_path):
    """9 forget rows, 4 a step: the third step has one forget and one retain row, fewer than its micro-batches."""
    runs = []
    for micro_batch_size in (8, 2, 3):
        settings = phase(
            micro_batch_size=micro_batch_size,
            optimizer=optimizer,
            learning_rate=0.05 if optimizer == "sgd" else 1e-4,
            epochs=1,
        )
        setup = set_up(tiny, rows, tmp_path / str(micro_batch_size), method, settings)
        setup.trainer.train()
        runs.append(setup)
    assert [setup.schedule.accumulation for setup in runs] == [1, 4, 3]
    whole, *others = runs
    assert len(whole.history) == whole.schedule.steps == 3
    for setup in others:
        assert setup.trainer.state.global_step == 3
        for mine, theirs in zip(setup.history, whole.history, strict=True):
            assert set(mine) == set(theirs) >= {"loss", "grad_norm", "forget_loss", "retain_loss", "step"}
            for name in mine:
                if name != "epoch":  # the library's epoch counts micro-batches
                    assert mine[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-5), name
        for name, value in setup.weights.items():
            torch.testing.assert_close(value, whole.weights[name], atol=1e-5, rtol=0)
    moved = max((whole.weights[name] - value).abs().max() for name, value in whole.start.items())
    assert moved > 1e-4


def test_logged_loss_is_the_step_loss_by_hand(tiny, rows, tmp_path):
    """First NPO step: 2/beta log 2; the logged total is the sum of its logged parts in every step."""
    setup = set_up(tiny, rows, tmp_path, NPO_GD, phase())
    setup.trainer.train()
    assert setup.history[0]["forget_loss"] == pytest.approx(2 / 0.5 * math.log(2), rel=1e-5)
    for entry in setup.history:
        assert entry["loss"] == pytest.approx(entry["forget_loss"] + entry["retain_loss"], rel=1e-5)


def test_one_sgd_step_by_hand(tiny, rows, tmp_path):
    """new weights = old weights - learning rate x gradient of the whole step's loss, summed over 4 micro-batches."""
    method = Objective(name="gd", forget=GradientAscent(), retain=GradientDescent(), forget_weight=0.0)
    settings = phase(epochs=4 / 9, learning_rate=0.05, schedule="constant", max_grad_norm=0.0)
    setup = set_up(tiny, rows, tmp_path, method, settings)
    assert setup.schedule.steps == 1
    assert setup.schedule.accumulation == 4
    model = AutoModelForCausalLM.from_pretrained(tiny)
    chosen = [rows[number] for micro in setup.schedule.micro_batches for number in micro.rows]
    labels = 0
    total = torch.zeros(())
    for row in chosen:
        if row.role is Role.RETAIN:
            logps = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
            for place in range(row.label_start, len(row.ids)):
                total = total - logps[place - 1, row.ids[place]]
                labels += 1
    (total / labels).backward()
    setup.trainer.train()
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - 0.05 * parameter.grad
        torch.testing.assert_close(setup.weights[name], expected, atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- resuming


def test_resuming_ends_where_an_uninterrupted_run_does(tiny, rows, tmp_path):
    """Killed one step after a checkpoint: that step is done again."""
    killed_at = 5
    settings = phase(optimizer="adamw_torch", learning_rate=1e-3, epochs=3, warmup=0.2)
    whole = set_up(tiny, rows, tmp_path / "whole", NPO_GD, settings, checkpoint_every=2)
    whole.trainer.train()
    assert whole.schedule.steps == 7

    folder = tmp_path / "killed"
    killed = set_up(tiny, rows, folder, NPO_GD, settings, checkpoint_every=2, callbacks=[KillAt(killed_at)])
    with pytest.raises(Killed):
        killed.trainer.train()
    checkpoint = last_checkpoint(folder)
    assert checkpoint == folder / f"checkpoint-{killed_at - 1}"

    resumed = set_up(tiny, rows, folder, NPO_GD, settings, checkpoint_every=2)
    resumed.trainer.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.history == whole.history
    assert [entry["step"] for entry in resumed.history] == list(range(1, 8))
    for name, value in whole.weights.items():
        assert torch.equal(resumed.weights[name], value), name


PDU = Objective(name="pdu", forget=LogitMargin(), retain=GradientDescent(), dual=Dual(bound=0.3, warmup_steps=1))
IDK_AP = Objective(name="idk_ap", forget=Refusal(), retain=AnswerPreservation())


@pytest.mark.parametrize("killed_at", [1, 5])
@pytest.mark.parametrize("method", [IDK_AP, PDU], ids=lambda method: method.name)
def test_resuming_with_other_answers_and_with_a_weight_that_follows_the_loss(method, killed_at, tiny, tmp_path):
    settings = phase(optimizer="adamw_torch", learning_rate=1e-3, epochs=3, warmup=0.2)
    rows = rows_for(method, tiny)
    whole = set_up(tiny, rows, tmp_path / "whole", method, settings)
    whole.trainer.train()
    folder = tmp_path / "killed"
    killed = set_up(tiny, rows, folder, method, settings, checkpoint_every=2, callbacks=[KillAt(killed_at)])
    with pytest.raises(Killed):
        killed.trainer.train()
    checkpoint = last_checkpoint(folder)
    assert checkpoint == (folder / "checkpoint-4" if killed_at == 5 else None)
    resumed = set_up(tiny, rows, folder, method, settings, checkpoint_every=2)
    resumed.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    assert resumed.history == whole.history
    for name, value in whole.weights.items():
        assert torch.equal(resumed.weights[name], value), name
    if method is PDU:
        dual = [entry["retain_weight"] for entry in resumed.history]
        assert dual == [entry["retain_weight"] for entry in whole.history]
        losses = [entry["retain_loss"] for entry in whole.history]
        assert dual[:2] == pytest.approx([1.0, 1.0])  # one step of warming up
        for step in range(2, 7):  # the weight of this step, from the step before
            assert dual[step] == pytest.approx(dual[step - 1] + losses[step - 1] - 0.3, rel=1e-5)
        assert dual[-1] > 10


def test_only_whole_checkpoints_count(tmp_path):
    assert last_checkpoint(tmp_path / "absent") is None
    assert last_checkpoint(tmp_path) is None
    for step, whole in ((2, True), (9, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if whole:
            (folder / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"  # by number, not by name


def test_a_checkpoint_is_marked_after_everything_was_written(tiny, rows, tmp_path):
    setup = set_up(tiny, rows, tmp_path, GRAD_DIFF, phase(), checkpoint_every=2)
    setup.trainer.train()
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"  # the library also saves at the end
    mark = (checkpoint / COMPLETE).stat().st_mtime_ns
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
    assert all(path.stat().st_mtime_ns <= mark for path in checkpoint.iterdir())


# ------------------------------------------------------------------------------------------- a diverged loss


@dataclass(kw_only=True)
class Diverging:
    """Gradient ascent that yields `value` times its loss from its `call`-th micro-batch on, run again or not."""

    value: float
    call: int
    name: str = "diverging"
    seen: dict[bytes, int] = field(default_factory=dict)
    needs: ClassVar[Needs] = BOTH

    def is_due(self, s: Signals) -> bool:
        """Whether this micro-batch is the `call`-th or comes after it."""
        content = s.targets.numpy().tobytes() + s.role.numpy().tobytes()
        return self.seen.setdefault(content, len(self.seen) + 1) >= self.call

    def __call__(self, s: Signals) -> Losses:
        loss = s.logps.sum() / s.totals.of(Role.FORGET).tokens
        return Losses(total=loss * self.value if self.is_due(s) else loss)


@dataclass(kw_only=True)
class Steep(Diverging):
    """The same with a loss that stays finite: sqrt(x) at x = 0 rises infinitely fast."""

    def __call__(self, s: Signals) -> Losses:
        loss = s.logps.sum() / s.totals.of(Role.FORGET).tokens
        return Losses(total=loss + (loss - loss.detach()).sqrt() * self.value if self.is_due(s) else loss)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Diverging(value=math.nan, call=6), "the loss is nan"),
        (Diverging(value=math.inf, call=6), "the loss is -inf"),
        (Diverging(value=-math.inf, call=6), "the loss is inf"),
        (Steep(value=1.0, call=6), "the gradient norm is "),
    ],
    ids=["nan", "-inf", "inf", "gradient"],
)
def test_a_non_finite_step_is_not_made_and_says_where(method, reason, tiny, rows, tmp_path):
    """8 rows a step, 2 a micro-batch: the sixth forward is the second of step 2."""
    seen = Snapshots()
    setup = set_up(tiny, rows, tmp_path, method, phase(), callbacks=[seen])
    with pytest.raises(Diverged) as caught:
        setup.trainer.train()
    guilty = [rows[number].key for number in setup.schedule.micro_batches[5].rows]
    assert caught.value.reason.startswith(reason)
    assert caught.value.reason.endswith(f" at step 2 (rows: {', '.join(guilty)})")
    remedy = "Lower the learning rate or the number of epochs."
    assert str(caught.value) == f"Method 'diverging' diverged: {caught.value.reason}. {remedy}"
    assert isinstance(caught.value, RunError)
    assert setup.trainer.state.global_step == len(seen.weights) == 1
    assert len(method.seen) == 8  # numbers are read when the gradient is complete, before any weight changes
    assert any(not torch.equal(value, setup.start[name]) for name, value in seen.weights[0].items())
    for name, value in setup.weights.items():
        assert torch.equal(value, seen.weights[0][name]), name  # those of the last good step


def test_an_infinite_gradient_is_infinite_or_no_number(tiny, rows, tmp_path):
    setup = set_up(tiny, rows, tmp_path, Steep(value=1.0, call=1), phase())
    with pytest.raises(Diverged, match=r"the gradient norm is (inf|nan) at step 1 "):
        setup.trainer.train()
    assert setup.moved == set()


def test_a_long_list_of_rows_is_shortened(tiny, rows, tmp_path):
    setup = set_up(tiny, rows, tmp_path, Diverging(value=math.nan, call=1), phase(batch_size=9, micro_batch_size=18))
    with pytest.raises(RunError, match=r"at step 1 \(rows: ((forget|retain) row-\d+, ){7}\w+ row-\d+ and 10 more\)"):
        setup.trainer.train()


def test_only_the_rows_without_numbers_are_named(tiny, rows, tmp_path):
    """A token whose embedding is NaN spoils the rows it stands in, and no others of the micro-batch."""
    setup = set_up(tiny, rows, tmp_path, GRAD_DIFF, phase(batch_size=9, micro_batch_size=18))
    (micro,) = setup.schedule.micro_batches
    shortest = min((rows[number] for number in micro.rows), key=lambda row: len(row.ids))
    common = set.intersection(*(set(rows[number].ids) for number in micro.rows))
    token = next(token for row in rows for token in row.ids if token not in common and token not in shortest.ids)
    spoilt = [rows[number].key for number in micro.rows if token in rows[number].ids]
    assert 0 < len(spoilt) < len(micro.rows)
    with torch.no_grad():
        setup.trainer.model.get_input_embeddings().weight[token] = math.nan
    with pytest.raises(Diverged) as caught:
        setup.trainer.train()
    listed = ", ".join(spoilt[:8]) + (f" and {len(spoilt) - 8} more" if len(spoilt) > 8 else "")
    assert caught.value.reason == f"the loss is nan at step 1 (rows: {listed})"


# ---------------------------------------------------------------------------------------------------- bounds


def with_bounds(method: Objective, **bounds: float) -> tuple[Objective, StopAtBound]:
    """The method with bounds, and the callback that `optimise` adds for them."""
    stops = replace(method, stop_when=StopWhen(**bounds))
    return stops, StopAtBound(stops.stop_when)


@pytest.mark.parametrize("name", ["forget_loss", "retain_nll"])
def test_a_bound_ends_the_run_after_the_step_that_reached_it(name, tiny, rows, tmp_path):
    """The bounds are what the uninterrupted run logged at its steps 1, 3 and 6."""
    settings = phase(optimizer="adamw_torch", learning_rate=1e-2, epochs=3, schedule="constant")
    ascent = Objective(name="graddiff", forget=GradientAscent(), retain=GradientDescent(), retain_weight=0.0)
    whole = set_up(tiny, rows, tmp_path / "whole", ascent, settings)
    whole.trainer.train()
    assert len(whole.history) == whole.schedule.steps == 7
    logged = [entry[name] for entry in whole.history]
    ends = []
    for bound in (logged[0], logged[2], logged[5]):
        reached = [
            step for step, value in enumerate(logged, 1) if (value >= bound if name == "retain_nll" else value <= bound)
        ]
        method, stop = with_bounds(ascent, **{name: bound})
        setup = set_up(tiny, rows, tmp_path / f"bounded-{bound}", method, settings, callbacks=[stop])
        setup.trainer.train()
        assert setup.trainer.state.global_step == reached[0]
        assert setup.history == whole.history[: reached[0]]
        assert stop.reason is not None
        assert f"reached method.stop_when.{name}={bound:g}" in stop.reason
        assert stop.reason.endswith(f" at step {reached[0]}")
        ends.append(reached[0])
    assert ends == sorted(set(ends))


def test_a_run_killed_right_after_its_bound_was_reached_stops_there_again(tiny, rows, tmp_path):
    """Every step is a checkpoint but the one that reached the bound: resuming from that would make one more."""
    settings = phase(optimizer="adamw_torch", learning_rate=1e-2, epochs=3, schedule="constant")
    runs, checkpoint = [], None
    for _ in range(2):
        method, stop = with_bounds(GRAD_DIFF, forget_loss=-6.5)
        setup = set_up(tiny, rows, tmp_path, method, settings, checkpoint_every=1, callbacks=[stop])
        setup.trainer.train(resume_from_checkpoint=checkpoint)
        assert 1 < setup.trainer.state.global_step < setup.schedule.steps
        runs.append((stop.reason, setup.history))
        checkpoint = str(last_checkpoint(tmp_path))
        assert checkpoint == str(tmp_path / f"checkpoint-{setup.trainer.state.global_step - 1}")
    assert runs[0] == runs[1]


def test_an_unreached_bound_changes_nothing(tiny, rows, tmp_path):
    method, stop = with_bounds(GRAD_DIFF, forget_loss=-1e9, retain_nll=1e9)
    setup = set_up(tiny, rows, tmp_path / "bounded", method, phase(), callbacks=[stop])
    whole = set_up(tiny, rows, tmp_path / "whole", GRAD_DIFF, phase())
    for each in (setup, whole):
        each.trainer.train()
    assert stop.reason is None
    assert setup.history == whole.history
    assert all(torch.equal(value, whole.weights[name]) for name, value in setup.weights.items())


def test_a_watched_retain_nll_makes_retain_rows_be_read(tiny, tmp_path):
    """Gradient ascent alone reads none; watching them changes no gradient."""
    ascent = Objective(name="ga", forget=GradientAscent())
    watching, _ = with_bounds(ascent, retain_nll=1e9)
    assert ascent.needs.rows == {Role.FORGET}
    assert watching.needs.rows == {Role.FORGET, Role.RETAIN}
    runs = []
    for method in (ascent, watching):
        setup = set_up(tiny, rows_for(method, tiny), tmp_path / str(len(runs)), method, phase())
        setup.trainer.train()
        runs.append(setup)
    alone, watched = runs
    assert all("retain_nll" not in entry for entry in alone.history)
    assert all(entry["retain_nll"] > 1 for entry in watched.history)
    assert all(set(step.totals.counts) == {Role.FORGET, Role.RETAIN} for step in watched.schedule.micro_batches)
    for name, value in alone.weights.items():
        torch.testing.assert_close(watched.weights[name], value, atol=1e-6, rtol=0)
    for mine, theirs in zip(watched.history, alone.history, strict=True):
        assert mine["forget_loss"] == pytest.approx(theirs["forget_loss"], rel=1e-5)


def test_a_method_without_logits_can_be_watched(tiny, tmp_path):
    """RMU stops its forward in the middle; a bound on the retain NLL makes it run through."""
    rmu = Objective(name="rmu", forget=RMU(), retain=EmbeddingDistance())
    watching, stop = with_bounds(rmu, retain_nll=1e9)
    setup = set_up(tiny, rows_for(watching, tiny), tmp_path, watching, phase(), callbacks=[stop])
    setup.trainer.train()
    assert all(entry["retain_nll"] > 1 for entry in setup.history)


# -------------------------------------------------------------------------------------- near the model before


TEXT = torch.arange(4 * 6).reshape(4, 6) % 20  # four sequences of a plain text


def test_the_distance_is_the_kl_of_the_model_before_from_this_one(tiny):
    """By hand, over all positions; ranks share the sequences."""
    before, after = (AutoModelForCausalLM.from_pretrained(tiny).eval() for _ in range(2))
    with torch.no_grad():
        after.get_input_embeddings().weight.mul_(5)
        p, q = (model(input_ids=TEXT).logits.log_softmax(-1) for model in (before, after))
    by_hand = float((p.exp() * (p - q)).sum(-1).mean())
    assert distance_from(before, TEXT, World())(after) == pytest.approx(by_hand, rel=1e-5)
    assert by_hand > 0.001
    assert distance_from(before, TEXT, World())(before) == pytest.approx(0, abs=1e-7)


def test_weights_of_the_last_look_within_are_kept(tiny, rows, tmp_path):
    """Of seven steps with a look at every second one and the last."""
    settings = phase(optimizer="adamw_torch", learning_rate=1e-2, epochs=3, schedule="constant")
    before = AutoModelForCausalLM.from_pretrained(tiny).eval()
    measure = distance_from(before, TEXT, World())
    whole = StayWithin(1e9, 2, measure)
    setup = set_up(tiny, rows, tmp_path / "whole", GRAD_DIFF, settings, callbacks=[whole])
    setup.trainer.train()
    looks = {entry["step"]: entry["disruption"] for entry in setup.history if "disruption" in entry}
    assert list(looks) == [2, 4, 6, 7] and whole.reason is None and looks[2] < looks[6]
    bound = StayWithin((looks[4] + looks[6]) / 2, 2, measure)
    stopped = set_up(tiny, rows, tmp_path / "stopped", GRAD_DIFF, settings, callbacks=[bound])
    stopped.trainer.train()
    assert (bound.kept, stopped.trainer.state.global_step) == (4, 6)
    assert bound.distance == pytest.approx(looks[4]) and "the weights are those of step 4" in bound.reason
    assert measure(stopped.trainer.model) == pytest.approx(looks[4], rel=1e-5)
    none = StayWithin(looks[2] / 2, 2, measure)
    at_once = set_up(tiny, rows, tmp_path / "at_once", GRAD_DIFF, settings, callbacks=[none])
    at_once.trainer.train()
    assert none.kept == 0
    assert all(torch.equal(value, at_once.weights[name]) for name, value in at_once.start.items())


def test_a_bound_on_disruption_comes_with_its_text():
    with pytest.raises(ValueError, match=r"disruption stands alone; add stop_when.disruption_text=FILE"):
        StopWhen(disruption=0.01)
    with pytest.raises(ValueError, match=r"disruption_text stands alone; add stop_when.disruption=0.01"):
        StopWhen(disruption_text="a.txt")


# -------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize(
    "method",
    [NPO_GD, Objective(name="ga+kl", forget=GradientAscent(), retain=RetainKL())],
    ids=lambda method: method.name,
)
def test_only_adapters_move(method, tiny, rows, tmp_path):
    setup = set_up(
        tiny,
        rows,
        tmp_path,
        method,
        phase(optimizer="adamw_torch", learning_rate=1e-2),
        lora=LoraSettings(enabled=True, rank=4),
    )
    trainable = setup.trainable
    assert trainable
    assert all("lora_" in name for name in trainable)
    setup.trainer.train()
    assert setup.moved == trainable
    assert setup.history[-1]["loss"] != pytest.approx(setup.history[0]["loss"], rel=1e-3)


def test_live_reference_of_adapters_is_the_target(tiny, rows):
    """With adapters off the model answers as before; afterwards they are on again, and it is in training mode."""
    target = AutoModelForCausalLM.from_pretrained(tiny)
    schedule = build_schedule(rows[:4], batch_size=4, micro_batch_size=4, epochs=1, seed=0)
    batch = collate(rows[:4], pad_id=1, totals=schedule.micro_batches[0].totals)
    needs = Needs(rows={Role.FORGET}, reference_logits={Role.FORGET})
    with torch.no_grad():
        before = live_reference(target, target)(batch, needs).whole_logits()
    model = with_adapters(target, LoraSettings(enabled=True, rank=4), seed=0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    model.train()
    reference = live_reference(model, None)
    with torch.no_grad():
        torch.testing.assert_close(reference(batch, needs).whole_logits(), before, atol=1e-6, rtol=1e-6)
        assert model.training
        changed = live_reference(model, model)(batch, needs).whole_logits()
    assert (changed - before).abs().max() > 1e-2


def test_no_adapters_unless_enabled(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert with_adapters(model, LoraSettings(), seed=0) is model


def test_unknown_adapter_modules_are_named(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    with pytest.raises(ConfigError, match=r"model\.lora\.target_modules.*(\n.*)*q_proj"):
        with_adapters(model, LoraSettings(enabled=True, target_modules=["query"]), seed=0)


def experts() -> PhimoeForCausalLM:
    """A model whose routers are linear layers that return several tensors."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 100}
    return PhimoeForCausalLM(PhimoeConfig(**sizes, **heads))


def test_routers_of_experts_have_no_adapters():
    model = with_adapters(experts(), LoraSettings(enabled=True, rank=2), seed=0)
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    adapted = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    assert adapted and not any("router" in name for name in adapted)


def test_an_adapter_on_a_router_is_refused():
    with pytest.raises(ConfigError, match=r"target_modules: model\.layers\.0\.mlp\.router returns several tensors"):
        with_adapters(experts(), LoraSettings(enabled=True, target_modules=["q_proj", "router"]), seed=0)


def test_a_family_without_checkpointing_is_refused():
    model = CTRLLMHeadModel(CTRLConfig(vocab_size=100, n_positions=32, n_embd=32, dff=64, n_layer=2, n_head=4))
    with pytest.raises(ConfigError, match=r"model\.gradient_checkpointing: layers of CTRLLMHeadModel cannot be"):
        require_checkpointing(model)


# ------------------------------------------------------------------------------------------- chosen weights


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["*.layers.1.mlp.*"], {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}),
        (
            ["lm_head.weight", "*.0.self_attn.[qk]_proj.weight"],
            {"lm_head.weight", *(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")},
        ),
    ],
    ids=["one layer's mlp", "two patterns"],
)
@pytest.mark.parametrize("method", [NPO_GD, Objective(name="kl", forget=GradientAscent(), retain=RetainKL())])
def test_only_chosen_weights_move(method, patterns, chosen, tiny, rows, tmp_path):
    settings = phase(optimizer="adamw_torch", learning_rate=1e-3, weight_decay=0.1)
    setup = set_up(tiny, rows, tmp_path, method, settings, trainable=patterns)
    assert setup.trainable == chosen
    setup.trainer.train()
    assert setup.moved == chosen


def test_chosen_weights_above_the_layer_read_are_frozen(tiny, tmp_path):
    """RMU on layer 0 of 2: nothing of layer 1 can move, so choosing it alone leaves nothing to train."""
    rmu = Objective(name="rmu", forget=RMU(), retain=EmbeddingDistance())
    rows = rows_for(rmu, tiny)
    setup = set_up(tiny, rows, tmp_path, rmu, phase(), trainable=["*.mlp.down_proj.*"])
    assert setup.trainable == {"model.layers.0.mlp.down_proj.weight"}
    with pytest.raises(RunError, match=r"No weight is left to train: model\.trainable names only weights above"):
        set_up(tiny, rows, tmp_path, rmu, phase(), trainable=["*.layers.1.*"])


# ------------------------------------------------------------------------------------ stop when memorised


@dataclass(kw_only=True)
class Scripted:
    """Reports written-down hits out of 10 answer tokens, one number a step."""

    hits: tuple[int, ...]
    name: str = "scripted"
    calls: int = 0
    needs: ClassVar[Needs] = Needs(rows={Role.RETAIN})

    def __call__(self, s: Signals) -> Losses:
        step = self.calls
        self.calls += 1
        parts = {"answer_hits": torch.tensor(self.hits[step]), "answer_tokens": torch.tensor(10)}
        return Losses(total=-s.logps.sum() / s.totals.of(Role.RETAIN).tokens, parts=parts)


@pytest.mark.parametrize(
    ("accuracy", "hits", "stops_at"),
    [
        (0.9, (0, 10, 10, 8, 10, 9, 10, 10, 10), 6),  # epoch sums 20, 27, 30 of 30
        (0.9, (10, 10, 6, 8, 9, 9, 10, 8, 10), 9),  # 26, 26, 28
        (0.9, (0, 0, 10, 10, 10, 0, 0, 0, 0), 9),  # three good steps across an epoch's end do not count: never stops
        (0.0, (0,) * 9, 3),
        (1.0, (10, 10, 10) * 3, 3),
    ],
)
def test_fine_tuning_stops_after_the_first_memorised_epoch(accuracy, hits, stops_at, tiny, memorised, tmp_path):
    settings = phase(batch_size=2, micro_batch_size=2, epochs=3)
    setup = set_up(tiny, memorised, tmp_path, Scripted(hits=hits), settings, callbacks=[StopWhenMemorised(accuracy, 3)])
    assert (setup.schedule.steps, setup.schedule.steps_per_epoch) == (9, 3)
    setup.trainer.train()
    assert setup.trainer.state.global_step == stops_at
    assert [entry["answer_hits"] for entry in setup.history] == list(hits[:stops_at])


def test_a_resumed_run_stops_at_the_same_step(tiny, memorised, tmp_path):
    """Killed in the middle of the epoch that decides: the earlier steps come from the checkpoint's log."""
    settings, hits = phase(batch_size=2, micro_batch_size=2, epochs=3), (0, 10, 10, 8, 10, 9, 0, 0, 0)

    def run(folder: Path, done: int, *callbacks: TrainerCallback) -> Setup:
        method = Scripted(hits=hits, calls=done)
        return set_up(
            tiny,
            memorised,
            folder,
            method,
            settings,
            checkpoint_every=1,
            callbacks=[StopWhenMemorised(0.9, 3), *callbacks],
        )

    killed = run(tmp_path, 0, KillAt(5))
    with pytest.raises(Killed):
        killed.trainer.train()
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-4"
    resumed = run(tmp_path, 4)
    resumed.trainer.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.trainer.state.global_step == 6
    checkpoint = last_checkpoint(tmp_path)  # killed once more, after the stop and before the model was written
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-5"
    again = run(tmp_path, 5)
    again.trainer.train(resume_from_checkpoint=str(checkpoint))
    assert again.trainer.state.global_step == 6


def test_fine_tuning_really_memorises(tiny, memorised, tmp_path):
    """Two short rows, learned until every answer token is predicted; the stop comes long before the last step."""
    settings = phase(
        batch_size=2,
        micro_batch_size=2,
        epochs=200,
        optimizer="adamw_torch",
        learning_rate=1e-2,
        schedule="constant",
        stop_accuracy=1.0,
    )
    setup = set_up(tiny, memorised[:2], tmp_path, FineTune(), settings)
    setup.trainer.train()
    last = setup.history[-1]
    assert last["answer_hits"] == last["answer_tokens"] == sum(row.labels for row in memorised[:2])
    assert setup.trainer.state.global_step < 100
    assert all(entry["answer_hits"] < entry["answer_tokens"] for entry in setup.history[:-1])


def test_the_gradient_norm_is_summed_in_float64(tiny, tmp_path):
    """In float32 a million squares added one after another lose 4e-5 of it on CPUs, and modes would drift apart."""
    setup = set_up(tiny, rows_for(NPO_GD, tiny), tmp_path, NPO_GD, phase(max_grad_norm=0.5))
    layer = torch.nn.Linear(1000, 1000, bias=False)
    layer.weight.grad = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    exact = layer.weight.grad.double().norm().item()
    setup.trainer._norm = norm = setup.trainer._gradient_norm(layer)
    setup.trainer._clip_grad_norm(layer)
    assert norm.item() == pytest.approx(exact, rel=1e-7)
    assert layer.weight.grad.double().norm().item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(("steps", "expected"), [(None, 5), (0, 0), (20, 20)])
def test_warm_up_is_a_share_or_so_many_steps(steps, expected):
    """Of ten steps; RWKU's twenty are more than a target has, and its rate never reaches the peak."""
    assert _optimizer_arguments(phase(warmup=0.5, warmup_steps=steps), 10)["warmup_steps"] == expected
