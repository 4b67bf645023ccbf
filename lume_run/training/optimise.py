"""One optimisation, from a model folder into a model folder: fine-tuning, unlearning, adapters to merge.

It may be killed at any moment and resumes from its last complete checkpoint. One that diverges leaves the last good
weights and says so in `outcome.json`, so that a collapse is measured like everything else.
"""

from __future__ import annotations

import pickle
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import nn

from lume_run.common.console import console
from lume_run.common.devices import PeakMemory, dtype_of, rank
from lume_run.common.errors import RunError
from lume_run.common.files import LIVE, write_json
from lume_run.common.text import first_line
from lume_run.launch.collectives import all_reduce_max, any_rank, barrier
from lume_run.launch.preemption import Preempted, looks_itself
from lume_run.methods.base import Method
from lume_run.methods.likelihood import FineTune
from lume_run.methods.objective import Objective
from lume_run.models.adapters import with_adapters
from lume_run.models.hub import loaded_revision
from lume_run.models.load import config_of, context_limit, load_model, save_model
from lume_run.models.rows.packed import packs_rows
from lume_run.models.rows.tokenise import TokenRow
from lume_run.models.tokenizer import load_tokenizer
from lume_run.training.build import build_trainer, plain_text
from lume_run.training.callbacks import Clock, StayWithin, StopAtBound, StopOnSignal, WriteLive
from lume_run.training.checkpoints import checkpoint_to_resume, step_of, whole_checkpoints
from lume_run.training.job import TrainingJob
from lume_run.training.micro_batches import DEFAULT_TOKENS
from lume_run.training.rows import bind_tokens, token_rows
from lume_run.training.schedule import Schedule, build_schedule
from lume_run.training.snapshots import KeepSnapshots
from lume_run.training.trainer import Diverged, UnlearnTrainer
from lume_run.training.zero import (
    load_unsharded,
    read_weights,
    reshard_checkpoint,
    save_trained_model,
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an optimisation went. `diverged` and `stopped` say in words why it ended before its last step."""

    steps: int
    planned_steps: int
    seconds_per_step: float | None
    peak_memory_bytes: int | None
    diverged: str | None = None
    stopped: str | None = None


def optimise(job: TrainingJob, folder: Path, out: Path) -> None:
    """Train into the folder `out`, resuming from the last complete checkpoint in `folder`.

    Fine-tuning that diverges raises RunError, for there is no target to unlearn from then, unless snapshots are kept.
    """
    settings, checkpoints, history = job.model, folder / "checkpoints", folder / "history.json"
    if history.exists():  # written after the model: killed while the checkpoints were being removed
        shutil.rmtree(checkpoints, ignore_errors=True)
        return
    tokenizer = load_tokenizer(job.start, settings)
    job = replace(job, method=bind_tokens(job.method, tokenizer))
    rows = training_rows(job, tokenizer, context_limit(config_of(job.start, settings), settings))
    schedule, resume = _build_schedule(job, rows), checkpoint_to_resume(checkpoints, job.world)
    clock, bound, stop_signal = Clock(), _bound(job.method), StopOnSignal()
    with PeakMemory(job.device) as memory:
        pad_id, text = int(tokenizer.pad_token_id), plain_text(job, tokenizer)
        trainer = build_trainer(job, rows, schedule, pad_id, checkpoints, text)
        keeper = KeepSnapshots(trainer, tokenizer, out, job.snapshots, lambda: load_start(job))
        live = WriteLive(folder / LIVE, clock, memory)
        for callback in filter(None, (clock, stop_signal, live, keeper, bound)):
            trainer.add_callback(callback)
        diverged = _train(trainer, resume)
    if stop_signal.stopped:
        raise Preempted(f"Stopped after step {trainer.state.global_step}; the same command resumes from there.")
    if diverged is not None and isinstance(job.method, FineTune) and not job.snapshots:
        raise diverged
    kept = keeper.fill() if job.snapshots else _save_good(job, trainer, tokenizer, diverged, out)
    outcome = Outcome(
        steps=kept,
        planned_steps=schedule.steps,
        seconds_per_step=clock.median,
        peak_memory_bytes=int(all_reduce_max(memory.peak or 0, trainer.args.device)) or None,
        diverged=diverged.reason if diverged else None,
        stopped=reason_to_stop(trainer, bound),
    )
    barrier()  # no rank reads a checkpoint any more
    if rank() == 0:
        write_json(folder / "outcome.json", asdict(outcome))
        write_json(history, [entry for entry in trainer.state.log_history if "loss" in entry])
        shutil.rmtree(checkpoints, ignore_errors=True)


def _build_schedule(job: TrainingJob, rows: list[TokenRow]) -> Schedule:
    phase, tokens = job.phase, job.phase.micro_batch_tokens
    packs = packs_rows(config_of(job.start, job.model), job.model.attention)
    return build_schedule(
        rows,
        batch_size=phase.batch_size,
        micro_batch_tokens=DEFAULT_TOKENS if tokens == "auto" else tokens,
        micro_batch_size=phase.micro_batch_size,
        padded=not packs or job.method.needs.every_position,
        epochs=phase.epochs,
        seed=job.seed,
        retain_ratio=phase.retain_ratio,
        partners_by_index=phase.retain_partners == "by_index",
        chunk_size=phase.chunk_size,
        alternate=phase.alternate,
        pad_to=job.method.needs.pad_to,
        world_size=job.world.size,
        rank=rank(),
    )


def reason_to_stop(trainer: UnlearnTrainer, bound: StopAtBound | None) -> str | None:
    """Which bound ended training, in words."""
    within = within_of(trainer)
    return (within.reason if within else None) or (bound.reason if bound else None)


def within_of(trainer: UnlearnTrainer) -> StayWithin | None:
    """What keeps the model near the one before, where something does."""
    return next((entry for entry in trainer.callback_handler.callbacks if isinstance(entry, StayWithin)), None)


def _bound(method: Method) -> StopAtBound | None:
    return StopAtBound(method.stop_when) if isinstance(method, Objective) else None


@looks_itself()
def _train(trainer: UnlearnTrainer, resume: Path | None) -> Diverged | None:
    """Run the loop; returns the error it diverged with, if it did."""
    if resume is not None:
        console.print(f"  resuming from {resume.name}")
        reshard_checkpoint(trainer, resume)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        # The last step has no next one that would notice.
        if any_rank(not all_finite(trainer.model), trainer.args.device):
            step = trainer.state.global_step
            raise Diverged(trainer.method.name, "the weights are not finite", step, ["all"], model_is_broken=True)
    except pickle.UnpicklingError as error:
        raise RunError(
            f"{resume} holds more than tensors and plain values, which could run code: {first_line(str(error))}\n"
            f"  - delete {resume}: the next older checkpoint is taken"
        ) from error
    except Diverged as error:
        console.print(f"  [bold red]diverged:[/] {escape(error.reason)}; the last good weights take its place")
        return error
    return None


@looks_itself()  # what was trained is written down before the process ends
def _save_good(job: TrainingJob, trainer: UnlearnTrainer, tokenizer: Any, diverged: Diverged | None, out: Path) -> int:
    """Write the last good weights and return their step: the trained ones, a checkpoint's, or those of the start."""
    device = trainer.args.device

    def finite() -> bool:
        return not any_rank(not all_finite(trainer.model), device)

    within = within_of(trainer)
    step: int = within.kept if within and within.reason else trainer.state.global_step
    good = diverged is None or (not diverged.model_is_broken and finite())
    for checkpoint in () if good else whole_checkpoints(Path(trainer.args.output_dir)):
        read_weights(trainer, checkpoint)
        if good := finite():
            step = step_of(checkpoint)
            break
    if good:
        save_trained_model(
            trainer,
            tokenizer,
            out,
            keep_adapters=job.keep_adapters,
            adapter=out.parent / "adapter" if job.saves_adapter else None,
            reload=lambda: load_start(job),
        )
        return step
    console.print("  [yellow]no good checkpoint was written; the model from before takes its place[/]")
    if rank() == 0:
        save_model(load_start(job), tokenizer, out, keep_adapters=job.keep_adapters)
    return 0


def load_start(job: TrainingJob) -> nn.Module:
    """The model that training began with, whole and unquantised; in host memory, for the device is full."""
    settings = job.model
    compute = dtype_of(settings.dtype, job.device)
    with load_unsharded():
        model = load_model(job.start, settings, torch.device("cpu"), dtype=compute)
    revision = loaded_revision(job.start, settings)
    return with_adapters(model, settings.lora, job.seed, revision=revision) if job.adapters else model


def all_finite(model: nn.Module) -> bool:
    """Whether every weight is a finite number."""
    local = (getattr(parameter, "ds_tensor", parameter) for parameter in model.parameters())  # ZeRO-3: this rank's part
    return all(bool(torch.isfinite(weights).all()) for weights in local)


def training_rows(job: TrainingJob, tokenizer: Any, limit: int) -> list[TokenRow]:
    """The rows to train on, of at most `limit` tokens or what the phase allows; says how many had to be shortened."""
    limit = min(limit, job.phase.max_tokens or limit)
    learn = isinstance(job.method, FineTune)
    needs = job.method.needs
    rows = token_rows(job.examples, tokenizer, needs=needs, max_tokens=limit, learn_documents=learn)
    if cut := sum(row.truncated > 0 for row in rows):
        console.print(
            f"  [yellow]{cut} of {len(rows)} rows are longer than {limit} tokens; "
            "their prompts lose their oldest words[/]"
        )
    return rows
