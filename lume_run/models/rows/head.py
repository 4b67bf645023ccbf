"""The vocabulary head and what is read of its logits, together: a part of the labels at a time.

A loss reads a few numbers of each predicted distribution: the log-probability of its label, a divergence, a margin.
They are computed from hidden states and the head's weight in parts, so that there are never logits of all labels, and
the backward pass computes the logits of a part anew (unless they are few: then it is faster to keep them).

This happens inside the head's own forward, so that whatever wraps it sees an ordinary module, as ZeRO-3 does, which
gathers the weight around it; `Head` says which heads are understood.
Shapes: L labels, H hidden size, V vocabulary, K numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.common.logits import KEPT_NUMBERS, PART_NUMBERS, to_float32
from lume_run.methods.needs import TokenLoss
from lume_run.models.layers import unwrap
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.label_part import LabelPart
from lume_run.models.rows.packed import PACKED_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A linear head: logits = cap tanh((states W^T + bias) / scale / cap), without what is None or 1."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, states: Tensor) -> Tensor:
        """Logits (L, V) of states (L, H), in their dtype."""
        logits = nn.functional.linear(
            states, self.weight.to(states.dtype), None if self.bias is None else self.bias.to(states.dtype)
        )
        logits = logits if self.scale == 1.0 else logits.div_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def chain(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient of the linear map's output, from that of the logits, which it changes."""
        if self.cap is not None:
            gradient.mul_(1 - (to_float32(logits) / self.cap) ** 2)
        return gradient.div_(self.scale)


def plain_head(model: nn.Module) -> tuple[nn.Module, Head] | None:
    """The module of a head that is a linear map and nothing else, and what it computes; None for all others."""
    inner = unwrap(model)
    module = inner.get_output_embeddings()
    plain = type(module) is nn.Linear and inner.config.model_type in PACKED_TYPES
    if not plain or hasattr(module, "_hf_hook"):  # or its weight is elsewhere
        return None
    config = inner.config.get_text_config()
    scale, cap = getattr(config, "logits_scaling", None), getattr(config, "final_logit_softcapping", None)
    return module, Head(weight=module.weight, bias=module.bias, scale=float(scale or 1.0), cap=cap)


