"""One fused forward over the rows of all roles, turned into what methods read.

The vocabulary head runs on label positions only (`logits_to_keep` on left-padded rows), layers above the
last one asked for do not run at all, and log-probabilities are float32 or wider whatever the model's dtype: a bf16
log-softmax loses about three digits. Shapes: B rows, R label positions, T tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

import torch
from torch import Tensor, nn

from lume_run.methods.base import Needs, Role, Signals
from lume_run.models.forward import Outputs, forward, label_logps
from lume_run.models.rows.batch import Batch

Reference = Callable[[Batch, Needs], Outputs]


def rows_in_roles(batch: Batch, roles: Set[Role]) -> Tensor:
    """Which rows have one of these roles, (B,)."""
    return torch.isin(batch.role, torch.tensor(sorted(roles), device=batch.role.device, dtype=batch.role.dtype))


def _reference_outputs(reference: Reference, batch: Batch, chosen: Tensor, needs: Needs) -> Outputs:
    """The frozen target's outputs of the chosen rows; with none it still runs, so that devices stay in step."""
    if chosen.any():
        return reference(batch.take(chosen), needs)
    first = torch.arange(len(chosen), device=chosen.device) == 0
    outputs = reference(batch.take(first), needs)
    return Outputs(
        logits=None if outputs.logits is None else outputs.logits[:0],
        hidden=None if outputs.hidden is None else outputs.hidden[:0],
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
    chosen = rows_in_roles(batch, needs.live_reference)
    if needs.live_reference and reference is not None:
        with torch.no_grad():
            theirs = _reference_outputs(reference, batch, chosen, needs)
    logps = torch.zeros(batch.targets.shape, device=batch.targets.device)
    if ours.logits is not None:
        logps = label_logps(ours.logits, batch).masked_fill(~batch.mask, 0.0)
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
