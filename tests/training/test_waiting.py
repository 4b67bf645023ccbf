"""How often the host waits for a device in a training step: once, whatever the method and however many forwards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.pretend_device import PretendDevice, pretend
from helpers.training import LORA, MEMBERS, OBJECTIVES, compose_method, phase, rows_for, set_up
from transformers import TrainerCallback

from lume_run.methods.base import Losses, Signals
from lume_run.methods.likelihood import FineTune
from lume_run.methods.needs import Needs, Role
from lume_run.models.rows.ahead import Ahead
from lume_run.models.rows.roles import HostBatch
from lume_run.training.trainer import UnlearnTrainer

pytestmark = pytest.mark.slow


class StepCounter(TrainerCallback):
    """How many waits there were before each step."""

    def __init__(self, device: PretendDevice) -> None:
        self.device = device
        self.before: list[int] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.before.append(len(self.device.waits))


def models_of(trainer: UnlearnTrainer) -> list[torch.nn.Module]:
    """The model that is trained, and the frozen one where there is one."""
    cells = trainer.reference.__closure__ or () if trainer.reference else ()
    return [trainer.model, *(cell.cell_contents for cell in cells if isinstance(cell.cell_contents, torch.nn.Module))]


def waits_by_step(
    tiny: Path, folder: Path, method: Any, micro: int, *, epochs: float = 1.75, **options: Any
) -> list[list[tuple[str, str]]]:
    """What the host waits for in each step but the first and the last, which also begin and end a training."""
    settings = phase(micro_batch_size=micro, epochs=epochs, optimizer="adamw_torch_fused", max_grad_norm=1.0)
    setup = set_up(tiny, rows_for(method, tiny), folder, method, settings, remember=False, **options)
    with pretend(*models_of(setup.trainer)) as device:
        counter = StepCounter(device)
        setup.trainer.add_callback(counter)
        setup.trainer.train()
    assert len(counter.before) == setup.schedule.steps >= 4
    return [device.waits[begin:end] for begin, end in zip(counter.before[1:-1], counter.before[2:], strict=True)]


@pytest.mark.parametrize("name", [*OBJECTIVES, *MEMBERS])
def test_a_step_waits_once(name, tiny, tmp_path):
    method = compose_method(name)
    for micro in (2, 16):
        for step in waits_by_step(tiny, tmp_path / str(micro), method, micro):
            assert len(step) == 1, Counter(step)


@pytest.mark.parametrize("name", ["npo_gd", "kl"])
def test_a_step_of_adapters_waits_once(name, tiny, tmp_path):
    for step in waits_by_step(tiny, tmp_path, compose_method(name), 2, lora=LORA):
        assert len(step) == 1, Counter(step)


def test_a_step_of_fine_tuning_waits_once(tiny, tmp_path):
    for step in waits_by_step(tiny, tmp_path, FineTune(), 2, epochs=3):
        assert len(step) == 1, Counter(step)


@dataclass(frozen=True, kw_only=True)
class Curious:
    """Gradient ascent that looks at the device in a way of its own in each forward."""

    way: str
    name: str = "curious"
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET})

    def __call__(self, s: Signals) -> Losses:
        loss = s.logps.sum() / s.totals.of(Role.FORGET).tokens
        match self.way:
            case "item":
                loss.item()
            case "bool":
                bool(loss > 0)
            case "tolist":
                s.logps.tolist()
            case "mask":
                loss = s.logps[s.is_answer].sum() / s.totals.of(Role.FORGET).tokens
            case "nonzero":
                s.is_answer.nonzero()
            case "cpu":
                s.logps.detach().cpu()
            case "upload":
                loss = loss * torch.tensor(1.0, device=s.logps.device)
        return Losses(total=loss)


@pytest.mark.parametrize("way", ["item", "bool", "tolist", "mask", "nonzero", "cpu", "upload"])
def test_one_look_more_is_seen(way, tiny, tmp_path):
    """Of two forwards a step; a boolean index also makes the backward pass of each wait."""
    for step in waits_by_step(tiny, tmp_path, Curious(way=way), 2):
        assert len(step) == (5 if way == "mask" else 3), Counter(step)


# ------------------------------------------------------------------------------------- batches that are ready before


def test_batches_are_prepared_ahead_in_order():
    taken: list[int] = []
    third = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            if number == 3:
                third.set()
            yield number

    ahead = Ahead(numbers(), depth=3)
    assert next(ahead) == 0
    assert third.wait(10)  # three more were taken though nobody asked for them
    assert [*ahead] == [1, 2, 3, 4, 5]
    assert [*ahead] == []
    assert taken == [*range(6)]


def test_what_preparing_a_batch_raises_is_raised_where_it_is_due():
    def broken() -> Iterator[int]:
        yield 0
        raise ValueError("the second")

    ahead = Ahead(broken(), depth=4)
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="the second"):
        next(ahead)


def test_batches_prepared_ahead_change_nothing(tiny, tmp_path, monkeypatch):
    """On a GPU each step's micro-batches are prepared while the step before is computed."""
    method, histories = compose_method("npo_gd"), []
    for ahead in (False, True):
        setup = set_up(tiny, rows_for(method, tiny), tmp_path / str(ahead), method, phase(epochs=2))
        if ahead:
            setup.trainer.feeds_gpu = True
            monkeypatch.setattr(HostBatch, "pinned", lambda self: self)
        setup.trainer.train()
        histories.append(setup.history)
        assert (setup.trainer._ahead is not None) is ahead
    assert histories[0] == histories[1]
