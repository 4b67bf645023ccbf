"""What a method sees, returns and asks for. Pure tensors: no model, tokenizer or config reaches a method.

Shapes: B rows of a micro-batch, R answer positions (padded), T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a method wants computed for it; the plan turns this into rows, caches and memory.

    `retain_rows`: retain examples beside the forget ones. `reference_logps`: answer log-probs of
    the frozen target, cached before training. `reference_logits`: a live frozen target (the
    adapters-off model under LoRA, otherwise one frozen copy). `every_position`: logits of
    prompt and padding too (right-padded rows); otherwise answer positions only.
    """

    retain_rows: bool = False
    reference_logps: bool = False
    reference_logits: bool = False
    every_position: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            retain_rows=self.retain_rows or other.retain_rows,
            reference_logps=self.reference_logps or other.reference_logps,
            reference_logits=self.reference_logits or other.reference_logits,
            every_position=self.every_position or other.every_position,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over a whole optimizer step: all micro-batches of all ranks.

    Dividing sums by these makes a loss independent of micro-batch size, accumulation and the
    number of devices. `*_positions` count padded positions (B x T) and serve `compat` losses only.
    """

    forget_rows: int
    forget_tokens: int
    retain_rows: int
    retain_tokens: int
    forget_positions: int = 0
    retain_positions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """One fused forward over forget and retain rows.

    `logps` (B, R) log-probabilities [nats] of the label tokens `targets` (B, R), 0 outside `mask`;
    float32 or wider. `mask` (B, R) true at labels, `is_answer` (B, R) at those of the answer (the same
    thing except while fine-tuning on documents). `is_forget` (B,). `totals` counts the whole optimizer step.
    `logits` (B, R, V) predict `targets` (or (B, T, V), every position, when asked for);
    `ref_logps` (B, R) and `ref_logits` come from the frozen target when asked for.
    """

    logps: Tensor
    mask: Tensor
    is_answer: Tensor
    targets: Tensor
    is_forget: Tensor
    totals: Totals
    logits: Tensor
    ref_logps: Tensor | None = None
    ref_logits: Tensor | None = None

    def at_labels(self, logits: Tensor) -> Tensor:
        """The positions of `logits` (B, R or T, V) that predict `targets`: (B, R, V)."""
        return logits if logits.shape[1] == self.mask.shape[1] else logits[:, :-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """A micro-batch's share of the optimizer step's loss, and parts of it worth logging (also shares)."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
