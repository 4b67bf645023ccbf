"""Bootstrap intervals that resample documents, not rows.

Percentile bootstrap (Efron and Tibshirani 1993, chapter 13), expanded for few documents (Hesterberg, arXiv:1411.5279,
section 5.3): resamples of n documents vary too little, as if by (n - 1) / n, and their tails are those of a normal
distribution where those of Student's t are due. Prompts about one document share its fate, so whole
documents are sampled with replacement; single rows would give intervals that are too narrow. A resample is nothing but
a weight for every row, so a `Measure` is a function of weights: with all weights 1 it is the score itself.

Columns over the same documents are resampled together, others apart. Resamples depend on the seed and the names of the
documents alone: two models that answer about the same documents have the same resamples, and the interval of their
difference is a paired one. Of fewer than `FEW_DOCUMENTS` even the expanded interval may be too narrow. A resample
without the number (a division by zero, say) takes the interval away and leaves the value.

Shapes: S resamples, D documents, N rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lume_run.common.records import Score
from lume_run.common.seeds import stable_digest

Numbers = NDArray[np.float64]
FEW_DOCUMENTS = 20  # an interval over fewer of them is marked
RESAMPLES_AT_ONCE = 200  # resamples at a time: weights of 14,000 rows then take 22 MB


def finite_values(values: Sequence[float] | Numbers, what: str) -> Numbers:
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


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One finite number per row, (N,), and the document that each row is about."""

    values: Numbers
    documents: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[float], documents: Sequence[str], what: str = "values") -> Column:
        """ValueError on no values, NaN, infinity, or another number of documents."""
        if len(values) != len(documents):
            raise ValueError(f"{len(documents)} documents for {len(values)} {what}; give one for each row")
        return cls(finite_values(values, what), tuple(documents))


@dataclass(frozen=True, slots=True)
class Measure:
    """A number made of columns: `compute` takes weights (S, N) of each column's rows and gives (S,) values.

    `image` of a number that is a function of another: that one, and what the function makes of its interval.
    `ends`: an interval that is better than one of resamples, where there is one.
    """

    columns: tuple[Column, ...]
    compute: Callable[[Sequence[Numbers]], Numbers]
    image: tuple[Measure, Callable[[Interval], Interval]] | None = None
    ends: Callable[[], Interval] | None = None

    @property
    def value(self) -> float:
        """The number itself: every row counts once. ValueError where it is not finite."""
        alone = self.compute([np.ones((1, column.values.size)) for column in self.columns])
        return float(finite_values(alone, "scores")[0])


def mean_of(column: Column) -> Measure:
    """The mean over rows, all weighing the same."""
    return Measure((column,), lambda weights: weights[0] @ column.values / weights[0].sum(1))


def combine(measures: Sequence[Measure], function: Callable[[Sequence[float]], float]) -> Measure:
    """`function` of the values of several measures, such as their harmonic mean."""
    ends = list(itertools.accumulate((len(measure.columns) for measure in measures), initial=0))

    def compute(weights: Sequence[Numbers]) -> Numbers:
        parts = [
            measure.compute(weights[start:end]).tolist()
            for measure, (start, end) in zip(measures, itertools.pairwise(ends), strict=True)
        ]
        return np.array([function(terms) for terms in zip(*parts, strict=True)], dtype=np.float64)

    return Measure(tuple(column for measure in measures for column in measure.columns), compute)


def peaked(measure: Measure, function: Callable[[float], float], peak: float) -> Measure:
    """`function`, which rises up to `peak` and falls behind it, of a measure.

    Near its peak all resamples lie below the value, and so would a percentile interval. The image of the measure's own
    interval covers the truth as often as that does.
    """

    def image(ends: Interval) -> Interval:
        values = (function(ends.low), function(ends.high))
        return Interval(min(values), function(peak) if ends.low <= peak <= ends.high else max(values))

    return replace(combine([measure], lambda values: function(values[0])), image=(measure, image))


@dataclass(frozen=True, kw_only=True)
class NamedMeasure:
    """A score to be: `make` gives its measure over `n` rows, or a ValueError that says why there is none."""

    name: str
    n: int
    make: Callable[[], Measure]

    @cached_property
    def measure(self) -> Measure:
        """The measure, made once; errors as `make`."""
        return self.make()

    def score(self, bootstrap: Bootstrap) -> Score:
        """The score itself."""
        return bootstrap.score(self.name, self.n, lambda: self.measure)


