"""What a method asks for: rows in roles, what is read of them, and the counts that losses divide by.

Shapes: N labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

from lume_run.common.records import Example, Kind, Split, TaskData

if TYPE_CHECKING:
    from torch import Tensor

MIDDLE = -1  # hidden_layer: the other part's layer, or the middle of the model


class Role(IntEnum):
    """What a row is to the loss: whose prompt it has, and which answer.

    The rows of one example (its own answer, a refusal, another's answer) are always in the same micro-batch,
    in the same order, so that `Signals` of two roles line up row by row, or group by group.
    """

    FORGET = 0  # a forget example
    RETAIN = 1  # a retain example
    FORGET_IDK = 2  # a forget prompt answered by a refusal ("I don't know")
    RETAIN_IDK = 3  # a retain prompt answered by a refusal
    FORGET_MISMATCH = 4  # a forget prompt answered with the answer of some retain example
    FORGET_ALTERNATE = 5  # a forget prompt with an answer that the target made up; several an example

    @property
    def is_forget(self) -> bool:
        """Whether the prompt is a forget example's."""
        return self not in (Role.RETAIN, Role.RETAIN_IDK)


class TokenLoss(Protocol):
    """Reads one number of each distribution that predicts a label of rows in `role`.

    It is called with a part of the labels at a time, never with logits of all, and is a key: equal ones read the same.
    `reads_reference`: the frozen target's logits too (`Needs.reference_logits` has the role). Not `differentiable`: it
    is read without a gradient.
    """

    role: ClassVar[Role]
    reads_reference: ClassVar[bool]
    differentiable: ClassVar[bool]

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """(N,) numbers from logits (N, V) that predict the labels `targets` (N,), and the reference's (N, V)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What must be computed for a method; the plan turns this into rows, caches and memory.

    `rows`: the roles it reads. `reference_logps`: roles whose label log-probs under the frozen target
    are cached before training. `reference_logits`, `reference_hidden`: roles that need a live frozen target (the
    adapters-off model under LoRA, otherwise one frozen copy). `hidden_layer`: the decoder layer whose output is
    wanted, or MIDDLE; `logits=False` then lets the forward stop there. `whole_rows`: roles whose prompts are
    labelled too. `token_losses`: numbers that it reads of each predicted distribution, beside the label's log-prob.
    `distributions`: it reads the logits themselves, all at once, which takes memory.
    `every_position`: logits of prompt and padding too, rows right-padded to at least `pad_to` tokens.
    `released_means`: it averages as released code does, over what stands in a micro-batch.
    """

    rows: Set[Role] = frozenset()
    reference_logps: Set[Role] = frozenset()
    reference_logits: Set[Role] = frozenset()
    reference_hidden: Set[Role] = frozenset()
    whole_rows: Set[Role] = frozenset()
    hidden_layer: int | None = None
    logits: bool = True
    token_losses: tuple[TokenLoss, ...] = ()
    distributions: bool = False
    every_position: bool = False
    released_means: bool = False
    pad_to: int = 0

    @property
    def depends_on_micro_batches(self) -> bool:
        """Whether a loss is another one with other rows beside a row, in its value and not only in its rounding."""
        return self.every_position or self.released_means

    @property
    def shares_prompts(self) -> bool:
        """Whether some example has rows with several answers behind one prompt."""
        return len({role.is_forget for role in self.rows}) < len(self.rows)

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
            token_losses=tuple(dict.fromkeys((*self.token_losses, *other.token_losses))),
            distributions=self.distributions or other.distributions,
            every_position=self.every_position or other.every_position,
            released_means=self.released_means or other.released_means,
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


def asked_rows(data: TaskData, *sides: Split) -> tuple[Example, ...]:
    """What a text answers on the forget or the retain side: its rows, or where those are chunks, rows of `others`."""
    if any(row.kind is Kind.CHUNK for row in data.forget):
        rows = [row for row in data.others if row.kind is not Kind.CHOICE]
        return tuple(row for side in sides for row in rows if row.split is side)
    return tuple(row for side in sides for row in (data.forget if side is Split.FORGET else data.retain))
