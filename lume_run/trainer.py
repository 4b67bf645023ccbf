"""The only subclass of `transformers.Trainer`: feeds a written schedule to a method.

Batching, order and losses are ours; the loop, the optimizer, checkpoints and resume are the
library's. A method returns a micro-batch's share of the step's loss, so micro-batch losses are
summed, never averaged again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer as HubTrainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lume_run.contracts import Losses, Needs, Signals
from lume_run.errors import RunError
from lume_run.runtime import Progress
from lume_run.schedule import MicroBatch, Schedule
from lume_run.settings import Phase, Trainer
from lume_run.signals import LogitsOf, read_signals
from lume_run.text import Batch

COMPLETE = "COMPLETE"  # written into a checkpoint folder once everything else is there


class Method(Protocol):
    """Signals in, losses out."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    @property
    def needs(self) -> Needs:
        """What must be computed for it."""
        ...

    def __call__(self, s: Signals) -> Losses:
        """The micro-batch's share of the step's loss."""
        ...


def training_arguments(
    phase: Phase, trainer: Trainer, schedule: Schedule, *, folder: Path, seed: int, device: torch.device, bf16: bool
) -> TrainingArguments:
    """Our settings in the library's words. Build it BEFORE loading a model: ZeRO-3 shards at load only then."""
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,  # the schedule already holds all epochs
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=phase.learning_rate,
        lr_scheduler_type=phase.schedule,
        warmup_steps=math.ceil(phase.warmup * schedule.steps),
        weight_decay=phase.weight_decay,
        adam_beta2=phase.beta2,
        max_grad_norm=phase.max_grad_norm,
        optim=phase.optimizer,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=trainer.checkpoint_every,
        save_total_limit=trainer.keep_checkpoints,
        seed=seed,
        data_seed=seed,
        use_cpu=device.type == "cpu",
        bf16=bf16,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        disable_tqdm=True,
        eval_strategy="no",
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # one process drives one GPU; the library would wrap the model in DataParallel
    return args


class UnlearnTrainer(HubTrainer):  # type: ignore[misc]
    """Runs one method over one schedule."""

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        method: Method,
        schedule: Schedule,
        collate: Callable[[MicroBatch], Batch],
        reference: LogitsOf | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(model=model, args=args, callbacks=list(callbacks))
        for chatter in (PrinterCallback, ProgressCallback):
            self.remove_callback(chatter)
        self.method, self.schedule, self.reference = method, schedule, reference
        self._collate = collate
        self._parts: dict[str, Tensor] = {}  # of the step under way; read once a step, not once a micro-batch
        self.loss_is_scaled_for_ga = True  # shares of a step's loss are summed as they are

    def get_train_dataloader(self) -> DataLoader[MicroBatch]:
        """The schedule in order, collated as it goes."""
        return DataLoader(
            list(self.schedule.micro_batches),  # type: ignore[arg-type]
            batch_size=1,
            shuffle=False,
            collate_fn=lambda one: {"batch": self._collate(one[0])},
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Batch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The micro-batch's share of the step's loss; a non-finite one stops the run and names its rows."""
        batch = inputs["batch"].to(self.args.device)
        losses = self.method(read_signals(model, batch, needs=self.method.needs, reference=self.reference))
        if not torch.isfinite(losses.total):
            rows = ", ".join(batch.example_ids[:8]) + (", ..." if len(batch.example_ids) > 8 else "")
            raise RunError(
                f"The loss of method '{self.method.name}' is {losses.total.item()} at step "
                f"{self.state.global_step + 1} (rows {rows}). Lower trainer.unlearn.learning_rate or epochs."
            )
        for name, value in losses.parts.items():
            self._parts[name] = self._parts[name] + value.detach() if name in self._parts else value.detach()
        scaled: Tensor = losses.total * self.args.world_size  # data-parallel averages over ranks, we want the sum
        return scaled

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts of the step to what the library logs."""
        if "loss" in logs:
            logs |= {name: float(value) for name, value in self._parts.items()}
            self._parts.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted here; the library would look for a key our batches do not have."""
        return 0


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint once it is whole, so that a half-written one is never resumed from."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called after everything of the checkpoint was written."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


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
            control.should_training_stop = True


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


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
