"""Trains every method in its ways, alone or as one of several ranks of torchrun.  Arguments: MODE MODEL PREPARED OUT.

All trainings of a launch mode share one start, because a start costs more than many of them. `PREPARED/METHOD` has
the method, which takes as long to compose as to train, and the reference log-probs it reads.
"""

from __future__ import annotations

import gc
import json
import pickle
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepspeed.utils import nvtx

from helpers.shared import tokenizer_at
from helpers.training import LORA, MEMBERS, OBJECTIVES, Setup, phase, rows_for, set_up
from lume_run.common.devices import rank, world_size
from lume_run.launch.world import World
from lume_run.pipeline.rank import end_process
from lume_run.training import build, optimise
from lume_run.training.zero import deepspeed_config, save_trained_model

STEPS = 2
FORGET = 5  # examples: a step of four and a short one, whose one row some methods have on one rank alone
METHODS = [*OBJECTIVES, *MEMBERS]
ALL_WAYS = ("npo_gd", "kl")  # with cached reference log-probs, and with a live reference
ADAPTERS = replace(LORA, target_modules=["q_proj", "down_proj"])  # DeepSpeed takes long over each
LIVE = ("adaptive_rmu", "dpo_kl", "idk_kl", "llmu", "npo_kl", "rmu", "undial", "jensun", "ties 1", "ties 2")  # too


@dataclass(frozen=True)
class Case:
    """One training: which method, which weights, how many rows in a forward, whether activations are computed again."""

    method: str
    lora: bool
    micro: int = 16
    checkpointing: bool = False
    sharpness: float | None = None

    def __str__(self) -> str:
        name = f"{self.method.replace(' ', '-')}-{'lora' if self.lora else 'full'}"
        name += f"-{self.micro}" + ("-checkpointing" if self.checkpointing else "")
        return name + ("" if self.sharpness is None else "-sharp")


PLAIN = [Case(name, lora) for name in METHODS for lora in (False, True)]
FRUGAL = [Case(name, lora, 2, checkpointing=True) for name in METHODS for lora in (False, True)]
SHARP_WAYS = (("npo_gd", False), ("npo_gd", True), ("kl", False))
SHARP = [Case(name, lora, micro, sharpness=0.3) for name, lora in SHARP_WAYS for micro in (16, 2)]
REST = [Case(name, lora, *way) for name in ALL_WAYS for lora in (False, True) for way in ((2, False), (16, True))]


def cases_of(mode: str) -> list[Case]:
    """One process forwards whole batches: what several are compared with. DDP is the frugal way, ZeRO all ways.

    Except the frugal way under ZeRO-3, the slowest: methods without a live reference all run alike.
    """
    if mode in ("single", "ddp"):
        return [*(PLAIN if mode == "single" else FRUGAL), *SHARP]
    slow = [case for case in FRUGAL if case.method not in (*ALL_WAYS, *LIVE)] if mode == "zero3" else []
    return [case for case in (*PLAIN, *FRUGAL, *REST) if case not in slow]


def set_up_case(case: Case, world: World, model: Path, prepared: Path, out: Path) -> Setup:
    """Two steps of plain gradient descent, clipped to a length of 1: 4 and 1 forget examples beside retain examples."""
    method = pickle.loads((prepared / case.method / "method.pickle").read_bytes())
    settings = phase(micro_batch_size=case.micro, max_grad_norm=1.0, learning_rate=0.15, schedule="constant")
    settings = replace(settings, sharpness=case.sharpness)
    return set_up(
        model,
        rows_for(method, model, forget=FORGET),
        out / str(case),
        method,
        settings,
        lora=ADAPTERS if case.lora else None,
        world=world,
        cached=prepared / case.method / "reference",
        gradient_checkpointing=case.checkpointing,
    )


def train(case: Case, world: World, model: Path, prepared: Path, out: Path) -> None:
    """Train, then write `history.json` and the whole weights (adapters alone)."""
    setup = set_up_case(case, world, model, prepared, out)
    setup.trainer.train()
    folder = out / str(case)
    save_trained_model(
        setup.trainer,
        tokenizer_at(model),
        folder,
        keep_adapters=case.lora,
        reload=lambda: optimise.load_start(setup.job),
    )
    if rank() == 0:
        (folder / "history.json").write_text(json.dumps(setup.history), encoding="utf-8")
        if world.size == 1:
            moved = sum(float(((setup.weights[name] - was) ** 2).sum()) for name, was in setup.start.items())
            (folder / "moved.json").write_text(json.dumps(moved**0.5), encoding="utf-8")


def sharding_most(world: World, *, bf16: bool) -> dict[str, Any] | None:
    """`deepspeed_config` that gives back every matrix after use: the tiny model's are small enough to be kept whole."""
    config = deepspeed_config(world, bf16=bf16)
    if world.stage == 3 and config is not None:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 1000  # norms and adapters are kept
    return config


def main(mode: str, model: Path, prepared: Path, out: Path) -> None:
    """Run the cases of a mode; the first failure ends all ranks."""
    nvtx.enable_nvtx = False  # marks for a profiler, of every call: a tenth of the time
    build.deepspeed_config = sharding_most
    world = World(mode=mode, processes=world_size())
    for case in cases_of(mode):
        try:
            train(case, world, model, prepared, out)
        except BaseException:
            print(f"{case}, rank {rank()}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            end_process(1)
        gc.freeze()  # what was imported on the way, see training.py


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
    end_process(0)
