"""Bootstrap intervals that resample documents, not rows.

Percentile bootstrap (Efron and Tibshirani 1993, chapter 13). Prompts about one document share its fate, so whole groups
(documents) are drawn with replacement; rows drawn one by one would give intervals that are too narrow.

Every function takes finite numbers only and raises ValueError on none at all, on NaN or infinity, and on a single
group, whose resamples are all alike. Fewer than some 20 groups make an interval too narrow as well: show their count.
The draws depend on the seed and the NumPy version alone; groups are taken in sorted order, so the order of rows does
not matter as long as groups are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Interval(NamedTuple):
    """A statistic of all rows and the percentile interval around it, in the statistic's own unit."""

    estimate: float
    low: float
    high: float


def finite_values(values: Sequence[float], what: str) -> Numbers:
    """`values` as an array, shape (N,), N >= 1; ValueError naming `what` on none, NaN or infinity."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError(f"no {what}; at least one is needed")
    odd = int((~np.isfinite(numbers)).sum())
    if odd:
        raise ValueError(
            f"{odd} of {numbers.size} {what} are NaN or infinite; leave rows without tokens out and count them, "
            "look for a diverged model, or evaluate in a wider dtype"
        )
    return numbers


def mean(values: Numbers) -> float:
    """Arithmetic mean: the default statistic, and the one that needs no loop over resamples."""
    return float(values.mean())


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[str] | None = None,
    *,
    seed: int,
    statistic: Callable[[Numbers], float] = mean,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """The statistic of N values and its percentile interval; `groups` (N labels) are drawn whole, absent: each row.

    A resample holds as many groups as there are, its rows weigh the same, so that the mean is the mean over rows.
    """
    numbers = finite_values(values, "values")
    rows = _rows_by_group(groups, numbers.size)
    draws = _draw(np.random.default_rng(seed), len(rows), resamples)
    if statistic is mean:
        sums = np.array([numbers[group].sum() for group in rows])
        sizes = np.array([group.size for group in rows])
        samples = sums[draws].sum(1) / sizes[draws].sum(1)
    else:
        samples = np.array([statistic(numbers[_rows(rows, draw)]) for draw in draws])
    return _interval(statistic(numbers), samples, level)


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[str] | None = None,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """Mean of `after` minus mean of `before`, row by row: (difference, low, high); positive where `after` is higher.

    Both hold one value per row in the same order; ValueError where their lengths differ. The interval is that of the
    mean difference under `bootstrap_interval`, narrower than the two intervals of the means suggest.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before, {len(after)} after; pair them by example id first")
    differences = finite_values(after, "values after") - finite_values(before, "values before")
    return bootstrap_interval(differences.tolist(), groups, seed=seed, level=level, resamples=resamples)


def two_sample_interval(
    first: Sequence[float],
    second: Sequence[float],
    statistic: Callable[[Numbers, Numbers], float],
    *,
    seed: int,
    first_groups: Sequence[str] | None = None,
    second_groups: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """`statistic(first, second)` and its interval; the two samples are resampled separately, as for an AUC.

    Each sample keeps its number of groups, so neither class can vanish from a resample.
    """
    numbers = finite_values(first, "values of the first sample"), finite_values(second, "values of the second sample")
    rows = _rows_by_group(first_groups, numbers[0].size), _rows_by_group(second_groups, numbers[1].size)
    random = np.random.default_rng(seed)
    draws = [_draw(random, len(groups), resamples) for groups in rows]
    samples = [
        statistic(numbers[0][_rows(rows[0], one)], numbers[1][_rows(rows[1], two)])
        for one, two in zip(*draws, strict=True)
    ]
    return _interval(statistic(*numbers), np.array(samples), level)


def _rows_by_group(groups: Sequence[str] | None, n: int) -> list[NDArray[np.intp]]:
    if groups is None:
        rows = list(np.arange(n)[:, None])
    elif len(groups) != n:
        raise ValueError(f"{len(groups)} group labels for {n} values; give one label per value")
    else:
        labels, inverse = np.unique(np.asarray(groups), return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        rows = np.split(order, np.bincount(inverse, minlength=labels.size).cumsum()[:-1])
    if len(rows) < 2:
        raise ValueError("1 group (document); an interval needs at least 2 to resample, so evaluate more documents")
    return rows


def _rows(rows: list[NDArray[np.intp]], draw: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.concatenate([rows[group] for group in draw])


def _draw(random: np.random.Generator, groups: int, resamples: int) -> NDArray[np.int64]:
    if resamples < 1:
        raise ValueError(f"{resamples} resamples; give at least 1, better 1000")
    return random.integers(groups, size=(resamples, groups))  # (resamples, groups)


def _interval(estimate: float, samples: Numbers, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a fraction between 0 and 1, such as 0.95")
    finite_values(samples.tolist(), "resampled statistics")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high))
