"""Units of rows in so many groups, each for one forward on one device, of about the same size.

A forward is bounded by its tokens, which are what it costs, and by its rows where that is asked for. Units stay in
order and whole: one that is larger than the bounds stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lume_run.models.rows.tokenise import TokenRow

Unit = tuple[int, ...]  # row numbers of one example
DEFAULT_TOKENS = 2048  # of a forward on a CPU: more would be no faster
HALVINGS = 16  # of the interval in which the size of the largest group is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBounds:
    """What one forward on one device may hold: so many tokens, so many rows (None: any number).

    With `padded` a row takes as many tokens as the longest beside it, `pad_to` at least; else its own.
    """

    tokens: int | None = None
    rows: int | None = None
    padded: bool = False
    pad_to: int = 0

    def share(self, forward: Forward) -> float:
        """The part of the bounds that a forward takes, by whichever is nearer; its tokens where there are none."""
        tokens = forward.rows * max(forward.longest, self.pad_to) if self.padded else forward.tokens
        if self.tokens is None and self.rows is None:
            return float(tokens)
        return max(tokens / self.tokens if self.tokens else 0.0, forward.rows / self.rows if self.rows else 0.0)


@dataclass(frozen=True, slots=True)
class Forward:
    """How many rows and tokens stand in a forward, and the tokens of its longest row."""

    rows: int = 0
    tokens: int = 0
    longest: int = 0

    def __add__(self, other: Forward) -> Forward:
        """Both together."""
        return Forward(self.rows + other.rows, self.tokens + other.tokens, max(self.longest, other.longest))


def forward_of(rows: Sequence[TokenRow], unit: Unit) -> Forward:
    """A unit alone."""
    lengths = [len(rows[number].ids) for number in unit]
    return Forward(len(lengths), sum(lengths), max(lengths))


def fewest_groups(units: Sequence[Forward], bounds: ForwardBounds) -> int:
    """How many groups it takes.

    Bounded by rows alone, as many as if units could be parted: a group may then hold a unit more.
    """
    if bounds.tokens is not None:
        return len(list(_fill(units, bounds, 1.0, 1)))
    return -(-sum(unit.rows for unit in units) // bounds.rows) if bounds.rows else 1


def split_units(units: Sequence[Forward], groups: int, bounds: ForwardBounds) -> list[int]:
    """Sizes of `groups` groups of `units` in order, the largest as small as can be.

    A short step may have fewer units than groups; it then gets one unit a group.
    """
    groups = min(groups, len(units))
    low, high = max(bounds.share(unit) for unit in units), bounds.share(sum(units, Forward()))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if len(list(_fill(units, bounds, middle, groups))) <= groups:
            high = middle
        else:
            low = middle
    return list(_fill(units, bounds, high, groups))


def _fill(units: Sequence[Forward], bounds: ForwardBounds, most: float, groups: int) -> Iterator[int]:
    """Sizes of groups that take at most the part `most` of the bounds each, `groups` of them at least."""
    size, filled, closed = 0, Forward(), 0
    for place, unit in enumerate(units):
        is_full = size and bounds.share(filled + unit) > most
        if size and (is_full or len(units) - place < groups - closed):
            yield size
            size, filled, closed = 0, Forward(), closed + 1
        size, filled = size + 1, filled + unit
    yield size
