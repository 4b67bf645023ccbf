"""Trains every method in all its ways, alone or as one of several ranks of torchrun.  Arguments: MODE MODEL CACHED OUT.

All trainings of a launch mode share one start, because a start costs more than all of them together.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from conftest import tokenizer_at
from training import LORA, MEMBERS, OBJECTIVES, Setup, configured, phase, rows_for, set_up

from lume_run.parallel import World
from lume_run.runtime import rank, world_size
from lume_run.sharding import save_trained

STEPS = 3


@dataclass(frozen=True)
class Case:
    """One training: which method, which weights, how many rows in a forward, whether activations are kept."""

    method: str
    lora: bool
    micro: int = 16
    checkpointing: bool = False

    def __str__(self) -> str:
        name = f"{self.method.replace(' ', '-')}-{'lora' if self.lora else 'full'}"
        return name + f"-{self.micro}" + ("-checkpointing" if self.checkpointing else "")


METHODS = [*OBJECTIVES, *MEMBERS]
WAYS = list(product((16, 2), (False, True)))
CASES = [Case(name, lora, *way) for name in METHODS for lora in (False, True) for way in WAYS]


def made(case: Case, world: World, model: Path, cached: Path, out: Path) -> Setup:
    """Three steps of plain gradient descent, clipped to length 1: 4, 4 and 1 forget examples beside retain examples."""
    method = configured(case.method)
    settings = phase(micro_batch_size=case.micro, max_grad_norm=1.0, learning_rate=0.1, schedule="constant")
    return set_up(
        model,
        rows_for(method, model),
        out / str(case),
        method,
        settings,
        lora=LORA if case.lora else None,
        world=world,
        cached=cached / case.method,
        gradient_checkpointing=case.checkpointing,
    )


def train(case: Case, world: World, model: Path, cached: Path, out: Path) -> None:
    """Train, then write `history.json` and the whole weights (adapters alone)."""
    setup = made(case, world, model, cached, out)
    setup.trainer.train()
    own = out / str(case)
    save_trained(setup.trainer, tokenizer_at(model), own, keep_adapters=case.lora, reload=lambda: None)
    if rank() == 0:
        (own / "history.json").write_text(json.dumps(setup.history), encoding="utf-8")


def main(mode: str, model: Path, cached: Path, out: Path) -> None:
    import time

    world = World(mode=mode, processes=world_size())
    for case in CASES:
        t = time.time()
        try:
            train(case, world, model, cached, out)
        except Exception:
            print(case, rank(), traceback.format_exc()[-600:])
        if rank() == 0:
            print(case, f"{time.time() - t:.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
