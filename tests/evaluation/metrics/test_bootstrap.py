"""Bootstrap intervals: what can be redone by hand, that whole documents are sampled, and that two models are paired."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from lume_run.common.records import Score
from lume_run.evaluation.metrics import bootstrap
from lume_run.evaluation.metrics.bootstrap import (
    Bootstrap,
    Column,
    Measure,
    combine,
    difference,
    finite_values,
    interval,
    mean_of,
    peaked,
)
from lume_run.evaluation.metrics.membership import auc_of, semeval_mia


def names(count: int, documents: int | None = None) -> list[str]:
    return [f"d{number % (documents or count)}" for number in range(count)]


def mean_score(values, documents=None, **options):
    """The score of a mean, every row a document of its own unless said."""
    documents = documents or names(len(values))
    return Bootstrap(**options).score("x", len(values), lambda: mean_of(Column.of(list(values), documents)))


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3.0, 2.0, count)


# --------------------------------------------------------------------------------------------------- by hand


def test_equal_values_leave_no_room():
    score = mean_score([0.25] * 5)
    assert (score.value, score.low, score.high, score.n, score.reason) == (0.25, 0.25, 0.25, 5, None)


def test_two_documents_give_the_binomial():
    """A resample of (0, 1) has mean 0, 0.5 or 1 with probability 1/4, 1/2, 1/4."""
    score = mean_score([0.0, 1.0], resamples=4000)
    shares = [sum(value == mean for value in score.resampled) / 4000 for mean in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=4 * math.sqrt(0.25 / 4000))  # four standard errors
    assert (score.value, score.low, score.high) == (0.5, 0.0, 1.0)
    assert interval(score.resampled, level=0.4) == (0.5, 0.5)


def test_rows_of_a_resample_weigh_the_same():
    """Draws of (a a), (a b), (b b) hold 2, 4 and 6 rows with means 0, 3/4 and 1."""
    score = mean_score([0.0, 1.0, 1.0, 1.0], list("abbb"))
    assert set(score.resampled) == {0.0, 0.75, 1.0}
    assert score.value == 0.75


def test_documents_are_sampled_whole():
    values = [0.0] * 50 + [1.0] * 50
    score = mean_score(values, ["a"] * 50 + ["b"] * 50)
    assert (score.low, score.high) == (0.0, 1.0)  # as two rows, not a hundred
    rows = mean_score(values)
    assert 0.35 < rows.low < 0.5 < rows.high < 0.65  # 0.5 -+ 1.96 * 0.05


def test_width_is_that_of_the_normal_approximation():
    values = normal(400)
    score = mean_score(values, resamples=4000)
    half = 1.96 * values.std() / 20
    assert score.value == pytest.approx(values.mean())
    assert (score.low, score.high) == pytest.approx((score.value - half, score.value + half), abs=0.15 * half)


def test_width_of_grouped_rows_is_that_of_their_documents():
    """Ten equal rows a document: as 40 values, sqrt(10) times as wide as 400 of their own."""
    values = np.repeat(normal(40), 10)
    score = mean_score(values, [f"d{number // 10}" for number in range(400)], resamples=4000)
    half = 1.96 * values.std() / math.sqrt(40)
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.1)


def test_interval_is_of_percentiles():
    assert interval([float(number) for number in range(101)]) == pytest.approx((2.5, 97.5))
    assert interval([0.0, 1.0, 2.0, 3.0, 4.0], level=0.5) == (1.0, 3.0)
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level is"):
            interval([0.0, 1.0], level=level)


def test_few_documents_widen_the_interval():
    """Phi(-sqrt(10 / 9) * 2.262) = 0.0085 of ten documents; of many the plain 0.025."""
    values = [number / 10_000 for number in range(10_001)]
    assert interval(values, documents=10).low == pytest.approx(0.0085, abs=2e-4)
    assert interval(values, documents=100_000) == pytest.approx((0.025, 0.975), abs=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        interval(values, documents=1)


def test_a_score_knows_its_documents():
    assert mean_score([1.0, 2.0, 4.0], ["a", "a", "b"]).documents == 2


# ------------------------------------------------------------------------------------------- the same every time


def test_seed_and_documents_decide_and_row_order_does_not():
    values, documents = normal(60, seed=3), names(60, 12)
    first = mean_score(values, documents)
    assert mean_score(values, documents).resampled == first.resampled
    assert mean_score(values, documents, seed=1).resampled != first.resampled
    assert mean_score(values, [f"other {name}" for name in documents]).resampled != first.resampled
    order = np.random.default_rng(4).permutation(60)
    shuffled = mean_score(values[order], [documents[number] for number in order])
    assert shuffled.resampled == pytest.approx(first.resampled, abs=1e-12)


def test_draws_are_written_down():
    """They depend on names, seed and numpy's generator alone: reports of two machines can be compared."""
    resampled = mean_score([0.0, 1.0, 2.0], resamples=8).resampled
    assert [round(3 * value) for value in resampled] == [4, 2, 5, 4, 2, 5, 1, 6]


