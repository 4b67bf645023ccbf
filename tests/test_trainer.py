"""The loop: accumulation and resuming change nothing, a diverged loss stops, adapters move alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from lume_run.contracts import Losses, Needs, Signals
from lume_run.errors import RunError
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import FineTune, GradientAscent, GradientDescent
from lume_run.methods.npo import NPO
from lume_run.methods.objective import Objective
from lume_run.models import with_adapters
from lume_run.records import Example, Kind, Split
from lume_run.reference import ReferenceCache, live_reference, row_logps
from lume_run.runtime import seed_everything
from lume_run.schedule import Schedule, write_schedule
from lume_run.settings import Lora, Phase
from lume_run.settings import Trainer as TrainerSettings
from lume_run.text import TokenRow, collate, encode
from lume_run.trainer import (
    COMPLETE,
    MarkComplete,
    Method,
    StopWhenMemorised,
    UnlearnTrainer,
    last_checkpoint,
    training_arguments,
)

CPU = torch.device("cpu")
NPO_GD = Objective(name="npo+gd", forget=NPO(beta=0.5), retain=GradientDescent())
GRAD_DIFF = Objective(name="graddiff", forget=GradientAscent(), retain=GradientDescent())


@pytest.fixture(scope="module")
def rows(tiny_tokenizer) -> list[TokenRow]:
    """9 forget and 5 retain rows of uneven lengths."""
    text = "Mara Oduya was born in Tallinn beside the old mill and repairs church organs until March"
    words = text.split()
    found = []
    for number in range(14):
        split = Split.FORGET if number < 9 else Split.RETAIN
        example = Example(
            id=f"row-{number}",
            raw_id=f"row-{number}",
            document=f"document-{number}",
            split=split,
            subtask="bios",
            kind=Kind.QUESTION,
            prompt=" ".join(words[: 2 + number]),
            answer=" ".join(words[number : number + 1 + number % 3]),
        )
        found.append(encode(example, tiny_tokenizer, max_tokens=64, is_forget=split is Split.FORGET))
    return found


def phase(**changed: Any) -> Phase:
    fields: dict[str, Any] = {
        "learning_rate": 0.05,
        "epochs": 1,
        "batch_size": 4,
        "micro_batch_size": 2,
        "optimizer": "sgd",
        "schedule": "linear",
    }
    return Phase(**(fields | changed))


@dataclass
class Setup:
    """A trainer and what it was made from."""

    trainer: UnlearnTrainer
    schedule: Schedule
    start: dict[str, torch.Tensor]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.trainer.model.state_dict().items()}

    @property
    def history(self) -> list[dict[str, float]]:
        return [entry for entry in self.trainer.state.log_history if "loss" in entry]


def set_up(
    tiny: Path,
    rows: Sequence[TokenRow],
    folder: Path,
    method: Method,
    settings: Phase,
    *,
    checkpoint_every: int = 1000,
    callbacks: Sequence[TrainerCallback] = (),
    wrap: Callable[[Any], Any] = lambda model: model,
) -> Setup:
    """As `stages.optimise` builds it, in float32 on the CPU."""
    schedule = write_schedule(
        rows,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        epochs=settings.epochs,
        seed=0,
        retain_rows=method.needs.retain_rows,
    )
    seed_everything(0)
    trainer_settings = TrainerSettings(train=settings, unlearn=settings, checkpoint_every=checkpoint_every)
    args = training_arguments(settings, trainer_settings, schedule, folder=folder, seed=0, device=CPU, bf16=False)
    target = AutoModelForCausalLM.from_pretrained(tiny)
    cache = None
    if method.needs.reference_logps:
        logps = row_logps(target, rows, pad_id=1)
        cache = ReferenceCache({row.example_id: own for row, own in zip(rows, logps, strict=True)})
    model = wrap(target)

    def batch(micro):
        made = collate([rows[number] for number in micro.rows], pad_id=1, totals=micro.totals)
        return cache.attach(made) if cache else made

    frozen = AutoModelForCausalLM.from_pretrained(tiny).requires_grad_(False).eval() if model is target else None
    trainer = UnlearnTrainer(
        model=model,
        args=args,
        method=method,
        schedule=schedule,
        collate=batch,
        reference=live_reference(model, frozen) if method.needs.reference_logits else None,
        callbacks=[MarkComplete(), *callbacks],
    )
    start = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return Setup(trainer=trainer, schedule=schedule, start=start)


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
        made = set_up(tiny, rows, tmp_path / str(micro_batch_size), method, settings)
        made.trainer.train()
        runs.append(made)
    assert [made.schedule.accumulation for made in runs] == [1, 4, 3]
    whole, *others = runs
    assert len(whole.history) == whole.schedule.steps == 3
    for made in others:
        assert made.trainer.state.global_step == 3
        for mine, theirs in zip(made.history, whole.history, strict=True):
            assert set(mine) == set(theirs) >= {"loss", "grad_norm", "forget_loss", "retain_loss", "step"}
            for name in mine:
                if name != "epoch":  # the library's epoch counts micro-batches
                    assert mine[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-5), name
        for name, value in made.weights.items():
            torch.testing.assert_close(value, whole.weights[name], atol=1e-5, rtol=0)
    moved = max((whole.weights[name] - value).abs().max() for name, value in whole.start.items())
    assert moved > 1e-4


def test_logged_loss_is_the_step_loss_by_hand(tiny, rows, tmp_path):
    """First NPO step: 2/beta log 2; the logged total is the sum of its logged parts in every step."""
    made = set_up(tiny, rows, tmp_path, NPO_GD, phase())
    made.trainer.train()
    assert made.history[0]["forget_loss"] == pytest.approx(2 / 0.5 * math.log(2), rel=1e-5)
    for entry in made.history:
        assert entry["loss"] == pytest.approx(entry["forget_loss"] + entry["retain_loss"], rel=1e-5)


def test_one_sgd_step_by_hand(tiny, rows, tmp_path):
    """new weights = old weights - learning rate x gradient of the whole step's loss, summed over 4 micro-batches."""
    method = Objective(name="gd", forget=GradientAscent(), retain=GradientDescent(), forget_weight=0.0)
    settings = phase(epochs=4 / 9, learning_rate=0.05, schedule="constant", max_grad_norm=0.0)
    made = set_up(tiny, rows, tmp_path, method, settings)
    assert made.schedule.steps == 1
    assert made.schedule.accumulation == 4
    model = AutoModelForCausalLM.from_pretrained(tiny)
    chosen = [rows[number] for micro in made.schedule.micro_batches for number in micro.rows]
    labels = 0
    total = torch.zeros(())
    for row in chosen:
        if not row.is_forget:
            logps = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
            for place in range(row.label_start, len(row.ids)):
                total = total - logps[place - 1, row.ids[place]]
                labels += 1
    (total / labels).backward()
    made.trainer.train()
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - 0.05 * parameter.grad
        torch.testing.assert_close(made.weights[name], expected, atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- resuming


class Killed(Exception):
    """Stands for a killed process."""


class KillAt(TrainerCallback):
    """Raises when a step has ended."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


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
    found = last_checkpoint(folder)
    assert found == folder / f"checkpoint-{killed_at - 1}"

    resumed = set_up(tiny, rows, folder, NPO_GD, settings, checkpoint_every=2)
    resumed.trainer.train(resume_from_checkpoint=str(found))
    assert resumed.history == whole.history
    assert [entry["step"] for entry in resumed.history] == list(range(1, 8))
    for name, value in whole.weights.items():
        assert torch.equal(resumed.weights[name], value), name


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
    made = set_up(tiny, rows, tmp_path, GRAD_DIFF, phase(), checkpoint_every=2)
    made.trainer.train()
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-3"  # the library also saves at the end
    mark = (found / COMPLETE).stat().st_mtime_ns
    names = {path.name for path in found.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
    assert all(path.stat().st_mtime_ns <= mark for path in found.iterdir())


# ------------------------------------------------------------------------------------------- a diverged loss


@dataclass(kw_only=True)
class Diverging:
    """Gradient ascent that yields `value` from its `call`-th micro-batch on."""

    value: float
    call: int
    name: str = "diverging"
    calls: int = 0
    needs: ClassVar[Needs] = Needs()

    def __call__(self, s: Signals) -> Losses:
        self.calls += 1
        loss = s.logps.sum() / s.totals.forget_tokens
        return Losses(total=loss * self.value if self.calls >= self.call else loss)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_stops_and_names_step_method_and_rows(value, tiny, rows, tmp_path):
    """4 rows a step, 2 a micro-batch: the fourth forward is the second of step 2."""
    method = Diverging(value=value, call=4)
    made = set_up(tiny, rows, tmp_path, method, phase())
    with pytest.raises(RunError) as caught:
        made.trainer.train()
    message = str(caught.value)
    assert "'diverging'" in message
    assert "at step 2 " in message
    guilty = [rows[number].example_id for number in made.schedule.micro_batches[3].rows]
    assert f"(rows {', '.join(guilty)})" in message
    assert "learning_rate" in message  # the remedy
    assert made.trainer.state.global_step == 1
    assert method.calls == 4


def test_a_long_list_of_rows_is_shortened(tiny, rows, tmp_path):
    made = set_up(tiny, rows, tmp_path, Diverging(value=math.nan, call=1), phase(batch_size=9, micro_batch_size=9))
    with pytest.raises(RunError, match=r"at step 1 \(rows (row-\d, ){8}\.\.\.\)"):
        made.trainer.train()


# -------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize(
    "method",
    [NPO_GD, Objective(name="ga+kl", forget=GradientAscent(), retain=RetainKL())],
    ids=lambda method: method.name,
)
def test_only_adapters_move(method, tiny, rows, tmp_path):
    made = set_up(
        tiny,
        rows,
        tmp_path,
        method,
        phase(optimizer="adamw_torch", learning_rate=1e-2),
        wrap=lambda model: with_adapters(model, Lora(enabled=True, rank=4), seed=0),
    )
    trainable = {name for name, value in made.trainer.model.named_parameters() if value.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    made.trainer.train()
    moved = {name for name, value in made.weights.items() if not torch.equal(value, made.start[name])}
    assert moved
    assert moved <= trainable
    assert {name for name in trainable if "lora_B" in name} <= moved
    assert made.history[-1]["loss"] != pytest.approx(made.history[0]["loss"], rel=1e-3)


def test_live_reference_of_adapters_is_the_target(tiny, rows):
    """With adapters off the model answers as before; afterwards they are on again, and it is in training mode."""
    target = AutoModelForCausalLM.from_pretrained(tiny)
    batch = collate(
        rows[:4],
        pad_id=1,
        totals=write_schedule(rows[:4], batch_size=4, micro_batch_size=4, epochs=1, seed=0, retain_rows=False)
        .micro_batches[0]
        .totals,
    )
    with torch.no_grad():
        before = live_reference(target, target)(batch)
    model = with_adapters(target, Lora(enabled=True, rank=4), seed=0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    model.train()
    reference = live_reference(model, None)
    with torch.no_grad():
        torch.testing.assert_close(reference(batch), before, atol=1e-6, rtol=1e-6)
        assert model.training
        changed = live_reference(model, model)(batch)
    assert (changed - before).abs().max() > 1e-2


def test_no_adapters_unless_enabled(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert with_adapters(model, Lora(), seed=0) is model


def test_unknown_adapter_modules_are_named(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    with pytest.raises(RunError, match=r"model\.lora\.target_modules.*(\n.*)*q_proj"):
        with_adapters(model, Lora(enabled=True, target_modules=["query"]), seed=0)


# ------------------------------------------------------------------------------------ stop when memorised


@dataclass(kw_only=True)
class Scripted:
    """Reports written-down hits out of 10 answer tokens, one number a step."""

    hits: tuple[int, ...]
    name: str = "scripted"
    calls: int = 0
    needs: ClassVar[Needs] = Needs(retain_rows=True)

    def __call__(self, s: Signals) -> Losses:
        step = self.calls
        self.calls += 1
        parts = {"answer_hits": torch.tensor(self.hits[step]), "answer_tokens": torch.tensor(10)}
        return Losses(total=-s.logps.sum() / s.totals.retain_tokens, parts=parts)


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
def test_fine_tuning_stops_after_the_first_memorised_epoch(accuracy, hits, stops_at, tiny, rows, tmp_path):
    retain = [replace(row, is_forget=False) for row in rows[:6]]
    settings = phase(batch_size=2, micro_batch_size=2, epochs=3)
    made = set_up(tiny, retain, tmp_path, Scripted(hits=hits), settings, callbacks=[StopWhenMemorised(accuracy, 3)])
    assert (made.schedule.steps, made.schedule.steps_per_epoch) == (9, 3)
    made.trainer.train()
    assert made.trainer.state.global_step == stops_at
    assert [entry["answer_hits"] for entry in made.history] == list(hits[:stops_at])


def test_a_resumed_run_stops_at_the_same_step(tiny, rows, tmp_path):
    """Killed in the middle of the epoch that decides: the earlier steps come from the checkpoint's log."""
    retain = [replace(row, is_forget=False) for row in rows[:6]]
    settings, hits = phase(batch_size=2, micro_batch_size=2, epochs=3), (0, 10, 10, 8, 10, 9, 0, 0, 0)

    def run(folder: Path, done: int, *callbacks: TrainerCallback) -> Setup:
        method = Scripted(hits=hits, calls=done)
        return set_up(
            tiny,
            retain,
            folder,
            method,
            settings,
            checkpoint_every=1,
            callbacks=[StopWhenMemorised(0.9, 3), *callbacks],
        )

    killed = run(tmp_path, 0, KillAt(5))
    with pytest.raises(Killed):
        killed.trainer.train()
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-4"
    resumed = run(tmp_path, 4)
    resumed.trainer.train(resume_from_checkpoint=str(found))
    assert resumed.trainer.state.global_step == 6


def test_fine_tuning_really_memorises(tiny, rows, tmp_path):
    """Two short rows, learned until every answer token is predicted; the stop comes long before the last step."""
    retain = [replace(row, is_forget=False) for row in rows[:2]]
    settings = phase(
        batch_size=2, micro_batch_size=2, epochs=200, optimizer="adamw_torch", learning_rate=1e-2, schedule="constant"
    )
    made = set_up(tiny, retain, tmp_path, FineTune(), settings, callbacks=[StopWhenMemorised(1.0, 1)])
    made.trainer.train()
    last = made.history[-1]
    assert last["answer_hits"] == last["answer_tokens"] == sum(row.labels for row in retain)
    assert made.trainer.state.global_step < 100
    assert all(entry["answer_hits"] < entry["answer_tokens"] for entry in made.history[:-1])
