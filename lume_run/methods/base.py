"""What a method sees, returns and asks for. Pure tensors: no model, tokenizer or config reaches a method.

Shapes: B rows of a micro-batch, b of them in one role, R label positions (padded), T tokens, V vocabulary,
H hidden size, N label positions picked out of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


MIDDLE = -1  # hidden_layer: the other part's layer, or the middle of the model


class Role(IntEnum):
    """What a row is to the loss: whose prompt it has, and which answer.

    The rows of one example (its own answer, a refusal, another's answer) are always in the same micro-batch,
    in the same order, so that `Signals` of two roles line up row by row.
    """

    FORGET = 0  # a forget example
    RETAIN = 1  # a retain example
    FORGET_IDK = 2  # a forget prompt answered by a refusal ("I don't know")
    RETAIN_IDK = 3  # a retain prompt answered by a refusal
    FORGET_MISMATCH = 4  # a forget prompt answered with the answer of some retain example

    @property
    def is_forget(self) -> bool:
        """Whether the prompt is a forget example's."""
        return self not in (Role.RETAIN, Role.RETAIN_IDK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What must be computed for a method; the plan turns this into rows, caches and memory.

    `rows`: the roles it reads. `reference_logps`: roles whose label log-probs under the frozen target
    are cached before training. `reference_logits`, `reference_hidden`: roles that need a live frozen target (the
    adapters-off model under LoRA, otherwise one frozen copy). `hidden_layer`: the decoder layer whose output is
    wanted, or MIDDLE; `logits=False` then lets the forward stop there. `whole_rows`: roles whose prompts are
    labelled too. `distributions`: it reads logits, not only the log-probs of labels, which takes memory.
    `every_position`: logits of prompt and padding too, rows right-padded to at least `pad_to` tokens.
    """

    rows: Set[Role] = frozenset()
    reference_logps: Set[Role] = frozenset()
    reference_logits: Set[Role] = frozenset()
    reference_hidden: Set[Role] = frozenset()
    whole_rows: Set[Role] = frozenset()
    hidden_layer: int | None = None
    logits: bool = True
    distributions: bool = False
    every_position: bool = False
    pad_to: int = 0

    @property
    def live_reference(self) -> Set[Role]:
        """Roles on which the frozen target itself must run."""
        return self.reference_logits | self.reference_hidden

    def __or__(self, other: Needs) -> Needs:
        """What both need. Raises ValueError when they want the output of different layers."""
        return Needs(
            rows=self.rows | other.rows,
            reference_logps=self.reference_logps | other.reference_logps,
            reference_logits=self.reference_logits | other.reference_logits,
            reference_hidden=self.reference_hidden | other.reference_hidden,
            whole_rows=self.whole_rows | other.whole_rows,
            hidden_layer=_same_layer(self.hidden_layer, other.hidden_layer),
            logits=self.logits or other.logits,
            distributions=self.distributions or other.distributions,
            every_position=self.every_position or other.every_position,
            pad_to=max(self.pad_to, other.pad_to),
        )


def _same_layer(layer: int | None, other: int | None) -> int | None:
    wanted = {number for number in (layer, other) if number is not None}
    if len(wanted - {MIDDLE}) > 1:
        raise ValueError(f"the parts read different layers ({layer} and {other}); give both the same")
    return max(wanted, default=None)  # MIDDLE is the smallest


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The rows of one role in a step: how many, their answer tokens, their label tokens (the same unless prompts
    are labelled too), their padded positions (B x T; for `compat` losses only), and each row's answer tokens."""

    rows: int = 0
    tokens: int = 0
    labels: int = 0
    positions: int = 0
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over a whole optimizer step: all micro-batches of all ranks.

    Dividing sums by these makes a loss independent of micro-batch size, accumulation and the number of devices.
    """

    counts: Mapping[Role, Count] = field(default_factory=dict)

    def of(self, role: Role) -> Count:
        """Counts of one role, each at least 1 so that a share of nothing is 0."""
        count = self.counts.get(role, Count())
        return Count(
            rows=max(1, count.rows),
            tokens=max(1, count.tokens),
            labels=max(1, count.labels),
            positions=max(1, count.positions),
            lengths=count.lengths,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """One fused forward over the rows of all roles.

    `logps` (B, R) log-probabilities [nats] of the label tokens `targets` (B, R), 0 outside `mask`; float32 or
    wider. `mask` (B, R) true at labels, `is_answer` (B, R) at those of the answer (the same thing unless prompts are
    labelled too). `role` (B,) numbers of `Role`. `totals` counts the
    whole optimizer step, `last` is what the step before logged (empty at the first).
    `logits` predict `targets`: those of the labels alone, (labels, V), row by row; or (B, R, V); or every position
    (B, T, V), when asked for. `hidden` (B, T, H) is the output
    of the layer asked for. `ref_logps` (B, R) come from the cache; `ref_logits` and `ref_hidden` hold the
    rows where `in_reference` (B,) only.
    """

    logps: Tensor
    mask: Tensor
    is_answer: Tensor
    targets: Tensor
    role: Tensor
    totals: Totals
    logits: Tensor | None = None
    hidden: Tensor | None = None
    ref_logps: Tensor | None = None
    ref_logits: Tensor | None = None
    ref_hidden: Tensor | None = None
    in_reference: Tensor | None = None
    last: Mapping[str, float] = field(default_factory=dict)

    def rows(self, role: Role) -> Tensor:
        """Which rows have this role, (B,)."""
        return self.role == role

    def answers(self, role: Role) -> Tensor:
        """Answer positions of this role's rows, (B, R)."""
        return self.is_answer & self.rows(role)[:, None]

    def sums(self, role: Role) -> Tensor:
        """log p(answer | prompt) of each row of this role, (b,) [nats]."""
        return (self.logps * self.is_answer).sum(1)[self.rows(role)]

    def ref_sums(self, role: Role) -> Tensor:
        """The same under the frozen target, (b,) [nats]."""
        return (require(self.ref_logps) * self.is_answer).sum(1)[self.rows(role)]

    def lengths(self, role: Role) -> Tensor:
        """Answer tokens of each row of this role, (b,)."""
        return self.is_answer.sum(1)[self.rows(role)]

    def logits_at(self, positions: Tensor) -> Tensor:
        """Logits that predict the targets at `positions` (B, R), labels all of them: (N, V)."""
        return logits_that_predict(require(self.logits), positions, self.mask)

    def ref_logits_at(self, positions: Tensor) -> Tensor:
        """The frozen target's logits at the same `positions` (B, R): (N, V)."""
        chosen = require(self.in_reference)
        return logits_that_predict(require(self.ref_logits), positions[chosen], self.mask[chosen])

    def in_reference_of(self, role: Role) -> Tensor:
        """Which rows of `ref_logits` and `ref_hidden` have this role."""
        return self.rows(role)[require(self.in_reference)]


def logits_that_predict(logits: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Of `logits` (labels, V) or (B, R or T, V), those that predict the targets at `positions` (B, R): (N, V)."""
    if logits.ndim == 2:
        return logits[positions[mask]]
    return (logits if logits.shape[1] == mask.shape[1] else logits[:, :-1])[positions]


def require(signal: Tensor | None) -> Tensor:
    """A signal that `Needs` asks for; without it the code is wrong, not a config."""
    assert signal is not None, "this signal was not asked for in `needs`"
    return signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """A micro-batch's share of the optimizer step's loss, and parts of it worth logging (also shares)."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """Signals in, losses out."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    @property
    def needs(self) -> Needs:
        """What must be computed for it."""
        ...

    def __call__(self, s: Signals) -> Losses:
        """The micro-batch's share of the step's loss."""
        ...
