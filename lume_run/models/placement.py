"""Where the weights of an evaluated model lie: whole on each process's device, or its layers spread over a node.

Replicas answer different questions at the same time; spread layers run one after another (accelerate's device maps),
which is slower and for models that no single device holds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from lume_run.common.devices import GIB, rank, world_size
from lume_run.common.lazy import torch
from lume_run.config.settings import EvaluatorSettings
from lume_run.models.weights import parameters_of

USABLE_MEMORY_SHARE = 0.9  # of a device's memory; activations, logits and the allocator want the rest


@dataclass(frozen=True, kw_only=True)
class Placement:
    """`rooms`: bytes of weights for each GPU number and "cpu", of spread layers; None with replicas."""

    why: str
    rooms: Mapping[int | str, int] | None = None
    offloads: bool = False

    def __str__(self) -> str:
        return f"{'replicas' if self.rooms is None else 'spread'} ({self.why})"

    @property
    def gpus(self) -> int:
        """Over how many GPUs layers are spread; 0 with replicas."""
        return sum(name != "cpu" for name in self.rooms or ())

    @property
    def share(self) -> tuple[int, int] | None:
        """(which share of the questions is this process's, how many there are); None where it has none.

        One process answers for its whole node where layers are spread.
        """
        if self.rooms is None:
            return rank(), world_size()
        local, processes = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return None if local else (rank() // processes, world_size() // processes)


def placement_of(evaluator: EvaluatorSettings, config: Any, device_type: str, bytes_each: int) -> Placement:
    """The placement of a model of this config (None: unknown), as configured or by its size.

    `bytes_each`: of a weight.
    """
    if evaluator.placement == "replicas":
        return Placement(why="as configured")
    gpus = device_bytes() if device_type == "cuda" else {}
    if evaluator.placement == "auto" and not gpus:
        return Placement(why="a CPU")
    weights = cache = 0
    if config is not None:
        weights, cache = weight_and_cache_bytes(config, bytes_each, evaluator.batch_tokens)
    size = f"{weights / GIB:.1f} GiB of weights and {cache / GIB:.1f} GiB of cache" if weights else "size unknown"
    if evaluator.placement == "auto":
        if not weights:
            return Placement(why=size)
        if weights + cache <= USABLE_MEMORY_SHARE * min(gpus.values()):
            return Placement(why=f"{size} on a device of {min(gpus.values()) / GIB:.0f} GiB")
    kept = weights / (weights + cache) if weights else 0.5  # the layers' cache lies with the layers
    rooms: dict[int | str, int] = {number: int(USABLE_MEMORY_SHARE * kept * total) for number, total in gpus.items()}
    on_gpus = sum(rooms.values())
    rooms["cpu"] = int(USABLE_MEMORY_SHARE * psutil.virtual_memory().available)
    room = on_gpus if gpus else rooms["cpu"]
    over = weights > room
    where = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)} of {min(gpus.values()) / GIB:.0f} GiB" if gpus else "host memory"
    beyond = f", and {'host memory or ' if gpus else ''}disk for the rest" if over else ""
    return Placement(why=f"{size} on {where}{beyond}", rooms=rooms, offloads=over)


def device_bytes() -> dict[int, int]:
    """Memory of every visible GPU [bytes]."""
    count = torch.cuda.device_count()
    return {number: int(torch.cuda.get_device_properties(number).total_memory) for number in range(count)}


def weight_and_cache_bytes(config: Any, itemsize: int, tokens: int) -> tuple[int, int]:
    """(weights, keys and values of so many tokens) [bytes] of a model of this transformers config."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * width * tokens
    return parameters_of(config) * itemsize, cache * itemsize
