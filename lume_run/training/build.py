"""The trainer of one optimisation: its arguments, its model and frozen copy, its batches and callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from lume_run.common.devices import dtype_of, seed_everything
from lume_run.common.errors import ConfigError, RunError
from lume_run.config.settings import OptimizationSettings, TrainerSettings
from lume_run.methods.likelihood import FineTune
from lume_run.methods.objective import Objective, StopWhen, keeps_frozen
from lume_run.models.adapters import with_adapters
from lume_run.models.hub import loaded_revision
from lume_run.models.layers import unwrap
from lume_run.models.load import borrow_model, copy_model
from lume_run.models.precision import checkpointing_problem
from lume_run.models.rows.batch import Batch, collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.models.weights import choose_weights
from lume_run.training.callbacks import ShowProgress, StayWithin, StopWhenMemorised
from lume_run.training.job import TrainingJob
from lume_run.training.reference import distance_from, live_reference, plain_sequences
from lume_run.training.schedule import IDLE_ROLE, MicroBatch, Schedule
from lume_run.training.sharpness import SharpnessTrainer
from lume_run.training.trainer import UnlearnTrainer
from lume_run.training.zero import (
    deepspeed_config,
    shard_frozen,
)


def build_trainer(
    job: TrainingJob,
    rows: list[TokenRow],
    schedule: Schedule,
    pad_id: int,
    checkpoints: Path,
    text: Tensor | None = None,
) -> UnlearnTrainer:
    """The trainer of one schedule, its model loaded after the arguments (ZeRO-3 shards at load only then).

    `text`: `plain_text` of the job.
    """
    seed_everything(job.seed)
    half = dtype_of(job.model.dtype, job.device) is torch.bfloat16
    args = training_arguments(
        job.phase,
        job.trainer,
        schedule,
        folder=checkpoints,
        seed=job.seed,
        device=job.device,
        bf16=half,
        deepspeed=deepspeed_config(job.world, bf16=half),
    )
    model, frozen = load_for_training(job)
    args.use_cache = bool(getattr(unwrap(model).config, "use_cache", True))  # the trainer writes it into the config
    rho = job.phase.sharpness
    kind: Callable[..., UnlearnTrainer] = UnlearnTrainer if rho is None else partial(SharpnessTrainer, rho=rho)
    return kind(
        model=model,
        args=args,
        method=job.method,
        schedule=schedule,
        collate=partial(micro_batch_tensors, job, rows, pad_id),
        reference=live_reference(model, frozen) if job.method.needs.live_reference else None,
        callbacks=[*callbacks_of(job, schedule), *bounds_of(job, text, frozen)],
        world=job.world,
        keep_checkpoints=job.trainer.keep_checkpoints,
    )


def plain_text(job: TrainingJob, tokenizer: Any) -> Tensor | None:
    """The rows of tokens on which a method is to stay near the model before; None where it need not."""
    path = job.method.stop_when.disruption_text if isinstance(job.method, Objective) else None
    return None if path is None else plain_sequences(Path(path), tokenizer)


def bounds_of(job: TrainingJob, text: Tensor | None, frozen: nn.Module | None) -> list[Any]:
    """What ends unlearning before the model is too far from the one before on a plain text, where that is bounded."""
    bounds = job.method.stop_when if isinstance(job.method, Objective) else StopWhen()
    if text is None or bounds.disruption is None:
        return []
    return [StayWithin(bounds.disruption, bounds.disruption_every, distance_from(frozen, text, job.world))]


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
        "warmup_steps": math.ceil(phase.warmup * steps) if phase.warmup_steps is None else phase.warmup_steps,
        "weight_decay": phase.weight_decay,
        "adam_beta2": phase.beta2,
        "max_grad_norm": phase.max_grad_norm,
        "optim": phase.optimizer,
    }


def micro_batch_tensors(job: TrainingJob, rows: list[TokenRow], pad_id: int, micro: MicroBatch) -> Batch:
    """The tensors of one micro-batch, with cached reference log-probs where there is a cache.

    Where an example has rows with several answers, their prompt stands once.
    """
    needs = job.method.needs
    batch = collate(
        [rows[number] for number in micro.rows],
        pad_id=pad_id,
        totals=micro.totals,
        every_position=needs.every_position,
        pad_to=needs.pad_to,
        shares=needs.shares_prompts,
    )
    batch = batch if job.cache is None else job.cache.attach(batch, needs.reference_logps)
    return replace(batch, role=torch.full_like(batch.role, IDLE_ROLE)) if micro.idle else batch


def load_for_training(job: TrainingJob) -> tuple[nn.Module, nn.Module | None]:
    """The model to train, and the frozen copy when a live reference is needed that is no model without its adapters.

    All weights are trained in float32 (bf16 AdamW loses updates at a learning rate of 1e-5), under
    bf16 autocast where there is bf16; frozen weights are kept in the compute dtype.
    """
    settings, seed, start = job.model, job.seed, job.start
    compute, needs = dtype_of(settings.dtype, job.device), job.method.needs
    kept = compute if job.adapters or job.world.stage else torch.float32  # DeepSpeed has float32 copies of its own
    loaded = (
        borrow_model(start, settings, job.device, dtype=kept, quantised=True)
        if job.adapters
        else copy_model(start, settings, job.device, dtype=kept)
    )
    if settings.gradient_checkpointing is True:
        require_checkpointing(loaded)
        loaded.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loaded.enable_input_require_grads()
    adapted = partial(with_adapters, lora=settings.lora, seed=seed, revision=loaded_revision(start, settings))
    model = adapted(loaded) if job.adapters else loaded
    choose_weights(model, job.trainable, needs)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RunError(
            "No weight is left to train: model.trainable names only weights above the layer the method reads."
        )
    frozen = None
    if keeps_frozen(job.method, needs) and (job.reference is not None or not job.adapters):
        frozen = borrow_model(job.reference or start, settings, job.device, dtype=compute).requires_grad_(False).eval()
        frozen = shard_frozen(frozen, job.world, bf16=compute is torch.bfloat16)
    return model, frozen


def require_checkpointing(model: Any) -> None:
    """ConfigError where the library cannot compute a family's layers anew in the backward pass."""
    if not model.supports_gradient_checkpointing:
        raise ConfigError([checkpointing_problem(type(model).__name__)])


def callbacks_of(job: TrainingJob, schedule: Schedule) -> list[Any]:
    """Progress and, for fine-tuning, the memorisation stop."""
    callbacks: list[Any] = [ShowProgress(job.title, schedule.steps)]
    if isinstance(job.method, FineTune) and job.phase.stop_accuracy is not None:
        callbacks.append(StopWhenMemorised(job.phase.stop_accuracy, schedule.steps_per_epoch))
    return callbacks
