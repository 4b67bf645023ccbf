"""Which rows stand in which micro-batch, for all epochs, written down before training.

Nothing random happens later: the schedule is a pure function of row lengths, sizes and a seed.
Each epoch is a fresh permutation of the forget rows; retain rows come from their own cycled
permutations, one for each forget row (their partner in the same optimizer step). Rows are sorted by
length only inside one optimizer step, so that bucketing saves padding without changing what
any step optimises; losses divide by the step's totals, so neither does the micro-batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from lume_run.contracts import Totals
from lume_run.text import TokenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Row numbers of one forward of one device, and the totals of the optimizer step they are part of."""

    rows: tuple[int, ...]
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Every micro-batch in order: `accumulation` of them make one optimizer step (the last step may have fewer)."""

    micro_batches: tuple[MicroBatch, ...]
    accumulation: int
    steps: int
    steps_per_epoch: int


def _stream(rows: Sequence[int], seed: tuple[int, ...]) -> Iterator[int]:
    """Endless fresh permutations of `rows`."""
    epoch = 0
    while rows:
        order = np.random.default_rng([*seed, epoch]).permutation(len(rows))
        yield from (rows[position] for position in order)
        epoch += 1


def totals_of(rows: Sequence[TokenRow], groups: Sequence[Sequence[int]]) -> Totals:
    """Counts over one optimizer step that is forwarded as `groups` of row numbers."""
    counts = dict.fromkeys(("forget_rows", "forget_tokens", "forget_positions"), 0)
    counts |= dict.fromkeys(("retain_rows", "retain_tokens", "retain_positions"), 0)
    for group in groups:
        width = max(len(rows[number].ids) for number in group)
        for number in group:
            side = "forget" if rows[number].is_forget else "retain"
            counts[f"{side}_rows"] += 1
            counts[f"{side}_tokens"] += rows[number].labels
            counts[f"{side}_positions"] += width
    return Totals(**counts)


def write_schedule(
    rows: Sequence[TokenRow],
    *,
    batch_size: int,
    micro_batch_size: int,
    epochs: float,
    seed: int,
    retain_rows: bool,
    world_size: int = 1,
    rank: int = 0,
) -> Schedule:
    """The schedule of one rank.

    `batch_size` forget rows (and as many retain rows when `retain_rows`) make an optimizer step;
    `micro_batch_size` rows of both kinds together make a forward on one device. With no forget rows
    at all (fine-tuning) the retain rows are the epoch.
    """
    forget = [number for number, row in enumerate(rows) if row.is_forget]
    retain = [number for number, row in enumerate(rows) if not row.is_forget]
    main, partners = (forget, retain) if forget else (retain, [])
    count = max(1, round(len(main) * epochs))
    main_stream = islice(_stream(main, (seed, 0)), count)
    partner_stream = _stream(partners, (seed, 1)) if retain_rows else iter(())
    rows_per_step = batch_size * (2 if retain_rows and partners else 1)
    accumulation = max(1, -(-rows_per_step // (micro_batch_size * world_size)))
    mine: list[MicroBatch] = []
    steps = 0
    while step := list(islice(main_stream, batch_size)):
        step += list(islice(partner_stream, len(step)))
        groups = _cut(sorted(step, key=lambda n: (len(rows[n].ids), n)), accumulation * world_size)
        totals = totals_of(rows, groups)
        share = groups[rank::world_size]
        mine += [MicroBatch(rows=tuple(group), totals=totals) for group in share]
        steps += 1
    return Schedule(
        micro_batches=tuple(mine),
        accumulation=accumulation,
        steps=steps,
        steps_per_epoch=max(1, -(-len(main) // batch_size)),
    )


def _cut(rows: list[int], groups: int) -> list[list[int]]:
    """`rows` in order, cut into `groups` parts whose sizes differ by at most one.

    A short last step may have fewer rows than groups; it then gets one row a group.
    """
    groups = min(groups, len(rows))
    bounds = [round(number * len(rows) / groups) for number in range(groups + 1)]
    return [rows[begin:end] for begin, end in pairwise(bounds)]
