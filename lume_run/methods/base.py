"""What a method sees, returns and asks for. Pure tensors: no model, tokenizer or config reaches a method.

Shapes: B rows of a micro-batch, b of them in one role, R label positions (padded), T tokens, V vocabulary,
H hidden size, N label positions picked out of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from lume_run.methods.needs import Needs, Role, TokenLoss, Totals

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """One fused forward over the rows of all roles.

    `logps` (B, R) log-probabilities [nats] of the label tokens `targets` (B, R), 0 outside `mask`; float32 or
    wider. `mask` (B, R) true at labels, `is_answer` (B, R) at those of the answer (the same thing unless prompts are
    labelled too). `role` (B,) numbers of `Role`. `totals` counts the
    whole optimizer step, `last` is what the step before logged (empty at the first).
    `token_losses` holds those that were read (B, R) of each label of their role, 0 elsewhere. Unless logits were
    read `in_parts`, `logits` predict `targets`: those of the labels alone, (labels, V), row by row; or (B, R, V); or
    every position (B, T, V), when asked for. `hidden` (B, T, H) is the output of the layer asked for.
    `ref_logps` (B, R) come from the cache; `ref_logits` and `ref_hidden` hold the
    rows where `in_reference` (B,) only. `members` and `reference_members` are the numbers of the rows of a role, among
    all and among those: to look for them on a device would have the host wait.
    """

    logps: Tensor
    mask: Tensor
    is_answer: Tensor
    targets: Tensor
    role: Tensor
    totals: Totals
    token_losses: Mapping[TokenLoss, Tensor] = field(default_factory=dict)
    in_parts: bool = False
    logits: Tensor | None = None
    hidden: Tensor | None = None
    ref_logps: Tensor | None = None
    ref_logits: Tensor | None = None
    ref_hidden: Tensor | None = None
    in_reference: Tensor | None = None
    members: Mapping[Role, Tensor] = field(default_factory=dict)
    reference_members: Mapping[Role, Tensor] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)

    @property
    def has_logps(self) -> bool:
        """Whether log-probabilities were computed; they are 0 where the forward stopped at a layer."""
        return self.in_parts or self.logits is not None

    def rows(self, role: Role) -> Tensor:
        """Which rows have this role, (B,)."""
        return self.role == role

    def answers(self, role: Role) -> Tensor:
        """Answer positions of this role's rows, (B, R)."""
        return self.is_answer & self.rows(role)[:, None]

    def sums(self, role: Role) -> Tensor:
        """log p(answer | prompt) of each row of this role, (b,) [nats]."""
        return self.of_role(role, (self.logps * self.is_answer).sum(1))

    def ref_sums(self, role: Role) -> Tensor:
        """The same under the frozen target, (b,) [nats]."""
        return self.of_role(role, (require(self.ref_logps) * self.is_answer).sum(1))

    def lengths(self, role: Role) -> Tensor:
        """Answer tokens of each row of this role, (b,)."""
        return self.of_role(role, self.is_answer.sum(1))

    def of_role(self, role: Role, values: Tensor) -> Tensor:
        """The values (b, ...) of this role's rows, of those of all rows (B, ...)."""
        numbers = self.members.get(role)
        return values[self.rows(role)] if numbers is None else values.index_select(0, numbers)

    def of_reference(self, role: Role, values: Tensor) -> Tensor:
        """The values (b, ...) of this role's rows, of those that the frozen target ran on."""
        numbers = self.reference_members.get(role)
        return values[self.in_reference_of(role)] if numbers is None else values.index_select(0, numbers)

    def at_tokens(self, loss: TokenLoss, positions: Tensor) -> Tensor:
        """What a loss of the role's labels reads at `positions` (B, R) among them, 0 elsewhere: (B, R)."""
        values = self.token_losses.get(loss)
        if values is None:  # logits of all labels are at hand
            labels = self.mask & self.rows(loss.role)[:, None]
            theirs = self.ref_logits_at(labels) if loss.reads_reference else None
            read = loss.at_tokens(self.logits_at(labels), self.targets[labels], theirs)
            values = read.new_zeros(labels.shape).masked_scatter(labels, read)
        return values.where(positions, 0.0)

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


@dataclass(frozen=True, kw_only=True)
class TokenMean:
    """A part that is the mean, over the answer tokens of a role, of one number read of each predicted distribution.

    A part of this kind says what it reads (`at_tokens`); it is a `TokenLoss`, read a part of the labels at a time.
    """

    role: ClassVar[Role] = Role.FORGET
    reads_reference: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """Rows of the role and their distributions, those of the frozen target too where they are read."""
        reference = {self.role} if self.reads_reference else frozenset[Role]()
        return Needs(rows={self.role}, token_losses=(self,), reference_logits=reference)

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """(N,) numbers from logits (N, V) that predict the labels `targets` (N,), and the reference's (N, V)."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing of its distributions")

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return s.at_tokens(self, s.answers(self.role)).sum() / s.totals.of(self.role).tokens


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