def test_nothing_hinges_on_the_size_of_a_chunk(monkeypatch):
    values = normal(30, seed=5)
    whole = mean_score(values, resamples=450).resampled  # two whole chunks and a part
    assert len(whole) == 450
    monkeypatch.setattr(bootstrap, "RESAMPLES_AT_ONCE", 7)
    assert mean_score(values, resamples=450).resampled == pytest.approx(whole, abs=1e-12)
    monkeypatch.setattr(bootstrap, "RESAMPLES_AT_ONCE", 450)
    assert mean_score(values, resamples=450).resampled == pytest.approx(whole, abs=1e-12)


def test_resamples_are_repetitions_of_documents():
    """Weights are whole numbers, alike within a document, and as many documents are sampled as there are."""
    seen = []

    def compute(weights):
        seen.append(weights[0])
        return weights[0].sum(1)

    column = Column.of([0.0] * 12, names(12, 4))
    sums = Bootstrap(resamples=300).resample(Measure((column,), compute))
    weights = np.concatenate(seen)
    assert weights.shape == (300, 12) and weights.min() == 0 and weights.max() > 1
    assert (weights == weights.round()).all()
    assert (weights[:, :4] == weights[:, 4:8]).all() and (weights[:, :4] == weights[:, 8:]).all()
    assert (sums == 12).all()


# ------------------------------------------------------------------------------------------- several columns


def test_combined_is_the_function_of_the_values():
    documents = names(4)
    first, second = (mean_of(Column.of(values, documents)) for values in ([1.0, 2, 3, 4], [0.0, 0, 1, 1]))
    both = combine([first, combine([second, first], max)], lambda terms: terms[0] * terms[1])
    assert both.value == 2.5 * 2.5
    parts = [Bootstrap(resamples=50).resample(measure) for measure in (first, second)]
    assert Bootstrap(resamples=50).resample(both) == pytest.approx(parts[0] * np.maximum(*parts))


def test_columns_about_the_same_documents_are_resampled_together():
    """Other rows about them, in another order: the difference of a mean and itself has no spread."""
    rows = [(f"d{number}", float(number)) for number in range(6)]
    first = mean_of(Column.of([value for _, value in rows], [name for name, _ in rows]))
    second = mean_of(Column.of([value for _, value in rows[::-1]], [name for name, _ in rows[::-1]]))
    assert Bootstrap().resample(combine([first, second], lambda terms: terms[0] - terms[1])) == pytest.approx(
        np.zeros(1000)
    )


def test_columns_about_others_are_resampled_apart():
    """Standard deviations of independent means add in squares."""
    first, second = (mean_of(Column.of(normal(50), [f"{side}{number}" for number in range(50)])) for side in "ab")
    bootstrap = Bootstrap(resamples=4000)
    gap = bootstrap.resample(combine([first, second], lambda terms: terms[0] - terms[1]))
    assert gap.std() == pytest.approx(math.sqrt(2) * bootstrap.resample(first).std(), rel=0.1)


# ------------------------------------------------------------------------------------------- two models


def test_a_model_does_not_differ_from_itself():
    values = normal(40)
    assert difference(mean_score(values), mean_score(values)) == (0.0, 0.0)


def test_difference_is_after_minus_before():
    assert difference(mean_score([0.0, 10.0, 20.0]), mean_score([1.0, 11.0, 21.0])) == pytest.approx((1.0, 1.0))
    assert difference(mean_score([1.0, 11.0, 21.0]), mean_score([0.0, 10.0, 20.0])) == pytest.approx((-1.0, -1.0))


