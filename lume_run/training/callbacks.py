"""What happens around the optimizer steps of a training stage: progress, clocks, reasons to stop."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lume_run.common.console import Progress
from lume_run.common.devices import GIB, PeakMemory
from lume_run.launch.collectives import any_rank
from lume_run.launch.preemption import stop_requested
from lume_run.methods.objective import StopWhen


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Ends training with a checkpoint after the step in which some rank received a stop signal (SIGTERM, SIGUSR2)."""

    def __init__(self) -> None:
        self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All ranks decide the same."""
        if state.global_step < state.max_steps and any_rank(stop_requested(), args.device):
            self.stopped = control.should_save = control.should_training_stop = True


class StopWhenMemorised(TrainerCallback):  # type: ignore[misc]
    """Ends fine-tuning after the first whole epoch in which `accuracy` of the answer tokens was predicted.

    It reads the trainer's own log, which checkpoints keep, so a resumed run stops at the same step.
    """

    def __init__(self, accuracy: float, steps_per_epoch: int) -> None:
        self.accuracy, self.steps_per_epoch = accuracy, steps_per_epoch

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Judge at the end of an epoch."""
        steps = [entry for entry in state.log_history[-self.steps_per_epoch - 1 :] if "answer_hits" in entry]
        steps = steps[-self.steps_per_epoch :]
        if state.global_step % self.steps_per_epoch or len(steps) < self.steps_per_epoch:
            return
        hits, tokens = (sum(entry[name] for entry in steps) for name in ("answer_hits", "answer_tokens"))
        if hits >= self.accuracy * tokens:
            stop_training(control)


class StopAtBound(TrainerCallback):  # type: ignore[misc]
    """Ends unlearning at the first step that reached a bound of `method.stop_when`; `reason` says which."""

    def __init__(self, bounds: StopWhen) -> None:
        self.bounds = bounds
        self.reason: str | None = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Judge every step."""
        reason = self.bounds.stop_reason(state.log_history[-1])
        if reason is not None:
            self.reason = f"{reason} at step {state.global_step}"
            stop_training(control)


class StayWithin(TrainerCallback):  # type: ignore[misc]
    """Ends unlearning before the model is further than `most` [nats a token] from the one before, on a plain text.

    `measure` says how far it is. The weights of the last look within the bound, one every `every` steps, take the
    place of later ones; `kept` is their step and `reason` says so. A resumed training looks again where it begins.
    RepSelect's budget (filyp/open-unlearning), by which methods are compared at equal disruption.
    """

    def __init__(self, most: float, every: int, measure: Callable[[nn.Module], float]) -> None:
        self.most, self.every, self.measure = most, every, measure
        self.kept, self.distance = 0, 0.0
        self.weights: list[Tensor] = []
        self.latest: float | None = None
        self.reason: str | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """The weights that training begins with are within."""
        self._keep(of["model"], state.global_step, self.measure(of["model"]) if state.global_step else 0.0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Look every so many steps, and at the last one."""
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        self.latest = self.measure(of["model"])
        if self.latest <= self.most:
            self._keep(of["model"], state.global_step, self.latest)
            return
        bound = f"method.stop_when.disruption={self.most:g} at step {state.global_step}"
        instead = f"the weights are those of step {self.kept}, at {self.distance:.3g}"
        self.reason = f"disruption {self.latest:.3g} passed {bound}; {instead}"
        for parameter, weights in zip(_held_weights(of["model"]), self.weights, strict=True):
            parameter.copy_(weights)
        stop_training(control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the distance into the history of the step."""
        if self.latest is not None:
            state.log_history[-1]["disruption"] = self.latest
            self.latest = None

    def _keep(self, model: nn.Module, step: int, distance: float) -> None:
        self.kept, self.distance = step, distance
        self.weights = [weights.detach().to("cpu", copy=True) for weights in _held_weights(model)]


def _held_weights(model: nn.Module) -> list[Tensor]:
    """The trained weights that this rank holds: under ZeRO-3 its part of each."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return [getattr(parameter, "ds_tensor", parameter).data for parameter in trained]


def stop_training(control: TrainerControl) -> None:
    """End training after this step, without a checkpoint of it: resuming from that would make one step more."""
    control.should_training_stop = True
    control.should_save = False


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times every optimizer step of this process."""

    def __init__(self) -> None:
        self.began = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The first micro-batch is about to run."""
        self.began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The optimizer has stepped."""
        self.seconds.append(time.perf_counter() - self.began)

    @property
    def median(self) -> float | None:
        """Median seconds a step; None where this process made no step."""
        return statistics.median(self.seconds) if self.seconds else None


class WriteLive(TrainerCallback):  # type: ignore[misc]
    """Writes what the trainer logs, with speed and memory, as a line a step, for other processes to follow.

    Steps that are trained again after a kill are written again. `memory_gib` is the peak of the first process.
    """

    def __init__(self, path: Path, clock: Clock, memory: PeakMemory) -> None:
        self.path, self.clock, self.memory = path, clock, memory

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End a line that was cut off when the process was killed."""
        if state.is_world_process_zero and self.path.exists():
            self._write("\n")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add the step."""
        entry = state.log_history[-1]
        if not state.is_world_process_zero or "loss" not in entry or not self.clock.seconds:
            return
        peak = self.memory.so_far()
        further = {"tokens_per_second": entry["tokens"] / max(self.clock.seconds[-1], 1e-9)}
        further |= {"memory_gib": peak / GIB} if peak else {}
        self._write(json.dumps(entry | further) + "\n")

    def _write(self, text: str) -> None:
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:  # not worth ending a training for
            file.write(text)


class ShowProgress(TrainerCallback):  # type: ignore[misc]
    """A progress bar with rate, time left and the current loss."""

    def __init__(self, title: str, steps: int) -> None:
        self.bar = Progress(title, steps, unit="step")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start where a resumed run stands."""
        self.bar.start(done=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the newest loss."""
        last = state.log_history[-1]
        note = f"loss {last['loss']:.4g}" if "loss" in last else ""
        if last.get("answer_tokens"):
            note += f"  answers {last['answer_hits'] / last['answer_tokens']:.1%}"
        self.bar.advance(to=state.global_step, note=note)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self.bar.stop()
