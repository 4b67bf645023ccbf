"""Steps of unlearning by the trainer that runs have: tokens a second, model FLOP utilisation, peak memory.

Model FLOPs of a step count each product that the loss needs once, on real tokens, as PaLM's utilisation does
(arXiv:2204.02311, appendix B); what gradient checkpointing computes again is not counted, and padding neither. Forward,
a token takes 2 for each weight of the decoder's linear layers and 4 x layers x width x row length for attention, a
predicted position 2 x width x vocabulary. Backward is twice that, and once under LoRA, whose frozen weights have no
gradient; adapters are left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lume_run.common.devices import GIB, PeakMemory, dtype_of
from lume_run.methods.needs import Role
from lume_run.models.rows.tokenise import TokenRow
from lume_run.pipeline.memory.budget import Estimator
from lume_run.pipeline.memory.launch_mode import estimator_of
from lume_run.training.build import build_trainer
from lume_run.training.callbacks import Clock
from lume_run.training.job import TrainingJob
from lume_run.training.reference import ReferenceCache
from lume_run.training.schedule import build_schedule
from speed.gaps import ProfileStep, gap_lines
from speed.shapes import Case, lume_rows, peaks_of, share_of


@dataclass(frozen=True, kw_only=True)
class TrainingSpeed:
    """One training: medians over its steps after the warm-up; peak memory is above what was held before."""

    tokens: float
    flops: float
    seconds: float
    peak: int | None
    losses: tuple[float, ...]
    profiled: ProfileStep

    @property
    def rate(self) -> float:
        """Real tokens a second."""
        return self.tokens / self.seconds


def step_flops(estimator: Estimator, rows: Sequence[TokenRow]) -> float:
    """Model FLOPs of an optimizer step over these rows, as the module's docstring counts them."""
    sizes = estimator.sizes
    forward = 0
    for row in rows:
        token = 2 * sizes.linear + 4 * sizes.layers * sizes.hidden * len(row.ids)
        forward += len(row.ids) * token + row.labels * 2 * sizes.hidden * sizes.vocabulary
    return float(forward * (2 if sizes.adapters else 3))


def measure_training(case: Case, estimator: Estimator, *, steps: int, warm_up: int) -> TrainingSpeed:
    """Train for `warm_up`, then `steps` optimizer steps, then one under the profiler."""
    run, settings = case.run, estimator.resolved(case.run.world)  # what `auto` means here
    phase = replace(settings.trainer.unlearn, epochs=1, schedule="constant", warmup=0.0)
    count = phase.batch_size * (warm_up + steps + 1)
    rows = [row for role in (Role.FORGET, Role.RETAIN) for row in lume_rows(run, count, role)]
    schedule = build_schedule(
        rows,
        batch_size=phase.batch_size,
        micro_batch_tokens=phase.micro_batch_tokens,
        micro_batch_size=phase.micro_batch_size,
        epochs=1,
        seed=0,
    )
    job = TrainingJob(
        title="throughput",
        start=str(case.folder / "model"),
        phase=phase,
        method=settings.method,
        adapters=settings.model.lora.enabled,
        examples=[],
        model=settings.model,
        trainer=settings.trainer,
        seed=run.settings.seed,
        device=run.device,
        world=run.world,
        cache=ReferenceCache({row.key: torch.zeros(row.labels) for row in rows}),
    )
    clock, profiled = Clock(), ProfileStep(warm_up + steps + 1)
    with PeakMemory(run.device) as before:
        pass
    with PeakMemory(run.device) as memory:
        trainer = build_trainer(job, rows, schedule, 1, case.folder / "checkpoints")
        for callback in (clock, profiled):
            trainer.add_callback(callback)
        trainer.train()
    return TrainingSpeed(
        tokens=sum(len(row.ids) for row in rows) / schedule.steps,
        flops=step_flops(estimator, rows) / schedule.steps,
        seconds=statistics.median(clock.seconds[warm_up : warm_up + steps]),
        peak=memory.peak - before.peak if memory.peak is not None and before.peak is not None else None,
        losses=tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
        profiled=profiled,
    )


def training_lines(case: Case, *, steps: int, warm_up: int) -> list[str]:
    """The lines to print."""
    run = case.run
    estimator = estimator_of(run)
    assert estimator is not None  # the model's config was just written
    speed = measure_training(case, estimator, steps=steps, warm_up=warm_up)
    settings, peaks = estimator.resolved(run.world), peaks_of(run.device)
    phase, again = settings.trainer.unlearn, "computed again" if settings.model.gradient_checkpointing else "kept"
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "CPU"
    dtype = str(dtype_of(run.settings.model.dtype, run.device)).removeprefix("torch.")
    mfu = share_of(speed.flops / speed.seconds, peaks[0] if peaks else None)
    held = f"{speed.peak / GIB:.2f} GiB" if speed.peak is not None else "unknown"
    return [
        f"{case.title} on {device}, {dtype}: {estimator.sizes.parameters / 1e6:,.1f} M weights",
        f"  {phase.batch_size} + {phase.batch_size} rows a step, {speed.tokens:,.0f} real tokens, "
        f"{phase.micro_batch_tokens} at most in a forward, activations {again}",
        f"  {speed.seconds:.3f} s a step, {speed.rate:,.0f} tokens/s, "
        f"{speed.flops / speed.seconds / 1e12:.3g} TFLOP/s, model FLOP utilisation {mfu}",
        f"  peak memory {held}, estimated {estimator.total(run.world) / GIB:.2f} GiB",
        f"  loss {speed.losses[0]:.4g} at the first step, {speed.losses[-1]:.4g} at the last",
        *gap_lines(speed.profiled),
    ]
