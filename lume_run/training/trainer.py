"""The only subclass of `transformers.Trainer`: feeds a schedule to a method.

Batching, order and losses are ours; the loop, the optimizer, checkpoints and resume are the
library's. A method returns a micro-batch's share of the step's loss, so micro-batch losses are
summed, never averaged again.

The host waits for the device once a step: when the gradient is complete, and before the optimizer changes a weight, all
numbers of the step are read together (`Readings`). Whether they are finite is seen then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer as HubTrainer
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lume_run.common.errors import RunError
from lume_run.launch.collectives import any_rank, is_distributed, read_together
from lume_run.launch.world import World
from lume_run.methods.base import Method, require
from lume_run.models.precision import float64_norm
from lume_run.models.rows.ahead import Ahead
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.roles import HostBatch, plan_roles
from lume_run.training.checkpoints import WRITING, atomic_checkpoint
from lume_run.training.schedule import MicroBatch, Schedule
from lume_run.training.signals import Reference, read_signals


class Diverged(RunError):
    """The loss or its gradient is not a finite number; the weights are still those of the step before.

    `model_is_broken` where they already give log-probs that are not finite.
    """

    def __init__(self, method: str, what: str, step: int, keys: Sequence[str], *, model_is_broken: bool) -> None:
        self.model_is_broken = model_is_broken
        rows = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        self.reason = f"{what} at step {step} (rows: {rows})"
        super().__init__(f"Method '{method}' diverged: {self.reason}. Lower the learning rate or the number of epochs.")


class MicroResult(NamedTuple):
    """What a micro-batch gave, on the device: its loss, and which of its rows (B,) have finite log-probabilities."""

    host: HostBatch
    loss: Tensor
    finite_rows: Tensor


class Readings(NamedTuple):
    """Numbers of a step, on the host: its loss and gradient norm here (None: the library's), what is to be logged."""

    loss: float
    norm: float | None
    logged: dict[str, float]


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
        reference: Reference | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        world: World,
        keep_checkpoints: int,
    ) -> None:
        super().__init__(model=model, args=args, callbacks=list(callbacks))
        for chatter in (PrinterCallback, ProgressCallback):
            self.remove_callback(chatter)
        self.method, self.schedule, self.reference = method, schedule, reference
        self.world, self.keep_checkpoints = world, keep_checkpoints
        self._collate = collate
        self.feeds_gpu = self.args.device.type == "cuda"  # the host has time to prepare while a step is computed
        self._ahead: Ahead[dict[str, HostBatch]] | None = None
        self._results: list[MicroResult] = []  # of the step under way, as the three below
        self._parts: dict[str, Tensor] = {}
        self._tokens = 0  # of its rows that count, without padding
        self._loss = torch.zeros((), device=self.args.device)  # as the library adds it up
        self._norm: Tensor | None = None
        self._read: Readings | None = None
        self.loss_is_scaled_for_ga = True  # shares of a step's loss are summed as they are

    def get_train_dataloader(self) -> DataLoader[MicroBatch]:
        """The schedule in order, collated as it goes."""

        def collate(micro_batches: Sequence[MicroBatch]) -> dict[str, HostBatch]:
            batch = self._collate(micro_batches[0])
            host = HostBatch(batch, plan_roles(batch, self.method.needs))
            return {"batch": host.pinned() if self.feeds_gpu else host}

        micro_batches: Any = list(self.schedule.micro_batches)
        return DataLoader(micro_batches, batch_size=1, shuffle=False, collate_fn=collate)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of a step; a GPU's host prepares those of the next one while this one is computed."""
        if self.feeds_gpu:
            if self._ahead is None or self._ahead.batches is not epoch_iterator:
                self._ahead = Ahead(epoch_iterator, depth=num_batches)
            epoch_iterator = self._ahead
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The micro-batch's share of the step's loss."""
        host: HostBatch = inputs["batch"]
        batch, plan = host.batch.to(self.args.device), host.plan.to(self.args.device)
        last: dict[str, float] = next(reversed(self.state.log_history), {})
        needs = self.method.needs
        signals = read_signals(model, batch, needs=needs, plan=plan, reference=self.reference, last=last)
        losses = self.method(signals)
        self._tokens += int(host.batch.attention_mask[host.batch.role >= 0].sum())
        for name, value in losses.parts.items():
            self._parts[name] = self._parts[name] + value.detach() if name in self._parts else value.detach()
        finite_rows = signals.logps.detach().isfinite().all(1)
        self._results.append(MicroResult(host, losses.total.detach(), finite_rows))
        if self.is_deepspeed_enabled and self.accelerator.sync_gradients:
            self._read_step(model)  # it makes the step within its backward pass
        scaled: Tensor = losses.total * self.args.world_size  # data-parallel averages over ranks, we want the sum
        return scaled

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch. After the last of a step raises Diverged as `_read_step` does."""
        loss = self.add_gradient(model, inputs["batch"])
        self._loss += loss
        if self.accelerator.sync_gradients and not self.is_deepspeed_enabled:
            self._norm = self._gradient_norm(model)
            self._read_step(model)
        return loss

    def add_gradient(self, model: nn.Module, host: HostBatch) -> Tensor:
        """Add the gradient of a micro-batch's share of the step's loss, and return that."""
        loss: Tensor = super().training_step(model, {"batch": host})
        return loss

    def _read_step(self, model: nn.Module) -> None:
        """Read all numbers of the step at once.

        Raises Diverged, naming the rows, where a loss or the gradient is not finite on some rank.
        """
        results, self._results = self._results, []
        losses, norms = [result.loss for result in results], [] if self._norm is None else [self._norm]
        parts = {**self._parts, "tokens": torch.full((), float(self._tokens), device=self.args.device)}
        wrong = [(~value.isfinite()).float() for value in (*losses, *norms)]
        here, over_ranks = read_together([self._loss, *losses, *norms], [*parts.values(), *wrong], self.args.device)
        self._parts, self._tokens, self._loss = {}, 0, torch.zeros_like(self._loss)
        logged = dict(zip(parts, over_ranks, strict=False))
        self._read = Readings(loss=here[0], norm=here[-1] if norms else None, logged=logged)
        for number, is_wrong in enumerate(over_ranks[len(parts) :]):
            if is_wrong and number < len(results):
                self._refuse_loss(results[number], here[1 + number])
            elif is_wrong:
                self._refuse_gradient(model, results)

    def _refuse_loss(self, result: MicroResult, loss: float) -> NoReturn:
        """Raise Diverged with the rows of a micro-batch that have no finite log-probabilities, with all where none."""
        bad = (~result.finite_rows).tolist()
        keys = [key for key, wrong in zip(result.host.batch.keys, bad, strict=True) if wrong] or result.host.batch.keys
        raise self._error(describe_nonfinite("the loss", loss), keys, is_broken=any_rank(any(bad), self.args.device))

    def _refuse_gradient(self, model: nn.Module, results: Sequence[MicroResult]) -> NoReturn:
        """Raise Diverged with the rows of the first micro-batch whose gradient is not finite: each is run again."""
        what = describe_nonfinite("the gradient norm", float(require(self._norm)))
        keys = [key for result in results for key in result.host.batch.keys]  # where none is so by itself
        for result in results:
            model.zero_grad()
            with self.accelerator.no_sync(model):
                UnlearnTrainer.add_gradient(self, model, result.host)
            norm = float(self._gradient_norm(model))
            if any_rank(not math.isfinite(norm), self.args.device):
                what, keys = describe_nonfinite("the gradient norm", norm), list(result.host.batch.keys)
                break
        raise self._error(what, keys, is_broken=False)

    def _error(self, what: str, keys: Sequence[str], *, is_broken: bool) -> Diverged:
        return Diverged(self.method.name, what, self.state.global_step + 1, keys, model_is_broken=is_broken)

    def _gradient_norm(self, model: nn.Module) -> Tensor:
        """The norm of the whole gradient; where a CPU clips by it in float64, as DeepSpeed does: launch modes agree."""
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if self.args.device.type != "cpu" or not self.args.max_grad_norm or not gradients:
            return nn.utils.get_total_norm(gradients)
        return float64_norm(gradients).float()

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the gradient by the norm that was computed already."""
        if self._norm is None:  # DeepSpeed clips by itself
            return super()._clip_grad_norm(model)
        nn.utils.clip_grads_with_norm_(model.parameters(), self.args.max_grad_norm, self._norm)
        return self._read.norm if self._read else None

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm as it was read; of a gradient that is not clipped too."""
        read = self._read.norm if self._read else None
        return super()._get_grad_norm(model, grad_norm=grad_norm) if read is None else read

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, *others: Any, **named: Any) -> None:
        """Have the library log the loss that was read with all else: to read it from the device would wait again."""
        if self._read is not None and not is_distributed():  # else it takes the mean over ranks
            on_host = torch.tensor(self._read.loss, dtype=tr_loss.dtype)
            tr_loss.zero_()
            tr_loss = on_host
        super()._maybe_log_save_evaluate(tr_loss, *others, **named)
        self._read = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts of the step, and its tokens, to what the library logs."""
        if "loss" in logs and self._read is not None:
            logs |= self._read.logged
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Have the library write a checkpoint that counts only when it is complete."""
        with atomic_checkpoint(Path(self.args.output_dir), self.state.global_step, self.world, self.keep_checkpoints):
            super()._save_checkpoint(model, trial)

    def _get_output_dir(self, trial: Any) -> str:
        """Where the library writes checkpoints."""
        return str(Path(self.args.output_dir) / WRITING)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted here; the library would look for a key our batches do not have."""
        return 0


def describe_nonfinite(what: str, value: float) -> str:
    """What is not finite, where this rank knows."""
    return f"{what} is {value}" + (" here, not finite on another rank" if math.isfinite(value) else "")
