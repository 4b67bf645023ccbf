"""Which rows are in which micro-batch, for all epochs, decided before training.

Nothing random happens later: the schedule is a pure function of row lengths, sizes and a seed.
A unit is one example: its own row and, where a loss compares, rows with other answers, which never part.
Each epoch is a fresh permutation of the forget units; retain units are partners in the same optimizer step. Units are
sorted by length only inside one optimizer step, so that bucketing saves padding without changing what any step
optimises; losses divide by the step's totals, so neither does the size of micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lume_run.common.lazy import torch
from lume_run.methods.needs import Count, Role, Totals
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.micro_batches import ForwardBounds, Unit, fewest_groups, forward_of, split_units

IDLE_ROLE = -1  # the role of rows that count for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Row numbers of one forward of one device, and the totals of the optimizer step they are part of.

    An `idle` one fills a short step up: its rows run, so that all devices stay in step, and count for nothing.
    """

    rows: tuple[int, ...]
    totals: Totals
    idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Every micro-batch in order: `accumulation` of them make one optimizer step."""

    micro_batches: tuple[MicroBatch, ...]
    accumulation: int
    steps: int
    steps_per_epoch: int


def _stream(units: Sequence[Unit], seed: tuple[int, ...]) -> Iterator[Unit]:
    """Endless fresh permutations of `units`."""
    epoch = 0
    while units:
        order = np.random.default_rng([*seed, epoch]).permutation(len(units))
        yield from (units[position] for position in order)
        epoch += 1


def units_of(rows: Sequence[TokenRow]) -> tuple[list[Unit], list[Unit]]:
    """(forget units, retain units) in the order of their first rows."""
    sides: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
    for number, row in enumerate(rows):
        sides[not row.role.is_forget].setdefault(row.example_id, []).append(number)
    forget, retain = ([tuple(numbers) for numbers in side.values()] for side in sides)
    return forget, retain


def totals_of(rows: Sequence[TokenRow], groups: Sequence[Sequence[int]], pad_to: int = 0) -> Totals:
    """Counts over one optimizer step that is forwarded as `groups` of row numbers."""
    counts: dict[Role, Count] = {}
    for group in groups:
        width = max(pad_to, *(len(rows[number].ids) for number in group))
        for row in (rows[number] for number in group):
            before = counts.get(row.role, Count())
            counts[row.role] = Count(
                rows=before.rows + 1,
                tokens=before.tokens + row.answers,
                labels=before.labels + row.labels,
                positions=before.positions + width,
                lengths=(*before.lengths, row.answers),
            )
    return Totals(counts=counts)


def build_schedule(
    rows: Sequence[TokenRow],
    *,
    batch_size: int,
    epochs: float,
    seed: int,
    micro_batch_tokens: int | None = None,
    micro_batch_size: int | None = None,
    padded: bool = False,
    retain_ratio: int = 1,
    partners_by_index: bool = False,
    chunk_size: int | None = None,
    alternate: bool = False,
    pad_to: int = 0,
    world_size: int = 1,
    rank: int = 0,
) -> Schedule:
    """The schedule of one rank.

    `batch_size` forget units and `retain_ratio` retain units for each of them (where there are any) make an optimizer
    step, chosen as `partners_of` says; with `alternate` they make `retain_ratio` + 1 steps, the forget units first.
    A forward on one device holds at most `micro_batch_tokens` tokens (with `padded`, of its padded rows) and
    `micro_batch_size` rows, as `ForwardBounds` says; all steps and ranks have as many forwards, of about as many
    tokens. With `chunk_size` all epochs over the first so many forget units come before the next ones
    (AILS-NTUA's data chunking). With no forget rows at all (fine-tuning) the retain rows are the epoch.
    """
    forget, retain = units_of(rows)
    main, partners = (forget, retain) if forget else (retain, [])
    order = partners_of(main, partners, by_index=partners_by_index, seed=seed)
    steps = list(_steps(main, order, batch_size, epochs, seed, retain_ratio, chunk_size, alternate))
    bounds = ForwardBounds(tokens=micro_batch_tokens, rows=micro_batch_size, padded=padded, pad_to=pad_to)
    micro_batches = list(_micro_batches(rows, steps, bounds, world_size))
    return Schedule(
        micro_batches=tuple(micro_batches[rank::world_size]),
        accumulation=len(micro_batches) // world_size // len(steps),
        steps=len(steps),
        steps_per_epoch=max(1, -(-len(main) // batch_size)),
    )


def _micro_batches(
    rows: Sequence[TokenRow], steps: Sequence[Sequence[Unit]], bounds: ForwardBounds, world_size: int
) -> Iterator[MicroBatch]:
    """Those of all ranks in turn, shortest rows of a step first; equally many a step, idle ones fill a short one up."""
    sizes = {unit: forward_of(rows, unit) for step in steps for unit in step}
    steps = [sorted(step, key=lambda unit: (sizes[unit].longest, unit)) for step in steps]
    forwards = max(fewest_groups([sizes[unit] for unit in step], bounds) for step in steps)
    count = -(-forwards // world_size) * world_size
    for step in steps:
        units = iter(step)
        counts = split_units([sizes[unit] for unit in step], count, bounds)
        groups = [[row for unit in islice(units, size) for row in unit] for size in counts]
        totals = totals_of(rows, groups, bounds.pad_to)
        yield from (MicroBatch(rows=tuple(group), totals=totals) for group in groups)
        yield from [MicroBatch(rows=step[0], totals=totals, idle=True)] * (count - len(groups))


def count_steps(
    units: int, *, batch_size: int, epochs: float, chunk_size: int | None = None, steps_each: int = 1
) -> int:
    """Optimizer steps over `units` main units; `steps_each` of them for each batch (with `alternate`)."""
    sizes = [min(chunk_size or units, units - begin) for begin in range(0, units, chunk_size or units or 1)]
    return steps_each * sum(-(-max(1, round(size * epochs)) // batch_size) for size in sizes)


Partners = Callable[[Sequence[Unit]], list[Unit]]  # the retain units of so many forget units


def partners_of(forget: Sequence[Unit], retain: Sequence[Unit], *, by_index: bool, seed: int) -> Partners | None:
    """How retain units are chosen; None where there are none.

    They come in turn, from permutations of all of them; or `by_index`, for forget unit i always the same one, as in
    closer-look: i + r (modulo their number), r drawn below their number by torch's generator with the seed i.
    """
    if not retain:
        return None
    if not by_index:
        stream = _stream(retain, (seed, 1))
        return lambda units: list(islice(stream, len(units)))
    count = len(retain)
    draws = (int(torch.randint(0, count, (1,), generator=torch.Generator().manual_seed(i))) for i in range(len(forget)))
    fixed = {
        unit: retain[(number + draw) % count] for number, (unit, draw) in enumerate(zip(forget, draws, strict=True))
    }
    return lambda units: [fixed[unit] for unit in units]


def _steps(
    main: list[Unit],
    partners: Partners | None,
    batch_size: int,
    epochs: float,
    seed: int,
    retain_ratio: int,
    chunk_size: int | None,
    alternate: bool,
) -> Iterator[list[Unit]]:
    """The units of every optimizer step."""
    for begin in range(0, len(main), chunk_size or len(main)):
        chunk = main[begin : begin + (chunk_size or len(main))]
        place = (seed, 0, begin) if begin else (seed, 0)
        stream = islice(_stream(chunk, place), max(1, round(len(chunk) * epochs)))
        while step := list(islice(stream, batch_size)):
            beside = [partners(step) for _ in range(retain_ratio)] if partners else []
            yield from ([step, *beside] if alternate and partners else [sum(beside, step)])