def test_a_paired_difference_is_narrower():
    """A gain of 0.5 +- 0.1 a document over values of spread 2: paired it shows, between other documents it does not."""
    before = normal(50)
    after = before + np.random.default_rng(1).normal(0.5, 0.1, 50)
    paired = difference(mean_score(before), mean_score(after))
    assert 0.4 < paired.low < 0.5 < paired.high < 0.6
    unpaired = difference(mean_score(before), mean_score(after, [f"other{number}" for number in range(50)]))
    assert unpaired.low < 0 < unpaired.high
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


def test_without_an_interval_there_is_no_difference():
    whole, alone = mean_score([0.0, 1.0]), mean_score([1.0])
    assert difference(whole, alone) is difference(alone, whole) is difference(alone, alone) is None
    assert difference(whole, mean_score([0.0, 1.0], resamples=20)) is None


# ------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("values", "documents", "options"),
    [([0.5], ["a"], {}), ([0.0, 1.0], ["a", "a"], {}), ([0.0, 1.0], ["a", "b"], {"resamples": 0})],
)
def test_a_value_without_an_interval(values, documents, options):
    score = mean_score(values, documents, **options)
    assert (score.value, score.low, score.high, score.resampled, score.reason) == (0.5, None, None, (), None)


def test_one_column_about_a_single_document_takes_the_interval_away():
    several, single = mean_of(Column.of([0.0, 1.0], ["a", "b"])), mean_of(Column.of([3.0], ["a"]))
    score = Bootstrap().score("x", 3, lambda: combine([several, single], sum))
    assert (score.value, score.low) == (3.5, None)


def test_a_resample_without_a_value_takes_the_interval_away_and_leaves_the_value():
    def inverse(terms):
        if terms[0] == 0:
            raise ValueError("nothing to divide by")
        return 1 / terms[0]

    score = Bootstrap().score("x", 2, lambda: combine([mean_of(Column.of([0.0, 1.0], ["a", "b"]))], inverse))
    assert (score.value, score.low, score.reason) == (2.0, None, None)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: mean_of(Column.of([], [])), "no values; at least one is needed"),
        (lambda: mean_of(Column.of([1.0, math.nan, math.inf], list("abc"), "losses")), "2 of 3 losses are NaN"),
        (lambda: mean_of(Column.of([1.0, 2.0], ["a"])), "1 documents for 2 values"),
        (lambda: combine([mean_of(Column.of([1.0, 2.0], list("ab")))], lambda terms: math.nan), "1 of 1 scores"),
    ],
)
def test_what_has_no_value_has_a_reason(make, reason):
    score = Bootstrap().score("x", 3, make)
    assert reason in score.reason
    assert (score.name, score.n, score.value, score.low, score.high) == ("x", 3, None, None, None)


def test_finite_values_names_what_is_odd():
    assert finite_values([1, 2], "losses").tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="no losses"):
        finite_values([], "losses")


# ------------------------------------------------------------------------------------------- scores with a peak


def separated(shift: float, count: int, seed: int) -> tuple[Score, Score]:
    """`mia.auc` and `mia.score` of so many members and non-members, of normal scores so far apart."""
    random = np.random.default_rng(seed)
    names = [f"{side}{number}" for side in "mn" for number in range(count)]
    scores = [*random.normal(shift, 1, count), *random.normal(0, 1, count)]
    area = auc_of(*(Column.of(scores[part], names[part], "scores") for part in (slice(0, count), slice(count, None))))
    bootstrap = Bootstrap(seed=seed, resamples=200)
    return tuple(
        bootstrap.score(name, 2 * count, lambda measure=measure: measure)
        for name, measure in (("mia.auc", area), ("mia.score", peaked(area, semeval_mia, 0.5)))
    )


@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 1.0])
def test_a_score_with_a_peak_covers_the_truth_as_often_as_what_it_is_made_of(shift, count):
    truth = NormalDist().cdf(shift / math.sqrt(2))
    for seed in range(60):
        area, score = separated(shift, count, seed)
        assert score.value == semeval_mia(area.value)
        assert score.low <= score.value <= score.high
        if area.low <= truth <= area.high:
            assert score.low <= semeval_mia(truth) <= score.high
        assert (score.high == 1) is (area.low <= 0.5 <= area.high)


def test_the_interval_of_no_separation_holds_its_best_value():
    """All resamples of a percentile interval would lie below the 1 that is true."""
    covered = [separated(0.0, 12, seed)[1].high == 1 for seed in range(60)]
    assert sum(covered) > 48
