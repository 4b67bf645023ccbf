"""Weights kept while training goes on: one run serves every number of steps that is asked for.

A snapshot is an ordinary model folder, written aside and renamed, so that a killed training leaves none that is half
written; a resumed one keeps those that are there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lume_run.common.devices import rank
from lume_run.launch.collectives import any_rank, barrier
from lume_run.models.load import save_model
from lume_run.training.job import snapshot_folder
from lume_run.training.trainer import UnlearnTrainer
from lume_run.training.zero import save_trained_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class KeepSnapshots(TrainerCallback):  # type: ignore[misc]
    """Saves the model after each of `steps` into `folder`; `reload` loads what training began with, whole."""

    def __init__(
        self,
        trainer: UnlearnTrainer,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        steps: tuple[int, ...],
        reload: Callable[[], nn.Module],
    ) -> None:
        self.trainer, self.tokenizer, self.reload = trainer, tokenizer, reload
        self.folder, self.steps = folder, steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All ranks together, where the step is one to keep and is not there yet."""
        place = snapshot_folder(self.folder, state.global_step)
        if state.global_step not in self.steps or not any_rank(not place.exists(), args.device):
            return
        aside = place.with_name("writing")
        if rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
        save_trained_model(self.trainer, self.tokenizer, aside, keep_adapters=False, reload=self.reload, trains_on=True)
        if rank() == 0:
            aside.replace(place)
        barrier()

    def fill(self) -> int:
        """Put the last snapshot in the place of those that a diverged training did not reach, and return its step.

        Without any, the model that training began with takes their place, and the step is 0.
        """
        kept = [step for step in self.steps if snapshot_folder(self.folder, step).exists()]
        last = max(kept, default=0)
        if rank() == 0:
            for step in self.steps[len(kept) :]:
                place = snapshot_folder(self.folder, step)
                if last:
                    shutil.copytree(snapshot_folder(self.folder, last), place, copy_function=os.link)
                else:
                    save_model(self.reload(), self.tokenizer, place)
        barrier()
        return last
