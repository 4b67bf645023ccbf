"""Membership attacks: scores by hand, signs, and the two numbers made of them."""

import math
import zlib

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from lume_run.evaluation.metrics.bootstrap import Bootstrap, Column
from lume_run.evaluation.metrics.membership import (
    auc,
    auc_interval,
    auc_of,
    gradient_score,
    loss_score,
    min_k,
    min_k_plus_plus,
    reference_score,
    tpr_at_fpr,
    zlib_score,
)

LOGPS = [-1.0, -4.0, -2.0, -0.5, -2.5]  # mean -2


def column(scores, documents=None) -> Column:
    return Column.of(scores, documents or [str(number) for number in range(len(scores))])


def rate(members, nonmembers, fpr=0.01) -> float:
    return tpr_at_fpr(column(members), column(nonmembers), fpr).value


def test_loss_and_zlib():
    assert loss_score(LOGPS) == -2.0
    text = "ab" * 50
    assert zlib_score(LOGPS, text) == -2.0 / len(zlib.compress(text.encode()))
    assert zlib_score(LOGPS, "") == -2.0 / 8


@pytest.mark.parametrize(
    ("k", "score"),
    [(0.01, -4.0), (0.2, -4.0), (0.39, -4.0), (0.4, -3.25), (0.6, -17 / 6), (1.0, -2.0)],
)
def test_min_k_means_the_least_likely_tokens_at_least_one(k, score):
    assert min_k(LOGPS, k) == pytest.approx(score)


def test_min_k_plus_plus_standardises_first():
    # (-1 + 2) / 1, (-4 + 3) / 0.5, (-2 + 1) / 2 = 1, -2, -0.5
    three = LOGPS[:3], [-2.0, -3.0, -1.0], [1.0, 0.25, 4.0]
    assert min_k_plus_plus(*three) == -2.0
    assert min_k_plus_plus(*three, k=0.67) == -1.25
    assert min_k_plus_plus(*three, k=1.0) == -0.5
    assert min_k_plus_plus([-1.0], [-1.001], [0.0]) == pytest.approx(1.0)  # variance 1e-6 at least


def test_a_member_scores_higher_everywhere():
    likely, unlikely = [-0.1, -0.2, -0.3], [-1.1, -2.2, -3.3]
    flat = [-1.0] * 3, [1.0] * 3
    assert loss_score(likely) > loss_score(unlikely)
    assert zlib_score(likely, "same") > zlib_score(unlikely, "same")
    assert min_k(likely) > min_k(unlikely)
    assert min_k_plus_plus(likely, *flat) > min_k_plus_plus(unlikely, *flat)
    assert reference_score(0.2, 2.2) == 2.0 > reference_score(2.2, 2.2)
    assert gradient_score(0.5) == -0.5 > gradient_score(2.0)


def test_a_document_without_tokens_has_no_score():
    assert loss_score([]) is zlib_score([], "text") is min_k([]) is min_k_plus_plus([], [], []) is None
    assert gradient_score(None) is None


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: loss_score([math.nan]), "1 of 1 token"),
        (lambda: zlib_score([-math.inf, -1.0], "x"), "1 of 2 token"),
        (lambda: min_k([-1.0], 40), "percentage"),
        (lambda: min_k([-1.0], 0), "k is 0"),
        (lambda: min_k_plus_plus([-1.0], [-1.0], []), "0 variances"),
        (lambda: min_k_plus_plus([-1.0], [-1.0], [math.nan]), "variances are NaN"),
        (lambda: reference_score(1.0, math.nan), "1 of 2 losses"),
        (lambda: rate([1.0], [0.0], fpr=1.5), "fpr is 1.5"),
    ],
)
def test_what_has_no_score_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(
    ("fpr", "tpr"),
    [(0.0, 0.25), (0.24, 0.25), (0.25, 0.75), (0.5, 0.75), (0.75, 1.0), (1.0, 1.0)],
)
def test_tpr_at_fpr_takes_thresholds_that_exist(fpr, tpr):
    # From the top: member, nonmember, member, member, nonmember, nonmember and member tied, nonmember
    assert rate([9, 7, 6, 4], [8, 5, 4, 3], fpr) == tpr


def test_tpr_sees_thresholds_on_a_straight_line():
    # Ties of one member and one nonmember each: the curve is the diagonal, and its inner points count.
    assert rate([1, 2, 3, 4], [1, 2, 3, 4], 0.6) == 0.5


