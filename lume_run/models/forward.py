"""One forward pass: logits of the answer positions alone, and the hidden states a method reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lume_run.methods.base import Needs
from lume_run.models.layers import forward_accepts, layer_number, output_of_layer, unwrap
from lume_run.models.rows.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What one forward gave: logits that predict the targets, (B, R, V) or (B, T, V); a layer's output (B, T, H)."""

    logits: Tensor | None = None
    hidden: Tensor | None = None


def inputs_of(model: nn.Module, batch: Batch, *, keep: int) -> dict[str, Any]:
    """What the model's forward is called with; logits of the last `keep` positions only (0: of all)."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if forward_accepts(model, "position_ids"):
        inputs["position_ids"] = batch.position_ids
    if keep and forward_accepts(model, "logits_to_keep"):
        inputs["logits_to_keep"] = keep
    return inputs


def forward(model: nn.Module, batch: Batch, needs: Needs | None = None) -> Outputs:
    """Run the model; without `needs` for logits alone."""
    if needs is None or needs.hidden_layer is None:
        return Outputs(logits=_label_logits(model(**inputs_of(model, batch, keep=batch.keep)).logits, batch))
    layer = layer_number(unwrap(model).config, needs.hidden_layer)
    with output_of_layer(model, layer, stop=not needs.logits) as caught:
        logits = model(**inputs_of(model, batch, keep=batch.keep if needs.logits else 1)).logits
    return Outputs(logits=_label_logits(logits, batch) if needs.logits else None, hidden=caught[0])


def _label_logits(logits: Tensor, batch: Batch) -> Tensor:
    return logits[:, -batch.keep :][:, :-1] if batch.keep else logits
