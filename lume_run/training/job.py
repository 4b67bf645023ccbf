"""What one optimisation is asked to do: plans are made of it, `optimise.py` carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.common.records import Example
from lume_run.config.model_settings import ModelSettings
from lume_run.config.settings import OptimizationSettings, TrainerSettings
from lume_run.launch.world import World
from lume_run.methods.base import Method
from lume_run.methods.needs import Role

if TYPE_CHECKING:
    import torch

    from lume_run.training.reference import ReferenceCache


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One optimisation: what it is called, where it starts, how it steps, what it minimises over which rows, and where.

    `model` and `trainer` are settings; `phase` is the one of the trainer's that this is. `adapters`: train LoRA
    adapters, and save them alone with `keep_adapters`, merged otherwise; with `saves_adapter` both ways. `trainable`:
    name patterns of the weights to train (None: all). `reference`: the frozen model, where that is not the one that it
    starts from. With `snapshots` the model is kept after each of these steps, in folders of their own, and not at the
    end; diverging is a result then, also of fine-tuning.
    """

    title: str
    start: str
    phase: OptimizationSettings
    method: Method
    adapters: bool
    examples: Sequence[tuple[Role, Example]]
    model: ModelSettings
    trainer: TrainerSettings
    seed: int
    device: torch.device
    world: World
    cache: ReferenceCache | None = None
    trainable: Sequence[str] | None = None
    reference: str | None = None
    keep_adapters: bool = False
    saves_adapter: bool = False
    snapshots: tuple[int, ...] = ()


def snapshot_folder(folder: Path, step: int) -> Path:
    """Where a training into `folder` keeps the model after a step."""
    return folder / f"step-{step}"