def test_tpr_needs_perfection_below_one_nonmember():
    assert rate([2, 0], [1]) == 0.5
    assert rate([0, 0], [1]) == 0.0


# ------------------------------------------------------------------------------------------- as measures of weights

SEEDS = range(6)


def tied_scores(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, and how often each stands in three resamples; some not at all."""
    random = np.random.default_rng(seed)
    members, nonmembers = random.integers(0, 8, 17) / 4, random.integers(-2, 6, 23) / 4
    return members, nonmembers, random.integers(0, 4, (3, 17)), random.integers(0, 4, (3, 23))


def by_sklearn(members, nonmembers, fpr) -> tuple[float, float]:
    labels = [1] * len(members) + [0] * len(nonmembers)
    scores = np.concatenate([members, nonmembers])
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(roc_auc_score(labels, scores)), float(true[false <= fpr].max())


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_both_are_those_of_sklearn(seed, fpr):
    members, nonmembers, *_ = tied_scores(seed)
    area, best = by_sklearn(members, nonmembers, fpr)
    assert auc(members.tolist(), nonmembers.tolist()) == pytest.approx(area, abs=1e-12)
    assert rate(members, nonmembers, fpr) == best


@pytest.mark.parametrize("seed", SEEDS)
def test_a_weight_is_a_number_of_copies(seed):
    members, nonmembers, *weights = tied_scores(seed)
    inside, outside = column(members), column(nonmembers)
    areas = auc_of(inside, outside).compute([side.astype(float) for side in weights])
    rates = tpr_at_fpr(inside, outside, 0.1).compute([side.astype(float) for side in weights])
    for number, counts in enumerate(zip(*weights, strict=True)):
        copies = [np.repeat(scores, times) for scores, times in zip((members, nonmembers), counts, strict=True)]
        area, best = by_sklearn(*copies, 0.1)
        assert areas[number] == pytest.approx(area, abs=1e-12)
        assert rates[number] == best


def test_weights_by_hand():
    """Members 3 (twice) and 1, non-members 2 and 0 (three times): 3 > 2, 3 > 0, 1 > 0 weigh 2 + 6 + 3 of 12."""
    weights = [np.array([[2.0, 1.0]]), np.array([[1.0, 3.0]])]
    members, nonmembers = column([3.0, 1.0]), column([2.0, 0.0])
    assert auc_of(members, nonmembers).compute(weights)[0] == pytest.approx(11 / 12)
    assert tpr_at_fpr(members, nonmembers, 0.2).compute(weights)[0] == pytest.approx(2 / 3)
    assert tpr_at_fpr(members, nonmembers, 0.25).compute(weights)[0] == 1.0  # 2 is a quarter of the non-members


@pytest.mark.parametrize("counts", [(5, 5), (12, 40), (300, 2)])
@pytest.mark.parametrize("area", [0.0, 0.3, 0.5, 0.92, 1.0])
def test_the_interval_of_an_auc_holds_the_areas_that_are_near_by_their_own_deviation(area, counts):
    low, high = auc_interval(area, *counts)
    assert low <= area <= high
    middle = sum(counts) / 2 - 1
    for end in (low, high):
        if end in (0.0, 1.0):
            continue
        factor = 1 + middle * ((1 - end) / (2 - end) + end / (1 + end))
        assert abs(end - area) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) * factor / math.prod(counts)))
    assert auc_interval(1 - area, *counts) == pytest.approx((1 - high, 1 - low))


def test_intervals_draw_documents_of_both_kinds():
    members, nonmembers = [3.0, 1.0, 2.5, 0.5], [2.0, 0.0, 1.5]
    bootstrap = Bootstrap(resamples=400)
    score = bootstrap.score("auc", 7, lambda: auc_of(column(members), column(nonmembers)))
    assert score.value == pytest.approx(8 / 12)  # 3 and 2.5 beat three, 1 and 0.5 beat one
    assert 0 <= score.low < score.value < score.high <= 1
    whole = bootstrap.score("auc", 7, lambda: auc_of(column(members, list("aabb")), column(nonmembers, list("ccd"))))
    assert whole.value == score.value and whole.resampled != score.resampled
    apart = bootstrap.score("auc", 4, lambda: auc_of(column([2.0, 3.0]), column([0.0, 1.0])))
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert 0.3 < apart.low < 0.5  # two of each told apart say little, and every resample has an AUC of 1
    alone = bootstrap.score("auc", 3, lambda: auc_of(column([2.0]), column([0.0, 1.0])))
    assert (alone.value, alone.low, alone.high) == (1.0, None, None)
