"""What to change when memory ran out.

Settings are ordered by what they cost: first those that only take time, then those that round, last those that train
something else. Each comes with the bytes that it saves by the estimate.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from lume_run.common.devices import GIB, is_out_of_memory
from lume_run.common.errors import RunError
from lume_run.config.settings import Settings
from lume_run.launch.world import World
from lume_run.pipeline.memory.budget import with_phase
from lume_run.pipeline.memory.estimate import evaluation_estimate
from lume_run.pipeline.memory.launch_mode import estimator_of
from lume_run.pipeline.memory.sizes import phase_of
from lume_run.pipeline.run import Run

REMEDIES_SHOWN = 3  # settings in a message
INSTALLED_BY = {"deepspeed": "deepspeed", "bitsandbytes": "'lume-run[quantize]'"}  # what pip takes, by module
LEAST_SAVING = 0.02  # of the estimate: what saves less is not worth a line
ASSUMED_GPUS = 8  # GPUs that a plan assumes where there are none
MODES_BY_MEMORY = ("single", "ddp", "zero1", "zero2", "zero3", "zero3_offload")  # each needs less than the one before


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A setting to change, as on the command line, what it costs, and the bytes it saves on a device."""

    setting: str
    cost: str
    saved: float

    def __str__(self) -> str:
        return f"{self.setting}: about {format_bytes(self.saved)} less; {self.cost}"


def format_bytes(size: float) -> str:
    """Bytes in units that users read."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"


@contextmanager
def explain_out_of_memory(run: Run, stage: str, name: str) -> Iterator[None]:
    """Turn an allocation that failed while an artifact is made into a RunError that names what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors, which the next job of a sweep needs
        if (compiler := sys.modules.get("torch._dynamo.utils")) is not None:
            atexit.unregister(compiler.dump_compile_times)  # it imports at exit, for which there may be no memory left
        stage = "reference" if name == "reference" else stage
        raise RunError(out_of_memory_message(run, stage, name, str(error))) from error


def out_of_memory_message(run: Run, stage: str, name: str, reason: str) -> str:
    """Where memory ran out, the allocator's reason, and the cheapest settings to change."""
    first = reason.strip().split("\n")[0].split(". ")[0]
    lines = [f"Out of memory while making {name} on {run.device_type}: {first or 'the allocator gave no reason'}."]
    if cheapest := remedies(run, stage):
        lines.append("The cheapest settings to change, with what they save of a device's memory by the estimate:")
        lines += [f"  - {remedy}" for remedy in cheapest]
    else:
        lines.append("No setting would save much: it needs a device, or a machine, with more memory.")
    return "\n".join(lines)


def remedies(run: Run, stage: str) -> list[Remedy]:
    """The cheapest settings to change, of those that are not yet set and save something worth a line."""
    if stage in ("evaluate", "reference"):  # which runs the frozen target in batches as evaluation does
        candidates = _evaluation_remedies(run)
    else:
        candidates = _training_remedies(run, "unlearn" if stage == "unlearn" else "train")
    return list(islice(candidates, REMEDIES_SHOWN))


def _training_remedies(run: Run, stage: str) -> Iterator[Remedy]:
    now = estimator_of(run, stage)
    if now is None:
        return
    least, settings = LEAST_SAVING * now.total(run.world), now.resolved(run.world)
    for change in _changes(run, settings, stage, now.lengths.tokens):
        other = estimator_of(run, stage, change.settings) if change.settings is not settings else now
        assert other is not None  # the same model
        saved = now.total(run.world) - other.total(change.world)
        if saved > least:
            yield Remedy(setting=change.setting, cost=change.cost, saved=saved)


class Change(NamedTuple):
    """A setting as on the command line, what it costs, and the settings and the world with it."""

    setting: str
    cost: str
    settings: Settings
    world: World


def _changes(run: Run, settings: Settings, stage: str, longest: int) -> Iterator[Change]:
    """Settings to change, the cheapest first; `longest` is the longest row [tokens]."""
    yield from _lossless_changes(run, settings, stage, longest)
    if run.device_type == "cuda":
        yield from _lossy_changes(run, settings, stage)
    yield from _adapter_changes(run, settings, stage)


