"""Trains, is stopped, and resumes, as one of several ranks of torchrun.  Arguments: MODE MODEL OUT [ONLY...].

Every case of a launch mode shares one start, because a start costs more than all of them together. `OUT/CASE/` has the
weights of the whole training and of the resumed one; `ONLY` are parts (keys of PARTS) to do alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from helpers.shared import tokenizer_at
from helpers.training import Setup, compose_method, phase, rows_for, set_up
from lume_run.common.devices import rank, world_size
from lume_run.config.model_settings import LoraSettings
from lume_run.launch.preemption import looks_itself, signal_handlers
from lume_run.launch.world import World
from lume_run.pipeline.rank import end_process
from lume_run.training.callbacks import StopOnSignal
from lume_run.training.checkpoints import checkpoint_to_resume, last_checkpoint
from lume_run.training.optimise import load_start
from lume_run.training.zero import reshard_checkpoint, save_trained_model

STEPS, STOPPED_AT = 5, 3
CASES = {
    "full": LoraSettings(),
    "lora": LoraSettings(enabled=True, rank=4),
    "dropout": LoraSettings(enabled=True, rank=4, dropout=0.1),
}
METHOD = "npo_gd"


class SignalItself(TrainerCallback):
    """A signal to this process, from itself, in the middle of a step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == STOPPED_AT - 1:
            os.kill(os.getpid(), signal.SIGUSR2)


def set_up_case(case: str, world: World, model: Path, folder: Path, *callbacks: TrainerCallback) -> Setup:
    """AdamW over a schedule with warm-up, two micro-batches a step on each of two ranks."""
    method = compose_method(METHOD)
    settings = phase(optimizer="adamw_torch", learning_rate=1e-3, epochs=2, max_grad_norm=1.0, warmup=0.2)
    cached = folder.parent / "reference"
    rows = rows_for(method, model)
    return set_up(
        model,
        rows,
        folder,
        method,
        settings,
        checkpoint_every=1000,  # and where it stops
        lora=CASES[case],
        world=world,
        cached=cached,
        callbacks=callbacks,
    )


def save(setup: Setup, model: Path, folder: Path, *, lora: bool) -> None:
    """The weights (adapters alone) and the history."""
    save_trained_model(
        setup.trainer,
        tokenizer_at(model),
        folder,
        keep_adapters=lora,
        reload=lambda: load_start(setup.job),
    )
    if rank() == 0:
        (folder / "history.json").write_text(json.dumps(setup.history), encoding="utf-8")


def train_whole(case: str, world: World, model: Path, out: Path) -> None:
    """Train from begin to end."""
    setup = set_up_case(case, world, model, out / "whole-checkpoints")
    setup.trainer.train()
    save(setup, model, out / "whole", lora=CASES[case].enabled)


def train_until_stopped(case: str, world: World, model: Path, out: Path) -> None:
    """Train until a signal to the last rank stops all of them."""
    stop = StopOnSignal()
    with signal_handlers(), looks_itself():
        callbacks = [stop, SignalItself()] if rank() == world.size - 1 else [stop]
        setup = set_up_case(case, world, model, out / "checkpoints", *callbacks)
        setup.trainer.train()
    assert stop.stopped
    assert setup.trainer.state.global_step == STOPPED_AT
    checkpoint = last_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{STOPPED_AT}"


def resume(case: str, world: World, model: Path, out: Path) -> None:
    """Resume from the checkpoint, to the end."""
    checkpoint = checkpoint_to_resume(out / "checkpoints", world)
    assert checkpoint is not None
    setup = set_up_case(case, world, model, out / "checkpoints")
    reshard_checkpoint(setup.trainer, checkpoint)
    setup.trainer.train(resume_from_checkpoint=str(checkpoint))
    assert setup.trainer.state.global_step == STEPS
    save(setup, model, out / "resumed", lora=CASES[case].enabled)


PARTS = {"whole": train_whole, "stopped": train_until_stopped, "resumed": resume}


def main(mode: str, model: Path, out: Path, *only: str) -> None:
    """All parts, or those named."""
    world = World(mode=mode, processes=world_size())
    for case in CASES:
        for name, part in PARTS.items():
            if not only or name in only:
                part(case, world, model, out / case)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
    end_process(0)
