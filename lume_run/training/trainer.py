"""The only subclass of `transformers.Trainer`: feeds a schedule to a method.

Batching, order and losses are ours; the loop, the optimizer, checkpoints and resume are the
library's. A method returns a micro-batch's share of the step's loss, so micro-batch losses are
summed, never averaged again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer as HubTrainer
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lume_run.common.errors import RunError
from lume_run.config.settings import OptimizationSettings, TrainerSettings
from lume_run.launch.collectives import all_reduce_sum, any_rank
from lume_run.launch.world import World
from lume_run.methods.base import Method
from lume_run.models.rows.batch import Batch
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


def training_arguments(
    phase: OptimizationSettings,
    trainer: TrainerSettings,
    schedule: Schedule,
    *,
    folder: Path,
    seed: int,
    device: torch.device,
    bf16: bool,
    deepspeed: dict[str, Any] | None = None,
) -> TrainingArguments:
    """Our settings in the library's words. Build it BEFORE loading a model: ZeRO-3 shards at load only then."""
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,  # the schedule already holds all epochs
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.accumulation,
        **_optimizer_arguments(phase, schedule.steps),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=trainer.checkpoint_every,
        seed=seed,
        data_seed=seed,
        use_cpu=device.type == "cpu",
        bf16=bf16,
        deepspeed=deepspeed,
        ddp_find_unused_parameters=False,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        disable_tqdm=True,
        eval_strategy="no",
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # one process drives one GPU; the library would wrap the model in DataParallel
    return args


def _optimizer_arguments(phase: OptimizationSettings, steps: int) -> dict[str, Any]:
    return {
        "learning_rate": phase.learning_rate,
        "lr_scheduler_type": phase.schedule,
        "warmup_steps": math.ceil(phase.warmup * steps),
        "weight_decay": phase.weight_decay,
        "adam_beta2": phase.beta2,
        "max_grad_norm": phase.max_grad_norm,
        "optim": phase.optimizer,
    }


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
        self._parts: dict[str, Tensor] = {}  # of the step under way; read once a step, not once a micro-batch
        self._tokens = 0  # of its rows that count, without padding
        self.loss_is_scaled_for_ga = True  # shares of a step's loss are summed as they are

    def get_train_dataloader(self) -> DataLoader[MicroBatch]:
        """The schedule in order, collated as it goes."""
        return DataLoader(
            list(self.schedule.micro_batches),  # type: ignore[arg-type]
            batch_size=1,
            shuffle=False,
            collate_fn=lambda micro_batches: {"batch": self._collate(micro_batches[0])},
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Batch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The micro-batch's share of the step's loss. Raises Diverged, naming the rows, for a non-finite one."""
        on_host = inputs["batch"]  # counting here needs no synchronisation with the device
        self._tokens += int(on_host.attention_mask[on_host.role >= 0].sum())
        batch = on_host.to(self.args.device)
        last: dict[str, float] = next(reversed(self.state.log_history), {})
        signals = read_signals(model, batch, needs=self.method.needs, reference=self.reference, last=last)
        losses = self.method(signals)
        if any_rank(not torch.isfinite(losses.total), self.args.device):
            bad = (~signals.logps.isfinite().all(1)).tolist()
            keys = [key for key, wrong in zip(batch.keys, bad, strict=True) if wrong] or batch.keys
            what, step = describe_nonfinite("the loss", losses.total), self.state.global_step + 1
            raise Diverged(self.method.name, what, step, keys, model_is_broken=any_rank(any(bad), self.args.device))
        for name, value in losses.parts.items():
            self._parts[name] = self._parts[name] + value.detach() if name in self._parts else value.detach()
        scaled: Tensor = losses.total * self.args.world_size  # data-parallel averages over ranks, we want the sum
        return scaled

    def training_step(
        self, model: nn.Module, inputs: dict[str, Batch], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch. Raises Diverged where its gradient is not finite."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)  # of none at all 0: ZeRO keeps them elsewhere
        if any_rank(not torch.isfinite(norm), self.args.device):
            what, step = describe_nonfinite("the gradient norm", norm), self.state.global_step + 1
            raise Diverged(self.method.name, what, step, inputs["batch"].keys, model_is_broken=False)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the gradient; on CPUs its norm is summed in float64, as DeepSpeed does, so that launch modes agree.

        There torch adds up float32 squares one after another: of a million it loses 4e-5 of the norm.
        """
        if self.is_deepspeed_enabled or self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = float64_norm(gradients).float()
        nn.utils.clip_grads_with_norm_(model.parameters(), self.args.max_grad_norm, norm)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts of the step, and its tokens, to what the library logs."""
        if "loss" in logs:
            logs |= all_reduce_sum({**self._parts, "tokens": torch.tensor(float(self._tokens))}, self.args.device)
            self._parts.clear()
            self._tokens = 0
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


def float64_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, summed in float64."""
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def describe_nonfinite(what: str, value: Tensor) -> str:
    """What is not finite, where this rank knows."""
    return f"{what} is {value.item()}" + (" here, not finite on another rank" if value.isfinite() else "")
