"""TOFU's arithmetic by hand; losses are logarithms, so that probabilities are round numbers."""

import math

import pytest
from helpers.reference_metrics import (
    forget_quality,
    smoothed_closer_to_1_better,
    smoothed_options_probability,
    smoothed_truth_ratio,
)

from lume_run.evaluation.metrics.tofu import (
    UtilityTerms,
    arithmetic_truth_ratio,
    closer_to_1_better,
    mean_loss,
    options_probability,
    probability,
    tofu_utility,
    true_better,
    truth_probability,
    truth_ratio,
)

HALF, FOURTH, EIGHTH = math.log(2), math.log(4), math.log(8)  # losses of probabilities 1/2, 1/4, 1/8


def test_probability_is_per_token():
    assert mean_loss(-6.0, 3) == 2.0
    assert probability(-3 * HALF, 3) == pytest.approx(0.5)
    assert probability(0.0, 3) == 1.0
    assert (mean_loss(-math.inf, 2), probability(-math.inf, 2)) == (math.inf, 0.0)


def test_no_tokens_no_loss():
    assert mean_loss(0.0, 0) is probability(0.0, 0) is None


@pytest.mark.parametrize(("logp", "tokens"), [(math.nan, 2), (1.5, 2), (-1.0, -1)])
def test_what_is_no_log_probability_is_refused(logp, tokens):
    with pytest.raises(ValueError, match="not a loss"):
        probability(logp, tokens)


def test_options_probability():
    assert options_probability(HALF, [FOURTH, FOURTH]) == pytest.approx(0.5)
    assert options_probability(HALF, [HALF, FOURTH, FOURTH]) == pytest.approx(1 / 3)
    assert options_probability(2000.0, [2000.0]) == 0.5  # where both probabilities round to 0
    assert options_probability(2000.0, [1.0]) == 0.0
    assert smoothed_options_probability(2000.0, [2000.0]) == 0.0
    assert smoothed_options_probability(HALF, [FOURTH], epsilon=0.25) == pytest.approx(0.5)


@pytest.mark.filterwarnings("error")
def test_truth_ratio_is_wrong_over_right():
    assert truth_ratio([HALF], [FOURTH]) == pytest.approx(0.5)
    assert truth_ratio([HALF], [HALF, EIGHTH]) == pytest.approx(0.5)  # geometric mean of 1/2 and 1/8 is 1/4
    assert truth_ratio([HALF, EIGHTH], [HALF]) == pytest.approx(2.0)
    assert smoothed_truth_ratio([HALF], [FOURTH], epsilon=0.5) == pytest.approx(0.25)
    assert (truth_ratio([1000.0], [0.0]), truth_ratio([0.0], [1000.0])) == (math.inf, 0.0)


def test_arithmetic_variant():
    assert arithmetic_truth_ratio([HALF], [HALF, EIGHTH]) == pytest.approx(5 / 8)  # (1/2 + 1/8) / 2 over 1/2
    assert arithmetic_truth_ratio([HALF], [FOURTH]) == pytest.approx(truth_ratio([HALF], [FOURTH]))
    assert arithmetic_truth_ratio([1000.0], [1000.0, 1000.0]) == 1.0


def test_truth_probability_is_the_ratio_on_another_scale():
    ratio = truth_ratio([HALF], [HALF, EIGHTH])
    assert truth_probability([HALF], [HALF, EIGHTH]) == pytest.approx(1 / (1 + ratio))


@pytest.mark.filterwarnings("error")
def test_aggregators():
    ratios = [0.5, 2.0, 1.0]
    assert closer_to_1_better(ratios) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert true_better(ratios) == pytest.approx(0.5 / 3)
    assert smoothed_closer_to_1_better([1.0], epsilon=1.0) == 0.5
    assert closer_to_1_better([0.0, math.inf, 1e-320]) == pytest.approx(0.0)
    assert true_better([0.0, math.inf]) == 0.5


@pytest.mark.parametrize("function", [closer_to_1_better, true_better, lambda r: forget_quality(r, [1.0])])
def test_no_rows_and_nan_are_refused(function):
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match=r"truth"):
            function(bad)


@pytest.mark.parametrize("function", [closer_to_1_better, true_better])
def test_negative_ratios_are_refused(function):
    with pytest.raises(ValueError, match="negative"):
        function([-0.1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: options_probability(math.nan, [1.0]),
        lambda: options_probability(1.0, []),
        lambda: options_probability(1.0, [math.inf]),
        lambda: truth_ratio([], [1.0]),
        lambda: truth_ratio([1.0], []),
        lambda: arithmetic_truth_ratio([1.0], [math.nan]),
        lambda: truth_probability([math.nan], [1.0]),
    ],
)
def test_losses_must_be_finite_and_there(call):
    with pytest.raises(ValueError, match="loss"):
        call()


def test_forget_quality_is_high_for_alike():
    same, other = [0.1, 0.2, 0.3, 0.4], [1.1, 1.2, 1.3, 1e300]
    assert forget_quality(same, same) == 1.0
    # Four against four fully apart: 2 of the 70 ways to mix them are as extreme.
    assert forget_quality(same, other) == pytest.approx(2 / 70)
    assert forget_quality([1 / x for x in same], [1 / x for x in other]) == pytest.approx(2 / 70)


def test_model_utility_of_nine():
    ones, halves = (UtilityTerms(probability=x, rouge=x, truth_ratio=x) for x in (1.0, 0.5))
    assert tofu_utility(retain=ones, real_authors=ones, world_facts=halves) == pytest.approx(9 / (6 + 3 / 0.5))
    empty = UtilityTerms(probability=1.0, rouge=0.0, truth_ratio=1.0)
    assert tofu_utility(retain=ones, real_authors=empty, world_facts=ones) == 0.0
    nan = UtilityTerms(probability=1.0, rouge=math.nan, truth_ratio=1.0)
    with pytest.raises(ValueError):
        tofu_utility(retain=nan, real_authors=ones, world_facts=ones)
