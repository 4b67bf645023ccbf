"""The written schedule: what stands in which step, counted again by hand for many sizes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest

from lume_run.methods.needs import Count, Role, Totals
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.schedule import MicroBatch, Schedule, build_schedule, count_steps

SIZES = list(product((1, 3, 7, 12), (1, 5, 20), (1, 2, 4, 5), (1, 2, 3, 8)))  # forget, retain, batch, micro-batch


def make_rows(forget: int, retain: int, roles: Sequence[Role] = (Role.FORGET, Role.RETAIN)) -> list[TokenRow]:
    """One row an example and role, of uneven lengths, forget ones first, role by role as `rows.examples_of` has them.

    Row k has 3 to 13 tokens and 1 to 4 labels.
    """
    examples = [f"row-{number}" for number in range(forget + retain)]
    named = [
        (role, name)
        for role in sorted(roles, key=lambda role: (not role.is_forget, role))
        for name in (examples[:forget] if role.is_forget else examples[forget:])
    ]
    return [
        TokenRow(
            example_id=name,
            ids=tuple(range(length := 3 + number * 7 % 11)),
            answer_start=max(1, length - 1 - number % 4),
            label_start=max(1, length - 1 - number % 4),
            role=role,
        )
        for number, (role, name) in enumerate(named)
    ]


def schedule_of(
    rows: Sequence[TokenRow],
    *,
    batch: int = 4,
    micro: int | None = 2,
    epochs: float = 2.0,
    seed: int = 0,
    **others: Any,
) -> Schedule:
    return build_schedule(rows, batch_size=batch, micro_batch_size=micro, epochs=epochs, seed=seed, **others)


def steps_of(schedule: Schedule) -> list[list[MicroBatch]]:
    """Micro-batches as the trainer takes them: `accumulation` at a time."""
    size = schedule.accumulation
    return [list(schedule.micro_batches[begin : begin + size]) for begin in range(0, len(schedule.micro_batches), size)]


def without_idle(step: Sequence[MicroBatch]) -> list[MicroBatch]:
    """The micro-batches that count."""
    return [micro for micro in step if not micro.idle]


def rows_of(step: Sequence[MicroBatch]) -> list[int]:
    """The rows that count, in order."""
    return [number for micro in without_idle(step) for number in micro.rows]


def forget_rows_of(rows: Sequence[TokenRow], step: Sequence[MicroBatch]) -> list[int]:
    return [number for number in rows_of(step) if rows[number].role.is_forget]


def retain_rows_of(rows: Sequence[TokenRow], step: Sequence[MicroBatch]) -> list[int]:
    return [number for number in rows_of(step) if not rows[number].role.is_forget]


def recount(rows: Sequence[TokenRow], step: Sequence[MicroBatch], pad_to: int = 0) -> Totals:
    """The totals, from the rows themselves; every row of a micro-batch is as wide as its longest one."""
    counts: dict[Role, dict[str, Any]] = {}
    for micro in without_idle(step):
        for number in micro.rows:
            row = rows[number]
            count = counts.setdefault(row.role, {"rows": 0, "tokens": 0, "labels": 0, "positions": 0, "lengths": ()})
            count["rows"] += 1
            count["tokens"] += len(row.ids) - row.answer_start
            count["labels"] += len(row.ids) - row.label_start
            count["positions"] += max([pad_to, *(len(rows[other].ids) for other in micro.rows)])
            count["lengths"] += (len(row.ids) - row.answer_start,)
    return Totals(counts={role: Count(**count) for role, count in counts.items()})


def in_any_order(totals: Totals) -> dict[Role, Count]:
    """Rows have no order among the ranks of a step."""
    return {role: replace(count, lengths=tuple(sorted(count.lengths))) for role, count in totals.counts.items()}


def without_positions(totals: Totals) -> dict[Role, Count]:
    """Padded positions depend on the micro-batch size by definition; nothing else may."""
    return {role: replace(count, positions=0) for role, count in totals.counts.items()}


def test_by_hand():
    """3 forget and 2 retain rows, 2 + 2 rows a step: 2 steps, the second with 1 + 1 rows."""
    rows = make_rows(3, 2)
    schedule = schedule_of(rows, batch=2, micro=2, epochs=1)
    assert schedule.steps == schedule.steps_per_epoch == 2
    assert schedule.accumulation == 2  # (2 + 2) rows / 2 rows
    assert [len(micro.rows) for micro in schedule.micro_batches] == [2, 2, 1, 1]
    first, last = steps_of(schedule)
    assert without_positions(first[0].totals) == without_positions(recount(rows, first))
    assert last[0].totals.of(Role.FORGET).rows == last[0].totals.of(Role.RETAIN).rows == 1
    assert not any(micro.idle for micro in schedule.micro_batches)


def test_a_function_of_its_arguments_and_the_seed_alone():
    rows = make_rows(12, 9)
    assert schedule_of(rows, seed=5) == schedule_of(rows, seed=5)
    assert schedule_of(rows, seed=5) != schedule_of(rows, seed=6)
    orders = [[forget_rows_of(rows, step) for step in steps_of(schedule_of(rows, seed=seed))] for seed in (5, 6)]
    assert orders[0] != orders[1]


def test_every_epoch_is_a_fresh_permutation():
    rows = make_rows(12, 0)
    steps = [sorted(rows_of(step)) for step in steps_of(schedule_of(rows, batch=4, epochs=2))]
    assert len(steps) == 6
    assert sorted(sum(steps[:3], [])) == sorted(sum(steps[3:], [])) == list(range(12))
    assert steps[:3] != steps[3:]


@pytest.mark.parametrize(("forget", "retain", "batch", "micro"), SIZES)
def test_counts(forget, retain, batch, micro):
    rows, epochs = make_rows(forget, retain), 3
    schedule = schedule_of(rows, batch=batch, micro=micro, epochs=epochs)
    steps = steps_of(schedule)

    assert len(steps) == schedule.steps == math.ceil(forget * epochs / batch)
    assert schedule.steps_per_epoch == math.ceil(forget / batch)
    assert schedule.accumulation == math.ceil(2 * min(batch, forget * epochs) / micro)

    forgotten = Counter(number for step in steps for number in forget_rows_of(rows, step))
    assert forgotten == dict.fromkeys(range(forget), epochs)
    partners = Counter(number for step in steps for number in retain_rows_of(rows, step))
    assert sum(partners.values()) == forget * epochs  # one for each forget row
    used = [partners[number] for number in range(forget, forget + retain)]
    assert max(used) - min(used) <= 1  # cycled: nobody comes again before everybody came

    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        assert len(step) == schedule.accumulation
        assert not any(each.idle for each in step) or last
        assert all(1 <= len(each.rows) <= micro for each in step)
        side = [rows[row].role for row in rows_of(step)]
        assert side.count(Role.FORGET) == side.count(Role.RETAIN)
        assert side.count(Role.FORGET) == (batch if not last else forget * epochs - batch * (len(steps) - 1))
        lengths = [len(rows[row].ids) for row in rows_of(step)]
        assert lengths == sorted(lengths)  # only inside the step, see the test below
        assert all(each.totals == recount(rows, step) for each in step)


def test_partners_cycle_epoch_after_epoch():
    """5 retain rows for 12 forget rows: each stretch of 5 partners holds all five."""
    rows = make_rows(12, 5)
    partners = [
        number
        for step in steps_of(schedule_of(rows, batch=1, micro=2, epochs=5))
        for number in retain_rows_of(rows, step)
    ]
    assert len(partners) == 60
    stretches = [partners[begin : begin + 5] for begin in range(0, 60, 5)]
    assert all(sorted(stretch) == list(range(12, 17)) for stretch in stretches)
    assert len({tuple(stretch) for stretch in stretches}) > 1  # in fresh orders


def test_partners_are_drawn_on_their_own():
    """As many retain as forget rows: a forget row still meets another partner in the next epoch."""
    rows = make_rows(12, 12)
    pairs = [tuple(sorted(rows_of(step))) for step in steps_of(schedule_of(rows, batch=1, micro=2, epochs=2))]
    assert sum(pair in pairs[:12] for pair in pairs[12:]) < 6


def test_sorted_only_within_a_step():
    rows = make_rows(60, 0)
    steps = steps_of(schedule_of(rows, batch=6, micro=2, epochs=1))
    longest = [max(len(rows[row].ids) for row in rows_of(step)) for step in steps]
    shortest = [min(len(rows[row].ids) for row in rows_of(step)) for step in steps]
    assert any(longest[number] > shortest[number + 1] for number in range(len(steps) - 1))
    assert Counter(row for step in steps for row in rows_of(step)) == dict.fromkeys(range(60), 1)


@pytest.mark.parametrize(("forget", "retain", "batch"), list(product((3, 12), (0, 5, 20), (1, 4, 5))))
def test_micro_batch_size_changes_no_step(forget, retain, batch):
    rows = make_rows(forget, retain)
    wanted = schedule_of(rows, batch=batch, micro=2 * batch)
    for micro in range(1, 2 * batch + 3):
        schedule = schedule_of(rows, batch=batch, micro=micro)
        assert (schedule.steps, schedule.steps_per_epoch) == (wanted.steps, wanted.steps_per_epoch)
        assert [rows_of(step) for step in steps_of(schedule)] == [rows_of(step) for step in steps_of(wanted)]
        for mine, theirs in zip(steps_of(schedule), steps_of(wanted), strict=True):
            assert without_positions(mine[0].totals) == without_positions(theirs[0].totals)


def test_without_retain_rows_nothing_is_added():
    rows = make_rows(7, 0)
    schedule = schedule_of(rows, batch=4, micro=2, epochs=1)
    assert schedule.accumulation == 2
    assert sorted(row for step in steps_of(schedule) for row in rows_of(step)) == list(range(7))
    assert all(micro.totals.counts.keys() == {Role.FORGET} for micro in schedule.micro_batches)


def test_retain_rows_do_not_change_the_order_of_forget_rows():
    alone, beside = make_rows(7, 0), make_rows(7, 5)
    assert alone == beside[:7]
    orders = [[sorted(forget_rows_of(rows, step)) for step in steps_of(schedule_of(rows))] for rows in (alone, beside)]
    assert orders[0] == orders[1]


@pytest.mark.parametrize(("count", "batch", "micro"), list(product((1, 6, 13), (1, 4, 5), (1, 2, 8))))
def test_fine_tuning_uses_every_row(count, batch, micro):
    """Without forget rows the retain rows are the epoch, and no partners are added."""
    rows = make_rows(0, count)
    schedule = schedule_of(rows, batch=batch, micro=micro, epochs=2)
    steps = steps_of(schedule)
    assert len(steps) == schedule.steps == math.ceil(2 * count / batch)
    assert schedule.accumulation == math.ceil(min(batch, 2 * count) / micro)
    assert Counter(row for step in steps for row in rows_of(step)) == dict.fromkeys(range(count), 2)
    assert all(each.totals == recount(rows, step) for step in steps for each in step)
    assert all(step[0].totals.counts.keys() == {Role.RETAIN} for step in steps)


@pytest.mark.parametrize(("epochs", "forget_rows"), [(0.5, 6), (1.25, 15), (0.01, 1)])
def test_parts_of_an_epoch(epochs, forget_rows):
    rows = make_rows(12, 5)
    schedule = schedule_of(rows, batch=4, epochs=epochs)
    assert sum(len(forget_rows_of(rows, step)) for step in steps_of(schedule)) == forget_rows
    assert schedule.steps == math.ceil(forget_rows / 4)


# ---------------------------------------------------------------------------------------------------- ranks


def ranks_of(rows: Sequence[TokenRow], world_size: int = 2, **options: Any) -> list[Schedule]:
    return [schedule_of(rows, world_size=world_size, rank=rank, **options) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("forget", "batch", "micro"), list(product((4, 12), (2, 4), (1, 2, 4))))
def test_ranks_share_the_steps_of_one(forget, batch, micro, world_size):
    rows = make_rows(forget, 5)
    alone = steps_of(schedule_of(rows, batch=batch, micro=micro))
    schedules = ranks_of(rows, world_size, batch=batch, micro=micro)
    assert {schedule.accumulation for schedule in schedules} == {math.ceil(2 * batch / (world_size * micro))}
    for whole, *parts in zip(alone, *(steps_of(schedule) for schedule in schedules), strict=True):
        assert {len(part) for part in parts} == {schedules[0].accumulation}  # or one rank would wait for ever
        together = sum(parts, [])
        assert sorted(rows_of(together)) == sorted(rows_of(whole))
        assert all(len(each.rows) <= micro for each in together)
        assert all(in_any_order(each.totals) == in_any_order(recount(rows, together)) for each in together)
        assert without_positions(parts[0][0].totals) == without_positions(whole[0].totals)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    ("forget", "batch", "micro"),
    [(6, 3, 1), (4, 1, 1), (5, 4, 4), (7, 4, 1)],
    ids=["odd step", "one row a step", "one row left", "three rows left"],
)
def test_ranks_always_have_equally_many_micro_batches(forget, batch, micro, world_size):
    """A step with fewer rows than groups: idle micro-batches stand in for the missing ones."""
    rows = make_rows(forget, 0)
    schedules = ranks_of(rows, world_size, batch=batch, micro=micro, epochs=1)
    assert len({(schedule.accumulation, schedule.steps) for schedule in schedules}) == 1
    for schedule in schedules:
        assert len(schedule.micro_batches) == schedule.accumulation * schedule.steps
    places, sizes = world_size * schedules[0].accumulation, [min(batch, forget - at) for at in range(0, forget, batch)]
    idle = sum(micro.idle for schedule in schedules for micro in schedule.micro_batches)
    assert idle == sum(max(0, places - size) for size in sizes)
    counted = Counter(row for schedule in schedules for step in steps_of(schedule) for row in rows_of(step))
    assert counted == dict.fromkeys(range(forget), 1)


def test_an_idle_micro_batch_by_hand():
    """Three rows on two ranks, one row a forward: the fourth place runs the step's shortest row, which counts once."""
    rows = make_rows(3, 0)
    first, second = ranks_of(rows, batch=3, micro=1, epochs=1)
    places = [*first.micro_batches, *second.micro_batches]
    assert [micro.idle for micro in places] == [False, False, False, True]
    (idle,) = [micro for micro in places if micro.idle]
    assert [len(rows[number].ids) for number in idle.rows] == [3]
    assert idle.totals == places[0].totals
    assert idle.totals.of(Role.FORGET).rows == 3


