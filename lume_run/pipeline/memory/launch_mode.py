"""Which launch mode fits: what `launch=auto` decides."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from heapq import nlargest
from typing import Any

from lume_run.common.devices import DTYPE_BYTES, GIB, dtype_name_of
from lume_run.common.errors import LumeError
from lume_run.common.lazy import torch
from lume_run.config.settings import LaunchSettings, Settings
from lume_run.launch import slurm
from lume_run.launch.world import World
from lume_run.models.hub import is_adapter
from lume_run.models.placement import USABLE_MEMORY_SHARE
from lume_run.models.rows.packed import packs_rows
from lume_run.pipeline.memory.budget import MOST_TOKENS, Estimator
from lume_run.pipeline.memory.estimate import host_estimate, host_memory
from lume_run.pipeline.memory.sizes import Lengths, phase_of, sizes_of, stages_of
from lume_run.pipeline.run import Run
from lume_run.training.micro_batches import DEFAULT_TOKENS

CHARACTERS_A_TOKEN = 3  # of English, counted low; digits and names take more tokens
MODES = ("ddp", "zero2", "zero3", "zero3_offload")  # what `auto` picks from, the fastest first


def estimator_of(run: Run, stage: str = "", settings: Settings | None = None) -> Estimator | None:
    """Estimates of a run (with other `settings`, if given); None where the model's config is unavailable.

    Without a `stage` of the one that takes most of a single device.
    """
    config = run.model_config.config
    if config is None:
        return None
    settings = settings or run.settings
    if not stage:
        estimators = [_estimator(run, settings, config, stage) for stage in stages_of(settings)]
        return max(estimators, key=lambda estimator: estimator.total(World()))
    return _estimator(run, settings, config, stage)


def _estimator(run: Run, settings: Settings, config: Any, stage: str) -> Estimator:
    packs = packs_rows(config, settings.model.attention)
    rows = phase_of(settings, stage).settings.micro_batch_size if packs else None
    return Estimator(
        settings=settings,
        stage=stage,
        sizes=sizes_of(settings, config, stage),
        lengths=lengths_of(run, rows or 1),
        compute=DTYPE_BYTES[dtype_name_of(settings.model.dtype, run.device_type)],
        memory=device_memory(run),
        most_tokens=MOST_TOKENS if run.device_type == "cuda" else DEFAULT_TOKENS,
    )


def lengths_of(run: Run, rows: int) -> Lengths:
    """The mean of so many of the run's longest rows, by their characters, truncated as rows are.

    The default where there are none.
    """
    try:
        examples = (*run.data.forget, *run.data.retain)
    except LumeError:
        examples = ()
    limit = run.settings.model.max_length or 10**9
    if not examples:
        return Lengths(tokens=min(limit, Lengths().tokens), labels=min(limit, Lengths().labels))
    answers = _mean_of_longest([len(example.answer) for example in examples], rows, limit)
    tokens = _mean_of_longest([len(example.prompt) + len(example.answer) for example in examples], rows, limit)
    return Lengths(tokens=tokens, labels=answers)


def _mean_of_longest(characters: Sequence[int], rows: int, limit: int) -> int:
    """In tokens, rounded up."""
    tokens = [min(limit, count // CHARACTERS_A_TOKEN + 2) for count in nlargest(rows, characters)]
    return -(-sum(tokens) // len(tokens))


def choose_world(run: Run) -> World:
    """The processes of a run, from its launch settings, the devices here and the model's size."""
    launch = run.settings.launch
    if launch.name == "single":
        return World(why="as configured")
    device = run.device_type
    processes, nodes = processes_of(launch, device), launch.nodes or slurm.default_nodes()
    memory = device_memory(run) // (processes if device == "cpu" else 1)
    full = World(processes=processes, nodes=nodes, port=launch.port, device=device, memory=memory)
    if launch.name != "auto":
        why = "as configured" + ("; one process shares nothing" if processes * nodes == 1 else "")
        return replace(full, mode=launch.name, why=why)
    modes: tuple[str, ...] = ("single", "zero3_offload") if processes * nodes == 1 else MODES
    model = run.settings.model
    if model.quantize != "none" or is_adapter(model.path):  # which ZeRO-3 cannot share out
        modes = tuple(mode for mode in modes if not mode.startswith("zero3"))
    if run.settings.trainer.unlearn.sharpness is not None:  # which needs whole gradients on every device
        modes = modes[:1]
    worlds = [replace(full, mode=mode) for mode in modes]
    if device == "cpu" or importlib.util.find_spec("deepspeed") is None:
        return replace(worlds[0], why="a CPU" if device == "cpu" else "deepspeed is not installed")
    estimator = estimator_of(run)
    if estimator is None:
        return replace(worlds[0], why="the model's size is not known")
    return first_that_fits(estimator, worlds, device_memory(run))


def first_that_fits(estimator: Estimator, worlds: Sequence[World], device: int) -> World:
    """The first of these worlds that fits devices of so many bytes by the estimate, else the last; says why."""
    least = [estimator.least(world) for world in worlds]
    room = USABLE_MEMORY_SHARE * device
    first = next((index for index, total in enumerate(least) if total <= room), len(worlds) - 1)
    why = f"about {estimator.total(worlds[first]) / GIB:.1f} of {device / GIB:.1f} GiB a device"
    if first:
        why += f"; {worlds[first - 1].mode} would take {least[first - 1] / GIB:.1f}"
    if least[first] > room:
        why += "; no mode fits by this estimate"
    if host := host_estimate(estimator.sizes, worlds[first], estimator.compute):
        why += f"; {host / GIB:.0f} of {host_memory() / GIB:.0f} GiB of host memory"
    return replace(worlds[first], why=why)


def processes_of(launch: LaunchSettings, device: str) -> int:
    """Processes on each node: one for each visible GPU, or as configured."""
    return launch.processes or (torch.cuda.device_count() if device == "cuda" else 1)


def device_memory(run: Run) -> int:
    """Bytes of this process's GPU, or of this machine where stages run on CPUs; as the driver found them."""
    if run.world.memory is not None:
        return run.world.memory
    if run.device_type != "cuda":
        return host_memory()
    return int(torch.cuda.get_device_properties(run.device).total_memory)
