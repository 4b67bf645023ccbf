"""What each rank holds while a larger model unlearns beside its reference.  Arguments: MODE MODEL OUT.

Writes `OUT/MODE-RANK.json`. Peaks are of anonymous memory: pages of the model's file, which all processes map, are the
kernel's to drop.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from torch import nn

from helpers.training import compose_method, phase, rows_for, set_up
from lume_run.common.devices import rank, world_size
from lume_run.launch.world import World
from lume_run.pipeline.rank import end_process
from lume_run.training import build, zero
from lume_run.training.zero import deepspeed_config

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
METHOD = "kl"  # reads whole distributions of a live reference


class Peak:
    """The most memory [bytes] that is this process's alone since it began, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.bytes = 0
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._ended = threading.Event()
        self._watch.start()

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            self.bytes = max(self.bytes, own_memory())

    def end(self) -> int:
        self._ended.set()
        self._watch.join()
        return max(self.bytes, own_memory())


def give_back_what_is_freed() -> None:
    """Have the allocator return freed memory to the system, so that a peak is what was held at once."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**18)
    libc.mallopt(M_TRIM_THRESHOLD, 2**17)
    libc.malloc_trim(0)


def own_memory() -> int:
    """Bytes of memory that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n")
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


def held(model: nn.Module) -> int:
    """Bytes of weights in this process: whole ones, and its parts of those that ZeRO-3 shares out."""
    parts = (getattr(parameter, "ds_tensor", None) for parameter in model.parameters())
    sharded = sum(part.numel() * part.element_size() for part in parts if part is not None)
    return sharded + sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def in_proportion(world: World, *, bf16: bool) -> dict[str, Any] | None:
    """`deepspeed_config` with buffers as large beside this model as DeepSpeed's own are beside one of billions."""
    config = deepspeed_config(world, bf16=bf16)
    if config is not None:
        zero, size = config["zero_optimization"], 2_000_000
        zero |= {"reduce_bucket_size": size, "allgather_bucket_size": size}
    if world.stage == 3:
        names = ("prefetch_bucket_size", "max_live_parameters", "max_reuse_distance")
        zero |= {f"stage3_{name}": size for name in names}
    return config


def main(mode: str, model: Path, out: Path) -> None:
    """Load, train two steps, write down what was held."""
    give_back_what_is_freed()
    build.deepspeed_config = zero.deepspeed_config = in_proportion
    frozen: list[nn.Module] = []
    shard_frozen = build.shard_frozen

    def seen(reference: nn.Module, world: World, *, bf16: bool) -> nn.Module:
        frozen.append(shard_frozen(reference, world, bf16=bf16))
        return frozen[-1]

    build.shard_frozen = seen
    world = World(mode=mode, processes=world_size())
    if world.stage:
        import deepspeed  # noqa: F401  before memory is looked at
    method, before = compose_method(METHOD), own_memory()
    settings = phase(micro_batch_size=16, epochs=8 / 9, learning_rate=0.1, max_grad_norm=1.0, schedule="constant")
    loading = Peak()
    setup = set_up(
        model, rows_for(method, model), out / mode, method, settings, checkpoint_every=1000, world=world, remember=False
    )
    loaded, training = loading.end(), Peak()
    setup.trainer.train()
    measured: dict[str, Any] = {
        "loading": loaded - before,
        "training": training.end() - before,
        "policy": held(setup.trainer.accelerator.unwrap_model(setup.trainer.model)),
        "reference": held(frozen[0]),
        "history": setup.history,
    }
    (out / f"{mode}-{rank()}.json").write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1], *map(Path, sys.argv[2:]))
    except BaseException:
        print(f"rank {rank()}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        end_process(1)
    end_process(0)