# -------------------------------------------------------------------------------------------- token budgets


def tokens_of(rows: Sequence[TokenRow], micro: MicroBatch, *, padded: bool = False, pad_to: int = 0) -> int:
    """Tokens of a forward over a micro-batch."""
    lengths = [len(rows[number].ids) for number in micro.rows]
    return len(lengths) * max(*lengths, pad_to) if padded else sum(lengths)


def test_tokens_bound_a_forward_by_hand():
    """Rows of 3, 4, 5, 6, 7 and 10 tokens, at most 13 a forward: 3 + 4 + 5, 6 + 7, 10."""
    rows = [
        replace(row, ids=tuple(range(length))) for row, length in zip(make_rows(6, 0), (7, 3, 10, 5, 4, 6), strict=True)
    ]
    schedule = build_schedule(rows, batch_size=6, micro_batch_tokens=13, epochs=1, seed=0)
    assert [[len(rows[n].ids) for n in micro.rows] for micro in schedule.micro_batches] == [[3, 4, 5], [6, 7], [10]]
    padded = build_schedule(rows, batch_size=6, micro_batch_tokens=13, padded=True, epochs=1, seed=0)
    assert [[len(rows[n].ids) for n in micro.rows] for micro in padded.micro_batches] == [[3, 4], [5, 6], [7], [10]]


