"""What a device must hold while unlearning, in each launch mode, and which mode that speaks for.

Bytes follow ZeRO (Rajbhandari et al., arXiv:1910.02054): with N devices stage 1 divides optimizer states by N, stage 2
gradients too, stage 3 weights too. Activations and logits are rough; measure where it matters.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from lume_run import models
from lume_run.parallel import World
from lume_run.runtime import dtype_of
from lume_run.settings import Launch, Settings
from lume_run.stages import Run

GIB = 2**30
FILLED = 0.9  # of a device's memory: allocators and kernels want the rest
MOMENT_BYTES = {"sgd": 0, "adafactor": 0, "paged_adamw_8bit": 2}  # a trained weight's; 8 with other optimizers
TOKENS = 512  # of a row whose length nobody limited
MODES = ("ddp", "zero2", "zero3", "zero3_offload")  # what `auto` picks from, the fastest first


def memory_estimate(settings: Settings, weightless: nn.Module, compute: int, world: World) -> dict[str, float]:
    """Bytes on one device while unlearning, by what takes them.

    `compute` bytes hold a number of the compute dtype. Activations count about 16 residual-stream vectors a
    token and layer (one with gradient checkpointing), logits three float32 copies at 64 label positions a row.
    Offloaded weights and states are in host memory; about two layers of weights are on the device at a time.
    """
    model, phase, needs = settings.model, settings.trainer.unlearn, settings.method.needs
    config: Any = weightless.config
    models.choose_weights(weightless, model.trainable, needs)
    parameters, trained = (models.count_parameters(weightless, trainable=only) for only in (False, True))
    adapters = 2 * model.lora.rank * config.hidden_size * 7 * config.num_hidden_layers if model.lora.enabled else 0
    trained = adapters or trained
    tokens = phase.micro_batch_size * min(model.max_length or TOKENS, TOKENS)
    vectors = 1 if model.gradient_checkpointing else 16
    states, gradients, weights = (world.size if world.stage >= stage else 1 for stage in (1, 2, 3))
    offload = world.mode == "zero3_offload"
    whole = 4 if not (adapters or world.stage) else compute  # bytes of a weight that is computed with
    frozen = parameters * compute if needs.live_reference and not adapters else 0
    layer = parameters / max(1, config.num_hidden_layers)
    return {
        "weights": 2 * layer * whole if offload else parameters * whole / weights,
        "adapters": adapters * 4,
        "gradients": trained * 4 / gradients,
        "float32 copies": 0 if offload or not world.stage else trained * 4 / states,
        "optimizer states": 0 if offload else trained * MOMENT_BYTES.get(phase.optimizer, 8) / states,
        "activations": tokens * config.num_hidden_layers * config.hidden_size * vectors * compute,
        "logits": phase.micro_batch_size * 64 * config.vocab_size * 4 * 3 if needs.logits else 0,
        "frozen reference": 2 * layer * compute if offload and frozen else frozen / weights,
    }


def chosen_world(run: Run) -> World:
    """The processes of a run, from its launch settings, the devices here and the model's size."""
    launch = run.settings.launch
    processes, nodes = processes_of(launch, run.device.type), launch.nodes
    if launch.name != "auto":
        one = replace(World(), mode=launch.name, processes=1 if launch.name == "single" else processes, nodes=nodes)
        return replace(one, port=launch.port, why="as configured")
    alone = processes * nodes == 1
    modes = ("single", "zero3_offload") if alone else MODES
    if run.device.type == "cpu" or importlib.util.find_spec("deepspeed") is None:
        why = "a CPU" if run.device.type == "cpu" else "deepspeed is not installed"
        return World(mode=modes[0], processes=processes, nodes=nodes, port=launch.port, why=why)
    worlds = [World(mode=mode, processes=processes, nodes=nodes, port=launch.port) for mode in modes]
    totals = totals_of(run, worlds)
    room = FILLED * device_memory(run)
    best = next((world for world in worlds if totals.get(world.mode, 0) <= room), worlds[-1])
    size = (
        f"about {totals[best.mode] / GIB:.1f} of {room / FILLED / GIB:.0f} GiB a device" if totals else "size unknown"
    )
    return replace(best, why=size)


def processes_of(launch: Launch, device: str) -> int:
    """Processes on each node: one for each visible GPU, or as configured."""
    import torch

    return launch.processes or (torch.cuda.device_count() if device == "cuda" else 1)


def device_memory(run: Run) -> int:
    """Bytes of this process's GPU."""
    import torch

    return int(torch.cuda.get_device_properties(run.device).total_memory)


def totals_of(run: Run, worlds: list[World]) -> dict[str, float]:
    """Bytes on one device by mode; nothing where the model's config cannot be had."""
    config = run.model_config[0]
    if config is None:
        return {}
    return {world.mode: sum(estimate(run, config, world).values()) for world in worlds}


def estimate(run: Run, config: Any, world: World) -> Mapping[str, float]:
    """`memory_estimate` of a run."""
    compute = dtype_of(run.settings.model.dtype, run.device).itemsize
    return memory_estimate(run.settings, models.weightless(config), compute, world)
