"""The three stages, each from files into files: train and unlearn optimise a model, evaluate questions one.

Everything here may be killed at any moment: optimisation goes on from its last whole checkpoint,
questioning from the records already written.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lume_run import models
from lume_run.evaluate import questions_of
from lume_run.methods.likelihood import FineTune
from lume_run.records import Example, TaskData, to_json
from lume_run.reference import ReferenceCache, live_reference
from lume_run.respond import Question, Runner, respond
from lume_run.runtime import console, device_of, dtype_of, seed_everything
from lume_run.schedule import MicroBatch, Schedule, write_schedule
from lume_run.settings import Phase, Settings
from lume_run.store import content_hash, write_json
from lume_run.text import Batch, TokenRow, collate, encode
from lume_run.trainer import (
    MarkComplete,
    Method,
    ShowProgress,
    StopWhenMemorised,
    UnlearnTrainer,
    last_checkpoint,
    training_arguments,
)


@dataclass(frozen=True)
class Run:
    """One configured run and its folder; data are loaded once, when first needed."""

    settings: Settings
    folder: Path

    @cached_property
    def data(self) -> TaskData:
        """All examples of the task."""
        loaded: TaskData = self.settings.task.load(self.settings.seed)
        return loaded

    @cached_property
    def device(self) -> torch.device:
        """Where stages run."""
        return device_of(self.settings.launch.device)

    @cached_property
    def data_hash(self) -> str:
        """Identifies the forget and retain rows."""
        return content_hash([to_json(example) for example in (*self.data.forget, *self.data.retain)])

    @cached_property
    def questions(self) -> list[Question]:
        """Everything a model is asked."""
        trained_here = not self.settings.model.is_target
        return questions_of(self.data, self.settings.evaluator, trained_here=trained_here)

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """What moves numbers besides the model: precision, attention, device kind, row length."""
        model = self.settings.model
        dtype = str(dtype_of(model.dtype, self.device)).removeprefix("torch.")
        return {
            "dtype": dtype,
            "device": self.device.type,
            "attention": model.attention,
            "max_length": model.max_length,
            "tokenizer": model.tokenizer,
        }


@dataclass(frozen=True, kw_only=True)
class Training:
    """One optimisation: what it is called, where it starts, how it steps, what it minimises over which rows."""

    title: str
    start: str
    phase: Phase
    method: Method
    adapters: bool
    forget: Sequence[Example] = ()
    retain: Sequence[Example] = ()
    cache: ReferenceCache | None = None


def token_rows(tokenizer: Any, training: Training, limit: int) -> list[TokenRow]:
    """Rows of both sides; says how many had to be shortened."""
    learn = isinstance(training.method, FineTune)
    rows = [
        encode(example, tokenizer, max_tokens=limit, learn_document=learn, is_forget=is_forget)
        for is_forget, side in ((True, training.forget), (False, training.retain))
        for example in side
    ]
    if cut := sum(row.truncated > 0 for row in rows):
        console.print(
            f"  [yellow]{cut} of {len(rows)} rows are longer than {limit} tokens; "
            "their prompts lose their oldest words[/]"
        )
    return rows


def build_reference(run: Run, target: str, folder: Path) -> None:
    """Score the forget rows with the frozen target once."""
    settings = run.settings.model
    tokenizer = models.load_tokenizer(target, settings)
    model = models.load_model(target, settings, run.device)
    limit = models.limit_of(model.config, settings)
    rows = [encode(example, tokenizer, max_tokens=limit, is_forget=True) for example in run.data.forget]
    ReferenceCache.compute(
        model, rows, pad_id=int(tokenizer.pad_token_id), batch_tokens=run.settings.evaluator.batch_tokens, folder=folder
    )


def optimise(run: Run, training: Training, folder: Path, out: Path) -> None:
    """Train into the Hugging Face folder `out`, going on from the last whole checkpoint in `folder`."""
    settings, phase = run.settings.model, training.phase
    checkpoints, history = folder / "checkpoints", folder / "history.json"
    if history.exists():  # written after the model: killed while the checkpoints were being removed
        shutil.rmtree(checkpoints, ignore_errors=True)
        return
    tokenizer = models.load_tokenizer(training.start, settings)
    config = models.config_of(training.start, trust_remote_code=settings.trust_remote_code)
    rows = token_rows(tokenizer, training, models.limit_of(config, settings))
    schedule = write_schedule(
        rows,
        batch_size=phase.batch_size,
        micro_batch_size=phase.micro_batch_size,
        epochs=phase.epochs,
        seed=run.settings.seed,
        retain_rows=training.method.needs.retain_rows,
    )
    trainer = build_trainer(run, training, rows, schedule, int(tokenizer.pad_token_id), checkpoints)
    resume = last_checkpoint(checkpoints)
    if resume is not None:
        console.print(f"  going on from {resume.name}")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    models.save(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out)
    write_json(history, [entry for entry in trainer.state.log_history if "loss" in entry])
    shutil.rmtree(checkpoints, ignore_errors=True)


def build_trainer(
    run: Run, training: Training, rows: list[TokenRow], schedule: Schedule, pad_id: int, checkpoints: Path
) -> UnlearnTrainer:
    """The trainer of one schedule, its model loaded after the arguments (ZeRO-3 shards at load only then)."""
    seed, needs = run.settings.seed, training.method.needs
    seed_everything(seed)
    half = dtype_of(run.settings.model.dtype, run.device) is torch.bfloat16
    args = training_arguments(
        training.phase, run.settings.trainer, schedule, folder=checkpoints, seed=seed, device=run.device, bf16=half
    )
    model, frozen = load_for_training(run, training)

    def batch_of(micro: MicroBatch) -> Batch:
        chosen = [rows[number] for number in micro.rows]
        batch = collate(chosen, pad_id=pad_id, totals=micro.totals, every_position=needs.every_position)
        return batch if training.cache is None else training.cache.attach(batch)

    return UnlearnTrainer(
        model=model,
        args=args,
        method=training.method,
        schedule=schedule,
        collate=batch_of,
        reference=live_reference(model, frozen) if needs.reference_logits else None,
        callbacks=callbacks_of(training, schedule),
    )


def load_for_training(run: Run, training: Training) -> tuple[nn.Module, nn.Module | None]:
    """The model to train, and the frozen copy when a live reference is needed and no adapters can be switched off.

    All weights are trained in float32 (bf16 AdamW loses updates at a learning rate of 1e-5), under
    bf16 autocast where there is bf16; frozen weights are kept in the compute dtype.
    """
    settings, seed, start = run.settings.model, run.settings.seed, training.start
    compute = dtype_of(settings.dtype, run.device)
    loaded = models.load_model(start, settings, run.device, dtype=compute if training.adapters else torch.float32)
    if settings.gradient_checkpointing:
        loaded.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loaded.enable_input_require_grads()
    model = models.with_adapters(loaded, settings.lora, seed) if training.adapters else loaded
    frozen = None
    if training.method.needs.reference_logits and not training.adapters:
        frozen = models.load_model(start, settings, run.device, dtype=compute).requires_grad_(False).eval()
    return model, frozen


def callbacks_of(training: Training, schedule: Schedule) -> list[Any]:
    """Progress, whole-checkpoint marks and, for fine-tuning, the memorisation stop."""
    found: list[Any] = [ShowProgress(training.title, schedule.steps), MarkComplete()]
    if isinstance(training.method, FineTune) and training.phase.stop_accuracy is not None:
        found.append(StopWhenMemorised(training.phase.stop_accuracy, schedule.steps_per_epoch))
    return found


def answer(run: Run, subject: str, path: str, folder: Path) -> None:
    """Put every question to the model at `path`."""
    settings, evaluator = run.settings.model, run.settings.evaluator
    model = models.load_model(path, settings, run.device)
    runner = Runner(
        model=model,
        tokenizer=models.load_tokenizer(path, settings),
        max_new_tokens=evaluator.max_new_tokens,
        max_length=models.limit_of(model.config, settings),
        batch_tokens=evaluator.batch_tokens,
    )
    respond(runner, run.questions, folder, f"evaluate {subject}")
