"""Arithmetic on whole models: subtracting a task vector, merging LoRA adapters with peft."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lume_run.common.console import console
from lume_run.common.errors import RunError
from lume_run.config.model_settings import ModelSettings
from lume_run.methods.baselines import MergeAdapters
from lume_run.models.adapters import adapter_fault
from lume_run.models.load import load_model, save_model
from lume_run.models.tokenizer import load_tokenizer

PRUNING = ("ties", "ties_svd", "dare_ties", "dare_linear", "magnitude_prune")  # combinations that take a density


@torch.no_grad()
def subtract_task_vector(settings: ModelSettings, target: str, reinforced: str, alpha: float, out: Path) -> None:
    """Write target - alpha x (reinforced - target), weight by weight in float32."""
    console.print(f"  subtracting {alpha:g} x the task vector")
    model = load_model(target, settings, torch.device("cpu"), dtype=torch.float32)
    added = load_model(reinforced, settings, torch.device("cpu"), dtype=torch.float32)
    theirs = dict(added.named_parameters())
    for name, weight in model.named_parameters():
        weight -= alpha * (theirs[name] - weight)
    save_model(model, load_tokenizer(target, settings), out)


@torch.no_grad()
def interpolate_weights(settings: ModelSettings, target: str, unlearned: str, share: float, out: Path) -> None:
    """Write target + share x (unlearned - target), weight by weight in float32.

    Both are whole models: adapters were merged when the unlearned one was saved. RunError where their shapes differ.
    """
    model = load_model(target, settings, torch.device("cpu"), dtype=torch.float32)
    after = load_model(unlearned, settings, torch.device("cpu"), dtype=torch.float32)
    theirs = dict(after.named_parameters())
    for name, weight in model.named_parameters():
        if name not in theirs or theirs[name].shape != weight.shape:
            raise RunError(f"{name} of {unlearned} does not fit that of {target}\n  - drop mix: they are other models")
        weight.lerp_(theirs[name], share)
    save_model(model, load_tokenizer(target, settings), out)


def merge_adapters(
    settings: ModelSettings,
    target: str,
    adapters: Sequence[str],
    method: MergeAdapters,
    out: Path,
    *,
    device: torch.device,
    seed: int,
) -> None:
    """Write the target with all `adapters` (folders of peft) merged into it."""
    from peft import PeftModel

    console.print(f"  merging {len(adapters)} adapters by {method.combination}")
    names = [f"adapter{number}" for number in range(1, len(adapters) + 1)]
    loaded = load_model(target, settings, device, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(loaded, adapters[0], adapter_name=names[0])
    for name, folder in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(folder, adapter_name=name)
    for name, folder in zip(names, adapters, strict=True):
        if fault := adapter_fault(model, name, Path(folder)):
            remedy = "remove the folder, and it is trained again"
            raise RunError(f"The adapter {folder} is not whole: {fault}\n  - {remedy}")
    torch.manual_seed(seed)  # DARE drops values at random
    model.add_weighted_adapter(
        names,
        list(method.weights),
        adapter_name="merged",
        combination_type=method.combination,
        density=method.density if method.combination in PRUNING else None,
    )
    model.set_adapter("merged")
    save_model(model, load_tokenizer(target, settings), out)