def is_lent(head: Head) -> bool:
    """Whether the weight is there while the head's module runs, and only then, as under ZeRO-3."""
    return hasattr(head.weight, "ds_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSegment:
    """Labels from `begin` to `end`, of one role, and what is read of their distributions, by its column."""

    begin: int
    end: int
    losses: Sequence[tuple[int, TokenLoss]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLogits:
    """The frozen target's logits of its labels, in order of segments: from its states and head, or all of them."""

    states: Tensor
    head: Head | None = None

    def part(self, begin: int, end: int) -> Tensor:
        """Logits of these labels, (end - begin, V)."""
        states = self.states[begin:end]
        return states if self.head is None else self.head.logits(states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is read of the distributions: columns (log-probability of the label, losses ...) by segments of labels.

    `order` (L,) is the label at each place of the segments (None: as they are); `targets` (L,) in that order.
    `reference` holds the labels of segments that read it alone, one after another.
    """

    segments: Sequence[LabelSegment]
    targets: Tensor
    columns: int
    order: Tensor | None = None
    reference: ReferenceLogits | None = None

    def parts(self, size: int) -> Iterator[LabelPart]:
        """The labels, `size` at a time at most."""
        before = 0  # labels in the reference
        for segment in self.segments:
            reads = any(loss.reads_reference for _, loss in segment.losses)
            for begin in range(segment.begin, segment.end, size):
                end = min(begin + size, segment.end)
                place = before - segment.begin
                theirs = slice(place + begin, place + end) if reads and self.reference is not None else None
                labels = slice(begin, end)
                yield LabelPart(labels=labels, targets=self.targets[labels], losses=segment.losses, in_reference=theirs)
            before += segment.end - segment.begin if reads else 0

    def reference_logits(self, part: LabelPart) -> Tensor | None:
        """The reference's logits (L, V) of a part whose losses read them."""
        theirs = part.in_reference
        return None if theirs is None or self.reference is None else self.reference.part(theirs.start, theirs.stop)


def read_labels(model: nn.Module, batch: Batch, inputs: dict[str, Any], reading: Reading) -> Tensor:
    """Run the model; the numbers of every label, (L, K), in the batch's order."""
    plain = plain_head(model)
    assert plain is not None
    module, head = plain

    def read(states: Tensor) -> Tensor:
        chosen = label_states(states, batch, packed="packing" in inputs)
        ordered = chosen if reading.order is None else chosen.index_select(0, reading.order)
        numbers: Tensor = _Read.apply(ordered, head.weight, head.bias, head, reading)  # type: ignore[no-untyped-call]
        if reading.order is not None:
            numbers = torch.zeros_like(numbers).index_copy(0, reading.order, numbers)
        return numbers[None]

    with _in_place_of_head(module, read) as outputs:
        model(**inputs)
    return outputs[0][0]


def read_states(model: nn.Module, batch: Batch, inputs: dict[str, Any]) -> Tensor:
    """Run the model without its head; the states that predict every label, (L, H)."""
    plain = plain_head(model)
    assert plain is not None
    packed = "packing" in inputs
    with _in_place_of_head(plain[0], lambda states: label_states(states, batch, packed=packed)[None]) as outputs:
        model(**inputs)
    return outputs[0][0]


def label_states(states: Tensor, batch: Batch, *, packed: bool) -> Tensor:
    """Of states that the head is given, (1, L, H) or (B, R + 1, H), those that predict labels, (L, H)."""
    flat = states.flatten(0, 1)
    if packed:
        return flat
    assert batch.packing is not None
    labels, span = batch.packing.labels, batch.targets.shape[1]
    return flat.index_select(0, labels + labels // span * (states.shape[1] - span))


@contextmanager
def _in_place_of_head(module: nn.Module, compute: Any) -> Iterator[list[Tensor]]:
    """Have a head's forward compute something else; what it gives, as other hooks leave it, is put into the list."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    module.forward = compute
    try:
        yield outputs
    finally:
        del module.forward
        handle.remove()


class _Read(torch.autograd.Function):
    """The numbers (L, K) of a `Reading` from states (L, H) and the head's weight (V, H) and bias."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, head: Head, reading: Reading) -> Tensor:
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        states = states.to(dtype)
        head = Head(weight=weight.to(dtype), bias=bias, scale=head.scale, cap=head.cap)
        keeps = len(states) * len(weight) <= KEPT_NUMBERS[kind]
        size = max(1, PART_NUMBERS[kind] // len(weight))
        numbers = states.new_zeros(len(states), reading.columns, dtype=torch.promote_types(dtype, torch.float32))
        totals = numbers.new_zeros(len(states))
        kept: list[tuple[Tensor, Tensor | None]] = []
        with torch.autocast(kind, enabled=False):
            for part in reading.parts(size):
                logits, reference = head.logits(states[part.labels]), reading.reference_logits(part)
                part.read(logits, reference, numbers=numbers[part.labels], totals=totals[part.labels])
                kept += [(logits, reference)] if keeps else []
        ctx.head, ctx.reading, ctx.size, ctx.kept = head, reading, size, kept
        ctx.save_for_backward(states, weight, totals)
        return numbers

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        states, weight, totals = ctx.saved_tensors
        (of_numbers,) = gradients
        head = Head(weight=weight.to(states.dtype), bias=ctx.head.bias, scale=ctx.head.scale, cap=ctx.head.cap)
        _, for_weight, for_bias, *_ = ctx.needs_input_grad
        of_states = torch.empty_like(states)
        of_weight = torch.zeros_like(weight) if for_weight else None
        of_bias = torch.zeros_like(ctx.head.bias) if for_bias else None
        for number, part in enumerate(ctx.reading.parts(ctx.size)):
            labels = part.labels
            if ctx.kept:
                logits, reference = ctx.kept[number]
            else:
                logits, reference = head.logits(states[labels]), ctx.reading.reference_logits(part)
            gradient = part.to_gradient(logits, reference, totals[labels], of_numbers[labels], head.chain)
            of_states[labels] = gradient @ head.weight
            if of_weight is not None:
                _add_product(of_weight, gradient, states[labels])
            if of_bias is not None:
                of_bias += gradient.sum(0)
        ctx.kept = []
        return of_states, of_weight, of_bias, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left^T right; in the dtype of `total` where the factors have less."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right