def test_the_largest_forward_is_as_small_as_can_be():
    """18 tokens in at least two forwards of at most 15: 9 and 9, not 12 and 6."""
    rows = [replace(row, ids=tuple(range(3))) for row in make_rows(6, 0)]
    schedule = build_schedule(rows, batch_size=6, micro_batch_tokens=15, epochs=1, seed=0)
    assert [len(micro.rows) for micro in schedule.micro_batches] == [3, 3]


@pytest.mark.parametrize("begin", range(0, len(SIZES), 12))
def test_token_budgets_change_no_step(begin):
    """Against one forward a step: the same rows in the same steps, the same totals, no forward above the budget."""
    draw = random.Random(begin)
    for forget, retain, batch, micro_rows in SIZES[begin : begin + 12]:
        rows = make_rows(forget, retain, draw.choice(((Role.FORGET, Role.RETAIN), (Role.FORGET, Role.FORGET_IDK))))
        bounds = {"micro_batch_tokens": draw.choice((1, 9, 20, 40)), "padded": draw.random() < 0.5}
        micro = micro_rows if draw.random() < 0.5 else None
        world_size, pad_to = draw.choice((1, 2, 3)), draw.choice((0, 9))
        common = {"batch": batch, "pad_to": pad_to}
        whole = steps_of(schedule_of(rows, micro=None, **common))
        schedules = ranks_of(rows, world_size, micro=micro, **bounds, **common)
        assert len({schedule.accumulation for schedule in schedules}) == 1
        for alone, *parts in zip(whole, *(steps_of(schedule) for schedule in schedules), strict=True):
            assert len(alone) == 1
            together = sum(parts, [])
            assert sorted(rows_of(together)) == sorted(rows_of(alone))
            assert without_positions(Totals(counts=in_any_order(together[0].totals))) == without_positions(
                Totals(counts=in_any_order(alone[0].totals))
            )
            for each in together:
                taken = tokens_of(rows, each, padded=bounds["padded"], pad_to=pad_to)
                single = len({rows[number].example_id for number in each.rows}) == 1
                assert single or taken <= bounds["micro_batch_tokens"]
                assert single or micro is None or len(each.rows) <= micro


