"""One fused forward over forget and retain rows, turned into what methods read.

The vocabulary head runs on label positions only (`logits_to_keep` on left-padded rows), and
log-probabilities are float32 or wider whatever the model's dtype: a bf16 log-softmax loses
about three digits. Shapes: B rows, R label positions, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.contracts import Needs, Signals
from lume_run.numerics import token_logps
from lume_run.text import Batch

LogitsOf = Callable[[Batch], Tensor]


def accepted(model: nn.Module, name: str) -> bool:
    """Whether the (possibly adapter-wrapped) model's forward takes this keyword."""
    wrapped: Any = model
    inner = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    inner = getattr(inner, "module", inner)
    return name in inspect.signature(inner.forward).parameters


def inputs_of(model: nn.Module, batch: Batch, *, keep: int) -> dict[str, Any]:
    """What the model's forward is called with; logits of the last `keep` positions only (0: of all)."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if accepted(model, "position_ids"):
        inputs["position_ids"] = batch.position_ids
    if keep and accepted(model, "logits_to_keep"):
        inputs["logits_to_keep"] = keep
    return inputs


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Logits that predict `batch.targets`: (B, R, V), or (B, T, V) for a right-padded batch."""
    logits: Tensor = model(**inputs_of(model, batch, keep=batch.keep)).logits
    return logits[:, -batch.keep :][:, :-1] if batch.keep else logits


def read_signals(model: nn.Module, batch: Batch, *, needs: Needs, reference: LogitsOf | None = None) -> Signals:
    """Run the model once and gather what a method asked for.

    Raises ValueError when a needed reference was not given.
    """
    if needs.reference_logps and batch.ref_logps is None:
        raise ValueError("the method needs cached reference log-probs, but the batch carries none")
    if needs.reference_logits and reference is None:
        raise ValueError("the method needs a live reference, but none was given")
    logits = forward(model, batch)
    predicting = logits if batch.keep else logits[:, :-1]
    logps = token_logps(predicting, batch.targets).masked_fill(~batch.mask, 0.0)
    ref_logits = None
    if needs.reference_logits and reference is not None:
        with torch.no_grad():
            ref_logits = reference(batch)
    return Signals(
        logps=logps,
        mask=batch.mask,
        is_answer=batch.is_answer,
        targets=batch.targets,
        is_forget=batch.is_forget,
        totals=batch.totals,
        logits=logits,
        ref_logps=batch.ref_logps,
        ref_logits=ref_logits,
    )
