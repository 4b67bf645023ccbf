"""One fused forward over the rows of all roles, turned into what methods read.

The vocabulary head runs on label positions only (`logits_to_keep` on left-padded rows), layers above the
last one asked for do not run at all, and log-probabilities are float32 or wider whatever the model's dtype: a bf16
log-softmax loses about three digits. Shapes: B rows, R label positions, T tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.common.errors import RunError
from lume_run.common.logits import token_logps
from lume_run.methods.base import MIDDLE, Needs, Role, Signals
from lume_run.text import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What one forward gave: logits that predict the targets, (B, R, V) or (B, T, V); a layer's output (B, T, H)."""

    logits: Tensor | None = None
    hidden: Tensor | None = None


Reference = Callable[[Batch, Needs], Outputs]


def unwrapped(model: nn.Module) -> Any:
    """The transformers model inside adapters and parallel wrappers."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def accepted(model: nn.Module, name: str) -> bool:
    """Whether the (possibly wrapped) model's forward takes this keyword."""
    return name in inspect.signature(unwrapped(model).forward).parameters


def inputs_of(model: nn.Module, batch: Batch, *, keep: int) -> dict[str, Any]:
    """What the model's forward is called with; logits of the last `keep` positions only (0: of all)."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if accepted(model, "position_ids"):
        inputs["position_ids"] = batch.position_ids
    if keep and accepted(model, "logits_to_keep"):
        inputs["logits_to_keep"] = keep
    return inputs


def layer_number(config: Any, wanted: int) -> int:
    """The decoder layer meant by `wanted`, MIDDLE being layer (L - 1) // 2 of L. Raises RunError beyond the last."""
    layers: int = config.num_hidden_layers
    if wanted >= layers:
        raise RunError(
            f"The method reads layer {wanted}, but the model's last layer is {layers - 1}; lower its `layer`."
        )
    return (layers - 1) // 2 if wanted == MIDDLE else wanted


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of decoder layers: the module list as long as the config says."""
    inner = unwrapped(model)
    for module in inner.modules():
        if isinstance(module, nn.ModuleList) and len(module) == inner.config.num_hidden_layers:
            return module
    raise RunError(f"No list of {inner.config.num_hidden_layers} decoder layers in {type(inner).__name__}.")


@contextmanager
def output_of_layer(model: nn.Module, layer: int, *, stop: bool) -> Iterator[list[Tensor]]:
    """Catch the output of decoder layer `layer`; with `stop` no layer above it runs (where the model's loop
    obeys `config.num_hidden_layers`, as transformers' Llama-like models do)."""
    caught: list[Tensor] = []
    config = unwrapped(model).config
    layers = config.num_hidden_layers

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = decoder_layers(model)[layer].register_forward_hook(catch)
    if stop:
        config.num_hidden_layers = layer + 1
    try:
        yield caught
    finally:
        config.num_hidden_layers = layers
        handle.remove()


def forward(model: nn.Module, batch: Batch, needs: Needs | None = None) -> Outputs:
    """Run the model; without `needs` for logits alone."""
    if needs is None or needs.hidden_layer is None:
        return Outputs(logits=_predicting(model(**inputs_of(model, batch, keep=batch.keep)).logits, batch))
    layer = layer_number(unwrapped(model).config, needs.hidden_layer)
    with output_of_layer(model, layer, stop=not needs.logits) as caught:
        logits = model(**inputs_of(model, batch, keep=batch.keep if needs.logits else 1)).logits
    return Outputs(logits=_predicting(logits, batch) if needs.logits else None, hidden=caught[0])


def _predicting(logits: Tensor, batch: Batch) -> Tensor:
    return logits[:, -batch.keep :][:, :-1] if batch.keep else logits


def rows_of(batch: Batch, roles: Set[Role]) -> Tensor:
    """Which rows have one of these roles, (B,)."""
    return torch.isin(batch.role, torch.tensor(sorted(roles), device=batch.role.device, dtype=batch.role.dtype))


def _reference_outputs(reference: Reference, batch: Batch, chosen: Tensor, needs: Needs) -> Outputs:
    """The frozen target's outputs of the chosen rows; with none it still runs, so that devices stay in step."""
    if chosen.any():
        return reference(batch.take(chosen), needs)
    first = torch.arange(len(chosen), device=chosen.device) == 0
    one = reference(batch.take(first), needs)
    return Outputs(
        logits=None if one.logits is None else one.logits[:0],
        hidden=None if one.hidden is None else one.hidden[:0],
    )


def read_signals(
    model: nn.Module,
    batch: Batch,
    *,
    needs: Needs,
    reference: Reference | None = None,
    last: Mapping[str, float] | None = None,
) -> Signals:
    """Run the model once, the frozen target on the rows that need it, and gather what a method asked for.

    Raises ValueError when a needed reference was not given.
    """
    if needs.reference_logps and batch.ref_logps is None:
        raise ValueError("the method needs cached reference log-probs, but the batch carries none")
    if needs.live_reference and reference is None:
        raise ValueError("the method needs a live reference, but none was given")
    ours, theirs = forward(model, batch, needs), Outputs()
    chosen = rows_of(batch, needs.live_reference)
    if needs.live_reference and reference is not None:
        with torch.no_grad():
            theirs = _reference_outputs(reference, batch, chosen, needs)
    logps = torch.zeros(batch.targets.shape, device=batch.targets.device)
    if ours.logits is not None:
        predicting = ours.logits if batch.keep else ours.logits[:, :-1]
        logps = token_logps(predicting, batch.targets).masked_fill(~batch.mask, 0.0)
    return Signals(
        logps=logps,
        mask=batch.mask,
        is_answer=batch.is_answer,
        targets=batch.targets,
        role=batch.role,
        totals=batch.totals,
        logits=ours.logits,
        hidden=ours.hidden,
        ref_logps=batch.ref_logps,
        ref_logits=theirs.logits,
        ref_hidden=theirs.hidden,
        in_reference=chosen,
        last=last or {},
    )
