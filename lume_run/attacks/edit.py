"""Editing the weights of a model folder: load it whole, change it, write it down as an ordinary folder."""

from __future__ import annotations

from pathlib import Path

import torch

from lume_run.attacks.base import Edit
from lume_run.config.model_settings import ModelSettings
from lume_run.models.load import load_model, save_model
from lume_run.models.tokenizer import load_tokenizer


@torch.no_grad()
def write_edited(settings: ModelSettings, path: str, edit: Edit, out: Path) -> None:
    """Write the model at `path` with the edit applied, in float32."""
    model = load_model(path, settings, torch.device("cpu"), dtype=torch.float32)
    edit.apply(model)
    save_model(model, load_tokenizer(path, settings), out)
