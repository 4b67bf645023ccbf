"""One fused forward over the rows of all roles, turned into what methods read.

The vocabulary head runs on label positions only, a part of them at a time where it can (`models/rows/head.py`), layers
above the last one asked for do not run at all, and log-probabilities are float32 or wider whatever the model's dtype: a
bf16 log-softmax loses about three digits. Shapes: B rows, R label positions, T tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lume_run.methods.base import Signals
from lume_run.methods.needs import Needs, TokenLoss
from lume_run.models.forward import Outputs, at_labels, forward, label_logps
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.head import ReferenceLogits, plain_head
from lume_run.models.rows.roles import RolePlan, plan_roles, reading_of

Reference = Callable[[Batch, Needs], Outputs]


def reads_in_parts(needs: Needs, batch: Batch) -> bool:
    """Whether what a method needs of logits can be read a part of the labels at a time."""
    return needs.logits and not needs.distributions and not needs.every_position and batch.packing is not None


@torch.no_grad()
def _reference_outputs(reference: Reference | None, plan: RolePlan, needs: Needs) -> Outputs:
    """The frozen target's outputs of its rows; nothing of a row that stands in for none."""
    if reference is None:
        raise ValueError("the method needs a live reference, but none was given")
    outputs = reference(require_batch(plan.reference), needs)
    if not plan.is_empty:
        return outputs
    fields = {name: getattr(outputs, name) for name in ("logits", "hidden", "states")}
    return replace(outputs, **{name: None if value is None else value[:0] for name, value in fields.items()})


def require_cache(batch: Batch, needs: Needs) -> None:
    """ValueError where cached log-probs are needed and not there."""
    if needs.reference_logps and batch.ref_logps is None:
        raise ValueError("the method needs cached reference log-probs, but the batch carries none")


def require_batch(batch: Batch | None) -> Batch:
    """The rows of a live reference, which a plan has where it is needed."""
    assert batch is not None
    return batch


def _reference_logits(theirs: Outputs, plan: RolePlan) -> ReferenceLogits | None:
    """The frozen target's logits of its labels, in order of their roles."""
    if theirs.logits is None and theirs.states is None:
        return None
    labels, packing = plan.reference_labels, require_batch(plan.reference).packing
    assert labels is not None
    assert packing is not None
    values = theirs.states if theirs.logits is None else theirs.logits
    assert values is not None
    if values.ndim == 3 and not plan.is_empty:
        values = values.flatten(0, 1).index_select(0, packing.labels)
    values = values if labels.order is None else values.index_select(0, labels.order)
    return ReferenceLogits(states=values, head=theirs.head)


def read_signals(
    model: nn.Module,
    batch: Batch,
    *,
    needs: Needs,
    plan: RolePlan | None = None,
    reference: Reference | None = None,
    last: Mapping[str, float] | None = None,
) -> Signals:
    """Run the frozen target on the rows that need it, the model once, and gather what a method asked for.

    `plan` is made of the batch where there is none. Raises ValueError when a needed reference was not given.
    """
    require_cache(batch, needs)
    plan = plan or plan_roles(batch, needs)
    theirs = _reference_outputs(reference, plan, needs) if needs.live_reference else Outputs()
    in_parts = reads_in_parts(needs, batch) and plain_head(model) is not None
    reading = reading_of(batch, plan, needs, _reference_logits(theirs, plan)) if in_parts else None
    ours = forward(model, batch, needs, reading=reading)
    logps, token_losses = _label_numbers(ours, batch, needs)
    return Signals(
        logps=logps,
        mask=batch.mask,
        is_answer=batch.is_answer,
        targets=batch.targets,
        role=batch.role,
        totals=batch.totals,
        members=plan.members,
        token_losses=token_losses,
        in_parts=in_parts,
        logits=ours.logits,
        hidden=ours.hidden,
        ref_logps=batch.ref_logps,
        ref_logits=None if in_parts else theirs.whole_logits(),
        ref_hidden=theirs.hidden,
        in_reference=plan.in_reference,
        reference_members=plan.reference_members,
        last=last or {},
    )


def _label_numbers(outputs: Outputs, batch: Batch, needs: Needs) -> tuple[Tensor, dict[TokenLoss, Tensor]]:
    """(log-probabilities of the labels (B, R), what token losses read of them); 0 elsewhere."""
    if outputs.numbers is not None:
        logps, *losses = (at_labels(column, batch) for column in outputs.numbers.unbind(1))
        return logps, dict(zip(needs.token_losses, losses, strict=True))
    if outputs.logits is None:
        return torch.zeros(batch.targets.shape, device=batch.targets.device), {}
    return label_logps(outputs.logits, batch).masked_fill(~batch.mask, 0.0), {}