def _lossless_changes(run: Run, settings: Settings, stage: str, longest: int) -> Iterator[Change]:
    """Changes that give the same results and take time."""
    world = run.world
    changed = with_phase(settings, stage, micro_batch_tokens=longest)
    yield Change(f"trainer.{stage}.micro_batch_tokens={longest}", "same results, slower", changed, world)
    if not settings.model.gradient_checkpointing:
        changed = _with_model(settings, gradient_checkpointing=True)
        yield Change("model.gradient_checkpointing=true", "same results, about a third slower", changed, world)
    shares = run.device_type == "cuda" and world.size > 1 and can_share(settings, stage)
    for mode in ("zero2", "zero3") if shares else ():
        if MODES_BY_MEMORY.index(mode) > MODES_BY_MEMORY.index(world.mode):
            setting = f"launch={mode}{_install_hint('deepspeed')}"
            yield Change(setting, "same results, slower", settings, replace(world, mode=mode))


def can_share(settings: Settings, stage: str) -> bool:
    """Whether devices may share out what a stage holds: weights are perturbed along whole gradients."""
    return phase_of(settings, stage).settings.sharpness is None


def _lossy_changes(run: Run, settings: Settings, stage: str) -> Iterator[Change]:
    """Changes that have a GPU hold fewer bits, or leave states to the host."""
    world = run.world
    phase, _, adapters_train = phase_of(settings, stage)
    if settings.model.dtype == "float32":
        yield Change("model.dtype=auto", "bfloat16: three digits", _with_model(settings, dtype="bfloat16"), world)
    if phase.optimizer.startswith("adamw_torch"):
        changed = with_phase(settings, stage, optimizer="adamw_bnb_8bit")
        setting = f"trainer.{stage}.optimizer=adamw_bnb_8bit{_install_hint('bitsandbytes')}"
        yield Change(setting, "moments of 8 bits", changed, world)
    if adapters_train and settings.model.quantize == "none":
        changed = _with_model(settings, quantize="4bit")
        setting = f"model.quantize=4bit{_install_hint('bitsandbytes')}"
        yield Change(setting, "the frozen base has 4 bits", changed, world)
    if world.mode != "zero3_offload" and can_share(settings, stage):
        cost = "same results, several times slower, states in host memory"
        setting = f"launch=zero3_offload{_install_hint('deepspeed')}"
        yield Change(setting, cost, settings, replace(world, mode="zero3_offload"))


def _adapter_changes(run: Run, settings: Settings, stage: str) -> Iterator[Change]:
    """The change that trains something else."""
    model = settings.model
    _, needs, adapters_train = phase_of(settings, stage)
    if not adapters_train and model.trainable is None and (stage == "unlearn" or model.path is not None):
        changed = _with_model(settings, lora=replace(model.lora, enabled=True))
        cost = "trains adapters instead of all weights: other results"
        cost += ", and no frozen copy is needed" if needs.live_reference and not settings.sequence.keeps_first else ""
        yield Change("model.lora=true", cost, changed, run.world)


def _evaluation_remedies(run: Run) -> Iterator[Remedy]:
    """Settings of evaluation, whose batches were already halved down to one row."""
    estimator = estimator_of(run)
    if estimator is None:
        return
    sizes, compute, evaluator = estimator.sizes, estimator.compute, run.settings.evaluator
    total = sum(evaluation_estimate(run.settings, sizes, compute).values())

    def saved_bytes(**changed: Any) -> float:
        other = replace(run.settings, evaluator=replace(evaluator, **changed))
        return total - sum(evaluation_estimate(other, sizes, compute).values())

    if run.device_type == "cuda" and run.settings.model.dtype == "float32":
        yield Remedy(setting="model.dtype=auto", cost="bfloat16: three digits", saved=total / 2)
    if evaluator.batch_tokens > 64:
        least = max(64, evaluator.batch_tokens // 8)
        cost = "same results, slower"
        yield Remedy(setting=f"evaluator.batch_tokens={least}", cost=cost, saved=saved_bytes(batch_tokens=least))
    if evaluator.max_new_tokens > 1:
        fewer = evaluator.max_new_tokens // 2
        cost = "answers are cut shorter: other scores"
        yield Remedy(setting=f"evaluator.max_new_tokens={fewer}", cost=cost, saved=saved_bytes(max_new_tokens=fewer))
    if run.device_type == "cuda":
        yield Remedy(setting="launch.device=cpu stages=[evaluate]", cost="many times slower", saved=total)


def _with_model(settings: Settings, **changed: Any) -> Settings:
    return replace(settings, model=replace(settings.model, **changed))


def _install_hint(module: str) -> str:
    """What to install first, if anything."""
    return "" if importlib.util.find_spec(module) else f" (pip install {INSTALLED_BY[module]})"
