"""Rows as a tree of segments: tokens that several rows begin with stand once, before what follows them in each row.

A segment is run once. Its tokens see those of the segments before it, its parents, and their own segment's up to
themselves, which is what they see in the row: causal attention and positions know nothing of other rows.
Only equal tokens at the beginning are shared; rows are never tokenised in another way for it. `collate(rows,
shares=True)` makes a batch of any rows that is run so, and everything that reads the batch stays as it is: labels,
targets and hidden states are those of padded rows. It is differentiable; under dropout a shared token is drawn once.
Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lume_run.models.rows.tokenise import TokenRow

SHARED_TOKENS = 8  # at least: to part rows for less costs more in attention than it spares in layers
COPIES = 8  # at most, of a batch's tokens: attention copies shared keys and values for each row behind them


class Segment(NamedTuple):
    """The tokens of row number `row` from `begin` to `end`, behind those of its `parents` (numbers of segments)."""

    row: int
    begin: int
    end: int
    parents: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of its own tokens."""
        return self.end - self.begin


class Tree(NamedTuple):
    """All segments, parents first, and for each row those that it consists of, in order."""

    segments: list[Segment]
    paths: list[tuple[int, ...]]

    @property
    def tokens(self) -> int:
        """How many tokens a model is run on."""
        return sum(segment.length for segment in self.segments)


def rows_apart(rows: Sequence[TokenRow]) -> Tree:
    """Every row a segment of its own."""
    return Tree([Segment(n, 0, len(row.ids), ()) for n, row in enumerate(rows)], [(n,) for n in range(len(rows))])


def prefix_tree(rows: Sequence[TokenRow]) -> Tree:
    """What rows begin with in common, of SHARED_TOKENS tokens or more, as segments of its own."""
    order, common = order_by_prefix(rows)
    segments: list[Segment] = []
    paths: list[tuple[int, ...]] = [()] * len(rows)
    # rows from .. to in this order, of which so many first tokens stand in a path of segments
    waiting: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(rows), 0, ())]
    while waiting:
        begin, end, depth, path = waiting.pop()
        for first, last in _runs(common, begin, end, depth + SHARED_TOKENS):
            row, alone = order[first], last - first == 1
            stop = len(rows[row].ids) if alone else min(common[first + 1 : last])
            longer = path
            if stop > depth:
                longer = (*path, len(segments))
                segments.append(Segment(row, depth, stop, path))
            if alone:
                paths[row] = longer
            else:
                waiting.append((first, last, stop, longer))
    return Tree(segments, paths)


def order_by_prefix(rows: Sequence[TokenRow]) -> tuple[list[int], list[int]]:
    """(row numbers by their tokens, how many first tokens each has in common with the one before it)."""
    tokens = [np.array(row.ids, dtype=">u4") for row in rows]  # bytes compare as big-endian numbers do
    order = sorted(range(len(rows)), key=lambda number: tokens[number].tobytes())
    common = [_common_tokens(tokens[first], tokens[second]) for first, second in pairwise(order)]
    return order, [0, *common]


def prefix_batches(rows: Sequence[TokenRow], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of at most `batch_tokens` tokens, of which shared ones count once; or of one row.

    Rows that share something stand together, those with the longest of all first.
    """
    order, common = order_by_prefix(rows)
    families = [range(first, last) for first, last in _runs(common, 0, len(rows), SHARED_TOKENS)]
    batches: list[list[int]] = []
    distinct = copied = 0
    for family in sorted(families, key=lambda family: -max(len(rows[order[place]].ids) for place in family)):
        for place in family:
            length = len(rows[order[place]].ids)
            added = length - common[place] if place > family[0] else length
            if not batches or distinct + added > batch_tokens or copied + length > COPIES * batch_tokens:
                batches.append([])
                distinct, copied, added = 0, 0, length  # nothing is shared with another batch
            batches[-1].append(order[place])
            distinct, copied = distinct + added, copied + length
    return batches


def distinct_tokens(rows: Sequence[TokenRow]) -> int:
    """How many tokens rows have, shared ones counted once."""
    return prefix_tree(rows).tokens


def _common_tokens(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two rows begin with in common."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length


def _runs(common: Sequence[int], begin: int, end: int, least: int) -> Iterator[tuple[int, int]]:
    """(from, to) of neighbours that have at least so many first tokens in common, one after another."""
    first = begin
    for number in range(begin + 1, end):
        if common[number] < least:
            yield first, number
            first = number
    if end > begin:
        yield first, end
