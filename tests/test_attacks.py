"""Membership attacks: scores by hand, signs, and the two numbers made of them."""

import math
import zlib

import pytest

from lume_run.metrics.attacks import (
    auc_interval,
    loss_score,
    min_k,
    min_k_plus_plus,
    reference_score,
    tpr_at_fpr,
    tpr_at_fpr_interval,
    zlib_score,
)
from lume_run.metrics.membership import auc

LOGPS = [-1.0, -4.0, -2.0, -0.5, -2.5]  # mean -2


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


def test_a_document_without_tokens_has_no_score():
    assert loss_score([]) is zlib_score([], "text") is min_k([]) is min_k_plus_plus([], [], []) is None


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
        (lambda: tpr_at_fpr([1.0], [0.0], fpr=1.5), "fpr is 1.5"),
        (lambda: tpr_at_fpr([], [0.0]), "no member"),
        (lambda: tpr_at_fpr([1.0], []), "no nonmember"),
        (lambda: tpr_at_fpr([1.0], [math.nan]), "1 of 1 nonmember"),
        (lambda: auc_interval([1.0, 2.0], [], seed=0), "second sample"),
        (lambda: auc_interval([1.0, 2.0], [0.0], seed=0), "1 group"),
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
    assert tpr_at_fpr([9, 7, 6, 4], [8, 5, 4, 3], fpr) == tpr


def test_tpr_sees_thresholds_on_a_straight_line():
    # Ties of one member and one nonmember each: the curve is the diagonal, and its inner points count.
    assert tpr_at_fpr([1, 2, 3, 4], [1, 2, 3, 4], 0.6) == 0.5


def test_tpr_needs_perfection_below_one_nonmember():
    assert tpr_at_fpr([2, 0], [1]) == 0.5
    assert tpr_at_fpr([0, 0], [1]) == 0.0


def test_intervals_hold_the_estimates_of_all_documents():
    members, nonmembers = [3.0, 1.0, 2.5, 0.5], [2.0, 0.0, 1.5]
    interval = auc_interval(members, nonmembers, seed=0, resamples=60)
    assert interval.estimate == auc(members, nonmembers)
    assert 0 <= interval.low < interval.estimate < interval.high <= 1
    assert interval == auc_interval(members, nonmembers, seed=0, resamples=60)
    by_document = auc_interval(
        members, nonmembers, seed=0, resamples=60, member_documents=list("aabb"), nonmember_documents=list("ccd")
    )
    assert by_document.estimate == interval.estimate and by_document != interval
    rate = tpr_at_fpr_interval(members, nonmembers, seed=0, resamples=60)
    assert rate.estimate == tpr_at_fpr(members, nonmembers) == 0.5
    assert tpr_at_fpr_interval(members, nonmembers, seed=0, fpr=1.0, resamples=20) == (1.0, 1.0, 1.0)


def test_separate_classes_leave_no_room():
    assert auc_interval([2.0, 3.0], [0.0, 1.0], seed=0, resamples=20) == (1.0, 1.0, 1.0)