class Interval(NamedTuple):
    """Ends of a percentile interval, in the statistic's own unit."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How intervals are made; `resamples=0` makes none."""

    seed: int = 0
    resamples: int = 1000

    def score(self, name: str, n: int, make: Callable[[], Measure]) -> Score:
        """The score of a measure over `n` rows; a ValueError of `make` or of the measure becomes its reason."""
        try:
            measure = make()
            value = measure.value
        except ValueError as error:
            return Score(name=name, value=None, n=n, reason=str(error))
        resampled = self.resample(measure)
        if not resampled.size:
            return Score(name=name, value=value, n=n)
        documents = min(len(set(column.documents)) for column in measure.columns)
        ends = self._interval(measure, documents)
        return Score(
            name=name,
            value=value,
            n=n,
            low=ends.low,
            high=ends.high,
            documents=documents,
            resampled=tuple(resampled.tolist()),
        )

    def _interval(self, measure: Measure, documents: int) -> Interval:
        if measure.image is not None:
            inner, image = measure.image
            return image(self._interval(inner, documents))
        return measure.ends() if measure.ends else interval(self.resample(measure).tolist(), documents=documents)

    def resample(self, measure: Measure) -> Numbers:
        """The measure of every resample, (S,); empty where a column is about one document, or a resample has no value.

        Without the resamples that have no value the interval would be too narrow.
        """
        documents = [tuple(sorted(set(column.documents))) for column in measure.columns]
        if not self.resamples or any(len(names) < 2 for names in documents):
            return np.zeros(0)
        counts = [_counts(names, self.seed, self.resamples) for names in documents]
        rows = [_document_numbers(names, column) for names, column in zip(documents, measure.columns, strict=True)]
        chunks = []
        try:
            for start in range(0, self.resamples, RESAMPLES_AT_ONCE):
                part = slice(start, start + RESAMPLES_AT_ONCE)
                weights = [times[part, row].astype(np.float64) for times, row in zip(counts, rows, strict=True)]
                chunks.append(measure.compute(weights))
            return finite_values(np.concatenate(chunks), "resampled values")
        except ValueError:
            return np.zeros(0)


def _document_numbers(documents: Sequence[str], column: Column) -> NDArray[np.int64]:
    """The number of each row's document, (N,)."""
    number = {name: at for at, name in enumerate(documents)}
    return np.array([number[name] for name in column.documents])


@lru_cache(maxsize=8)  # suites and models of one evaluation share them; 28 MB for 14,000 documents
def _counts(documents: tuple[str, ...], seed: int, resamples: int) -> NDArray[np.int16]:
    """How often each document stands in each resample, (S, D)."""
    digest = stable_digest(seed, *documents, separator="\0")
    random, size = np.random.default_rng(list(digest)), len(documents)
    samples = (random.integers(size, size=size) for _ in range(resamples))
    return np.stack([np.bincount(sample, minlength=size).astype(np.int16) for sample in samples])


def interval(resampled: Sequence[float], level: float = 0.95, *, documents: int | None = None) -> Interval:
    """The percentile interval of resampled values, expanded for so many documents.

    `level` is the confidence and, of documents without number (None), the share of the values within the interval.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a fraction between 0 and 1, not a percentage")
    tail = (1 - level) / 2 if documents is None else expanded_tail(level, documents)
    low, high = np.quantile(np.asarray(resampled), [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache
def expanded_tail(level: float, documents: int) -> float:
    """Share of the resamples beyond each end: Phi(-sqrt(n / (n - 1)) t), t the quantile of n - 1 degrees of freedom.

    Hesterberg, arXiv:1411.5279, section 5.3. ValueError for fewer than two documents.
    """
    from scipy.special import ndtr, stdtrit  # late: slow to import

    if documents < 2:
        raise ValueError(f"an interval over {documents} documents says nothing; give at least 2")
    quantile = stdtrit(documents - 1, (1 + level) / 2)
    return float(ndtr(-np.sqrt(documents / (documents - 1)) * quantile))


def difference(before: Score, after: Score) -> Interval | None:
    """The interval of `after` minus `before`; None where one of them has no interval.

    Paired by document where both are about the same documents; about others they are resampled apart, and the
    interval is the wider one of two samples.
    """
    if not len(before.resampled) or len(before.resampled) != len(after.resampled):
        return None
    changes = np.asarray(after.resampled) - np.asarray(before.resampled)
    return interval(changes.tolist(), documents=min(before.documents, after.documents) or None)
