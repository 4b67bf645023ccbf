"""Editing the weights of a model folder: load it whole, change it, write it down as an ordinary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lume_run.attacks.base import Edit
from lume_run.common.errors import RunError
from lume_run.common.lazy import nn, torch
from lume_run.config.model_settings import ModelSettings
from lume_run.models.load import load_model, save_model
from lume_run.models.tokenizer import load_tokenizer


def write_edited(settings: ModelSettings, path: str, edit: Edit, out: Path) -> None:
    """Write the model at `path` with the edit applied, in float32."""
    model = load_model(path, settings, torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        edit.apply(model)
    save_model(model, load_tokenizer(path, settings), out)


def linear_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights (out, in) of linear layers by name, the head's excepted: what is quantised and pruned in the field.

    A weight that several layers share counts once. RunError where there are none.
    """
    unwrapped: Any = model
    head = unwrapped.get_output_embeddings()
    kept_whole = {
        id(weight) for module in (head, unwrapped.get_input_embeddings()) if module for weight in module.parameters()
    }
    weights: dict[int, tuple[str, nn.Parameter]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in kept_whole:
            weights.setdefault(id(module.weight), (name, module.get_parameter("weight")))
    if not weights:
        raise RunError(f"{type(model).__name__} has no linear layers besides its head, whose weights could be edited.")
    return dict(weights.values())