def test_ranks_have_about_as_many_tokens():
    """64 rows of 3 to 13 tokens in forwards of 60: in each step no rank has a fifth more than another."""
    rows = make_rows(64, 0)
    schedules = ranks_of(rows, 4, batch=64, micro=None, micro_batch_tokens=60, epochs=2)
    for parts in zip(*(steps_of(schedule) for schedule in schedules), strict=True):
        tokens = [sum(tokens_of(rows, micro) for micro in part) for part in parts]
        assert max(tokens) < 1.2 * min(tokens)


# ------------------------------------------------------------------------------------------------ many cases


EITHER_SIDE = (
    ((Role.FORGET,), ()),
    ((Role.FORGET,), (Role.RETAIN,)),
    ((Role.FORGET, Role.FORGET_IDK), (Role.RETAIN,)),
    ((Role.FORGET_IDK,), (Role.RETAIN, Role.RETAIN_IDK)),
    ((Role.FORGET, Role.FORGET_IDK, Role.FORGET_MISMATCH), (Role.RETAIN, Role.RETAIN_IDK)),
    ((), (Role.RETAIN,)),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of rows and sizes."""

    roles: tuple[tuple[Role, ...], tuple[Role, ...]]
    rows: list[TokenRow]
    options: dict[str, Any] = field(default_factory=dict)
    world_size: int = 1

    @property
    def main(self) -> set[str]:
        """The examples an epoch goes through."""
        side = bool(self.roles[0])
        return {row.example_id for row in self.rows if row.role.is_forget is side}

    @property
    def first_roles(self) -> set[Role]:
        """One role for each side: its rows count examples."""
        return {side[0] for side in self.roles if side}

    @property
    def unit(self) -> int:
        """Rows of the largest example."""
        return max(map(len, self.roles))


def random_case(seed: int) -> Case:
    """Anything that can be asked for, at sizes where it gets tight."""
    draw = random.Random(seed)
    roles = draw.choice(EITHER_SIDE)
    counts = [draw.randint(1, 9) if side else 0 for side in roles]
    rows = make_rows(*counts, roles=[*roles[0], *roles[1]])
    options = {
        "batch": draw.randint(1, 6),
        "micro": draw.randint(1, 9),
        "epochs": draw.choice((0.4, 1, 1.5, 2, 3)),
        "seed": seed,
        "retain_ratio": draw.randint(1, 3) if all(roles) else 1,
        "chunk_size": draw.choice((None, 1, 2, 4, 20)),
        "alternate": all(roles) and draw.random() < 0.4,
        "pad_to": draw.choice((0, 0, 9)),
    }
    return Case(roles=roles, rows=rows, options=options, world_size=draw.choice((1, 1, 2, 3)))


CASES = [random_case(seed) for seed in range(300)]


def test_the_cases_are_of_every_kind():
    for name, values in {
        "retain_ratio": {1, 2, 3},
        "alternate": {True, False},
        "chunk_size": {None, 1, 2, 4, 20},
    }.items():
        assert {case.options[name] for case in CASES} == values
    assert {case.world_size for case in CASES} == {1, 2, 3}
    assert {case.roles for case in CASES} == set(EITHER_SIDE)


@pytest.mark.parametrize("begin", range(0, len(CASES), 60))
def test_every_step_is_full_on_every_rank_and_idle_rows_count_nowhere(begin):
    for case in CASES[begin : begin + 60]:
        rows, options = case.rows, case.options
        schedules = ranks_of(rows, case.world_size, **options)
        assert len({schedule.accumulation for schedule in schedules}) == 1
        accumulation, pad_to = schedules[0].accumulation, options["pad_to"]
        alone = steps_of(schedule_of(rows, **options))
        for whole, *parts in zip(alone, *(steps_of(schedule) for schedule in schedules), strict=True):
            assert {len(part) for part in parts} == {accumulation}
            together = sum(parts, [])
            assert Counter(rows_of(together)) == Counter(rows_of(whole))  # whatever the ranks and idle ones are
            counted = in_any_order(recount(rows, together, pad_to))
            assert all(in_any_order(each.totals) == counted for each in together)
            units = sum(rows[number].role in case.first_roles for number in rows_of(together))
            assert len(without_idle(together)) == min(accumulation * case.world_size, units)
            for each in together:
                assert len(each.rows) < options["micro"] + case.unit  # a unit more where they do not fit evenly
                assert set(each.rows) <= set(rows_of(together))
        assert schedules[0].accumulation == max(
            math.ceil(len(rows_of(whole)) / (options["micro"] * case.world_size)) for whole in alone
        )


@pytest.mark.parametrize("begin", range(0, len(CASES), 60))
def test_rows_of_one_example_never_part_and_roles_line_up(begin):
    compared = 0
    for case in CASES[begin : begin + 60]:
        rows = case.rows
        for schedule in ranks_of(rows, case.world_size, **case.options):
            for micro in schedule.micro_batches:
                for side in case.roles:
                    orders = [[rows[n].example_id for n in micro.rows if rows[n].role is role] for role in side]
                    assert all(order == orders[0] for order in orders)  # the same examples in the same order
                    compared += len(side) > 1 and len(orders[0]) > 1
    assert compared > 50


@pytest.mark.parametrize("begin", range(0, len(CASES), 60))
def test_steps_are_counted_before_they_are_written(begin):
    for case in CASES[begin : begin + 60]:
        options, schedule = case.options, schedule_of(case.rows, **case.options)
        expected = count_steps(
            len(case.main),
            batch_size=options["batch"],
            epochs=options["epochs"],
            chunk_size=options["chunk_size"],
            steps_each=options["retain_ratio"] + 1 if options["alternate"] else 1,
        )
        assert schedule.steps == expected == len(steps_of(schedule))
        assert schedule.steps_per_epoch == math.ceil(len(case.main) / options["batch"])


def test_every_example_of_the_epoch_comes_equally_often():
    """Over whole epochs, with or without chunks; partners differ by one at most."""
    whole = [case for case in CASES if float(case.options["epochs"]).is_integer()]
    assert len(whole) > 100
    for case in whole:
        steps = steps_of(schedule_of(case.rows, **case.options))
        used = Counter(number for step in steps for number in rows_of(step))
        main = [n for n, row in enumerate(case.rows) if row.example_id in case.main]
        assert {used[number] for number in main} == {case.options["epochs"]}
        partners = [used[number] for number in range(len(case.rows)) if number not in main]
        assert not partners or max(partners) - min(partners) <= 1
        spent = len(case.main) * case.options["epochs"] * case.options["retain_ratio"]
        assert sum(partners) == (spent * len(case.roles[1]) if partners else 0)


# ---------------------------------------------------------------------------- several rows an example, by hand


def test_answers_of_one_example_share_a_micro_batch():
    """3 forget examples with 2 answers, 2 retain ones with 2: 6 + 6 rows in one step, 4 rows a forward."""
    roles = (Role.FORGET, Role.FORGET_IDK, Role.RETAIN, Role.RETAIN_IDK)
    rows = make_rows(3, 2, roles)
    schedule = schedule_of(rows, batch=3, micro=4, epochs=1)
    assert (schedule.steps, schedule.accumulation) == (1, 3)
    assert [len(micro.rows) for micro in schedule.micro_batches] == [4, 4, 4]
    for micro in schedule.micro_batches:
        keys = [rows[number].key for number in micro.rows]
        pairs = [(keys[place], keys[place + 1]) for place in (0, 2)]
        for key, refusal in pairs:
            side, name = key.split(" ")
            assert refusal == f"{side}_idk {name}"
    totals = schedule.micro_batches[0].totals
    assert totals.counts.keys() == set(roles)
    for role in roles:
        key = [row.answers for row in rows if row.role is role]
        assert totals.of(role).rows == 3
        if role.is_forget:  # each once; of two retain examples one comes twice
            assert sorted(totals.of(role).lengths) == sorted(key)
            assert totals.of(role).tokens == sum(key)


def test_labelled_prompts_count_as_labels_and_not_as_answers():
    rows = [replace(row, label_start=1) for row in make_rows(4, 0)]
    totals = schedule_of(rows, batch=4, micro=2, epochs=1).micro_batches[0].totals.of(Role.FORGET)
    assert totals.labels == sum(len(row.ids) - 1 for row in rows)
    assert totals.tokens == sum(totals.lengths) == sum(len(row.ids) - row.answer_start for row in rows)
    assert totals.labels > totals.tokens


def test_padded_positions_are_at_least_as_wide_as_asked():
    """4 rows of at most 13 tokens, padded to 20 each."""
    schedule = schedule_of(make_rows(4, 0), batch=4, micro=2, epochs=1, pad_to=20)
    assert schedule.micro_batches[0].totals.of(Role.FORGET).positions == 80


# ------------------------------------------------------------------------------ retain_ratio, chunks, alternate


def test_retain_ratio_by_hand():
    """3 retain rows beside each of 2 forget rows in a step of 8; 5 of them take turns."""
    rows = make_rows(4, 5)
    schedule = schedule_of(rows, batch=2, micro=4, epochs=5, retain_ratio=3)
    steps = steps_of(schedule)
    assert (schedule.steps, schedule.accumulation) == (10, 2)
    assert {(len(forget_rows_of(rows, step)), len(retain_rows_of(rows, step))) for step in steps} == {(2, 6)}
    assert {step[0].totals.of(Role.RETAIN).rows for step in steps} == {6}
    assert Counter(row for step in steps for row in retain_rows_of(rows, step)) == dict.fromkeys(range(4, 9), 12)


def test_retain_ratio_leaves_the_forget_steps_alone():
    rows = make_rows(7, 5)
    orders = [
        [sorted(forget_rows_of(rows, step)) for step in steps_of(schedule_of(rows, retain_ratio=ratio))]
        for ratio in (1, 3)
    ]
    assert orders[0] == orders[1]


def test_chunks_follow_one_another():
    """8 forget rows in chunks of 3: both epochs over the first three, then over the next, the last two at the end."""
    rows = make_rows(8, 5)
    schedule = schedule_of(rows, batch=2, micro=4, epochs=2, chunk_size=3)
    order = [sorted(forget_rows_of(rows, step)) for step in steps_of(schedule)]
    assert schedule.steps == 3 + 3 + 2  # 6, 6 and 4 rows, two a step
    assert Counter(sum(order[:3], [])) == dict.fromkeys((0, 1, 2), 2)
    assert Counter(sum(order[3:6], [])) == dict.fromkeys((3, 4, 5), 2)
    assert Counter(sum(order[6:], [])) == dict.fromkeys((6, 7), 2)
    assert all(len(retain_rows_of(rows, step)) == 2 for step in steps_of(schedule))


def test_chunks_are_shuffled_on_their_own():
    """Three chunks of 8 rows, one row a step: each in another order."""
    order = [
        rows_of(step)[0] for step in steps_of(schedule_of(make_rows(24, 0), batch=1, micro=1, epochs=1, chunk_size=8))
    ]
    assert len({tuple(number - begin for number in order[begin : begin + 8]) for begin in (0, 8, 16)}) == 3


def test_a_chunk_as_large_as_the_set_is_no_chunk():
    rows = make_rows(8, 5)
    assert schedule_of(rows, chunk_size=8) == schedule_of(rows, chunk_size=100) == schedule_of(rows)


@pytest.mark.parametrize("ratio", [1, 2])
def test_alternate_takes_the_sides_in_turn(ratio):
    """The same rows as without, the forget rows of a step first, then `ratio` steps of retain rows."""
    rows = make_rows(6, 5)
    schedule = schedule_of(rows, batch=4, micro=2, epochs=2, retain_ratio=ratio, alternate=True)
    together = schedule_of(rows, batch=4, micro=2, epochs=2, retain_ratio=ratio)
    steps, mixed = steps_of(schedule), steps_of(together)
    assert schedule.steps == len(steps) == (1 + ratio) * together.steps
    assert schedule.accumulation == 2  # 4 rows a step, whichever side
    for number, whole in enumerate(mixed):
        forget, *retain = steps[number * (1 + ratio) : (number + 1) * (1 + ratio)]
        assert sorted(rows_of(forget)) == sorted(forget_rows_of(rows, whole))
        assert forget[0].totals.counts.keys() == {Role.FORGET}
        assert all(step[0].totals.counts.keys() == {Role.RETAIN} for step in retain)
        assert {len(rows_of(step)) for step in retain} == {len(rows_of(forget))}
        assert Counter(sum(map(rows_of, retain), [])) == Counter(retain_rows_of(rows, whole))


def test_alternate_needs_two_sides():
    rows = make_rows(6, 0)
    assert schedule_of(rows, alternate=True) == schedule_of(rows)
