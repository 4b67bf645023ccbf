"""Who is ahead, and by more than noise: means over seeds with intervals over seeds and documents, ranks with ties.

A mean over S seeds is uncertain twice. The seeds might have been others: its variance is s^2 / S, s the sample standard
deviation. And the documents might have been others: the variance of the mean over resamples of documents, which are
the same for all seeds where these share their documents. Both add up (where seeds have documents of their own, s
holds those already: the interval is then on the safe side), with degrees of freedom after Welch and Satterthwaite.

Two methods are compared on the same seeds: their differences are paired by seed and by document. A method's rank is
one more than the number of methods that are better by more than noise, so that methods may share one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from statistics import fmean, variance

import numpy as np

from lume_run.common.records import Score
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.definitions import Wanted
from lume_run.evaluation.metrics.bootstrap import Interval
from lume_run.report.comparison.columns import badness, column_direction

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One method: its score on every seed, their mean with its interval, its rank, the methods it cannot be told from.

    `interval` is None for one seed without resamples.
    """

    method: str
    values: tuple[float, ...]
    mean: float
    interval: Interval | None
    rank: int
    tied: tuple[str, ...]


def mean_interval(scores: Sequence[Score]) -> Interval | None:
    """The interval of the mean over seeds; None where neither seeds nor documents tell how sure it is.

    Scores are those of one seed each and have values; the interval stays within those that all resamples have.
    """
    from scipy.special import stdtrit  # late: slow to import

    values = [value for score in scores if (value := score.value) is not None]
    seeds = variance(values) / len(values) if len(values) > 1 else 0.0
    resampled = [score.resampled for score in scores]
    known = bool(resampled) and all(resampled) and len({len(of_seed) for of_seed in resampled}) == 1
    n = min((score.documents for score in scores), default=0) if known else 0
    documents = float(np.var(np.mean(resampled, axis=0))) * n / (n - 1) if n > 1 else 0.0
    if len(values) < 2 and n < 2:
        return None
    total = seeds + documents
    if not total:
        return Interval(fmean(values), fmean(values))
    shares = [(seeds, len(values) - 1), (documents, n - 1)]
    freedom = total**2 / sum(part**2 / degrees for part, degrees in shares if part)
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * total**0.5
    return Interval(fmean(values) - reach, fmean(values) + reach)


def within_bounds(name: str, ends: Interval | None) -> Interval | None:
    """An interval without what a score cannot be."""
    definition = definition_of(name)
    if ends is None or definition is None:
        return ends
    low = ends.low if definition.low is None else max(definition.low, ends.low)
    return Interval(low, ends.high if definition.high is None else min(definition.high, ends.high))


def paired_interval(first: Mapping[int, Score], second: Mapping[int, Score]) -> Interval | None:
    """The interval of the first method's mean less the other's, over the seeds that both have; None without one."""
    seeds = sorted(set(first) & set(second))
    return mean_interval([_less(first[seed], second[seed]) for seed in seeds]) if seeds else None


def _less(first: Score, second: Score) -> Score:
    """The difference of two scores of the same seed, resample by resample."""
    assert first.value is not None and second.value is not None
    paired = len(first.resampled) == len(second.resampled) and first.documents == second.documents
    resampled = tuple(np.subtract(first.resampled, second.resampled).tolist()) if paired else ()
    return Score(
        name=first.name,
        value=first.value - second.value,
        n=min(first.n, second.n),
        documents=first.documents,
        resampled=resampled,
    )


def standings(name: str, scores: Mapping[str, Mapping[int, Score]], direction: str | None = None) -> list[Standing]:
    """The methods by a score, the best first. `scores` by method and seed; those without a value are left out.

    `direction` (maximize or minimize) counts for a score of which it is not known.
    """
    worse = partial(_badness, name, direction)
    known = {
        method: of_method
        for method, of_seeds in scores.items()
        if (of_method := {seed: score for seed, score in of_seeds.items() if score.value is not None})
    }
    beats = {pair: is_better(worse, known[pair[0]], known[pair[1]]) for pair in permutations(known, 2)}
    rows = []
    for method, of_seeds in known.items():
        values = tuple(float(score.value or 0.0) for _, score in sorted(of_seeds.items()))
        others = [other for other in known if other != method]
        rows.append(
            Standing(
                method=method,
                values=values,
                mean=fmean(values),
                interval=within_bounds(name, mean_interval(list(of_seeds.values()))),
                rank=1 + sum(beats[other, method] for other in others),
                tied=tuple(other for other in others if not beats[other, method] and not beats[method, other]),
            )
        )
    return sorted(rows, key=lambda row: (worse(row.mean), row.method))


def _badness(name: str, direction: str | None, value: float) -> float:
    if column_direction(name) is Wanted.NONE and direction is not None:
        return value if direction == "minimize" else -value
    return badness(name, value)


def is_better(worse: Callable[[float], float], first: Mapping[int, Score], second: Mapping[int, Score]) -> bool:
    """Whether the first method is better, `worse` being less, by more than noise.

    Of values that nothing is known of, by any difference.
    """
    means = [fmean(float(score.value or 0.0) for score in scores.values()) for scores in (first, second)]
    if worse(means[0]) >= worse(means[1]):
        return False
    ends = paired_interval(first, second)
    return ends is None or not ends.low <= 0 <= ends.high
