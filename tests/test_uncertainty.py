"""Bootstrap intervals: what can be redone by hand, and that whole groups are drawn."""

import math

import numpy as np
import pytest

from lume_run.metrics.uncertainty import bootstrap_interval, finite_values, paired_difference, two_sample_interval


def own_mean(values):
    return float(values.mean())


def test_equal_values_leave_no_room():
    assert bootstrap_interval([0.25] * 5, seed=0) == (0.25, 0.25, 0.25)


def test_two_rows_give_the_binomial_quantiles():
    # A resample of (0, 1) has mean 0, 0.5 or 1 with probability 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0], seed=1) == (0.5, 0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], seed=1, level=0.4)[1:] == (0.5, 0.5)


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    estimate, low, high = bootstrap_interval(values.tolist(), seed=2, resamples=4000)
    half = 1.96 * values.std() / 20
    assert estimate == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((estimate - half, estimate + half), abs=0.15 * half)


def test_groups_are_drawn_whole():
    values, groups = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    assert bootstrap_interval(values, groups, seed=0)[1:] == (0.0, 1.0)  # as two rows, not a hundred
    rows = bootstrap_interval(values, seed=0)
    assert 0.3 < rows.low < rows.high < 0.7


def test_rows_of_a_resample_weigh_the_same():
    # Draws of (a a), (a b), (b b) hold 2, 4 and 6 rows with means 0, 3/4 and 1.
    interval = bootstrap_interval([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"], seed=0, level=0.4)
    assert interval == (0.75, 0.75, 0.75)


def test_seed_decides_and_row_order_does_not():
    random = np.random.default_rng(3)
    values, groups = random.normal(size=60), [f"d{n % 12}" for n in range(60)]
    first = bootstrap_interval(values.tolist(), groups, seed=5)
    assert first == bootstrap_interval(values.tolist(), groups, seed=5)
    assert first != bootstrap_interval(values.tolist(), groups, seed=6)
    order = random.permutation(60)
    shuffled = bootstrap_interval(values[order].tolist(), [groups[n] for n in order], seed=5)
    assert shuffled == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("groups", [None, [f"d{n % 7}" for n in range(30)]])
def test_any_statistic_sees_the_resamples_of_the_mean(groups):
    values = np.random.default_rng(4).normal(size=30).tolist()
    vectorised = bootstrap_interval(values, groups, seed=7, resamples=200)
    looped = bootstrap_interval(values, groups, seed=7, resamples=200, statistic=own_mean)
    assert looped == pytest.approx(vectorised, abs=1e-12)


def test_paired_difference_is_after_minus_before():
    before, after = [0.0, 10.0, 20.0], [1.0, 11.0, 21.0]
    assert paired_difference(before, after, seed=0) == (1.0, 1.0, 1.0)  # unpaired, the spread of 10 would show
    assert paired_difference(after, before, ["a", "b", "b"], seed=0).estimate == -1.0
    with pytest.raises(ValueError, match="pair them"):
        paired_difference([1.0, 2.0], [1.0], seed=0)


def test_two_samples_are_resampled_separately():
    def gap(first, second):
        return float(first.mean() - second.mean())

    assert two_sample_interval([3.0, 3.0, 3.0], [1.0, 1.0], gap, seed=0) == (2.0, 2.0, 2.0)
    groups = {"first_groups": ["a", "a", "b"], "second_groups": ["c", "d"]}
    one, two = (two_sample_interval([1.0, 2.0, 3.0], [0.0, 4.0], gap, seed=0, resamples=200, **g) for g in ({}, groups))
    assert one.estimate == two.estimate == 0.0
    assert one != two


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"values": []}, "no values"),
        ({"values": [1.0]}, "1 group"),
        ({"values": [1.0, 2.0], "groups": ["a", "a"]}, "1 group"),
        ({"values": [1.0, 2.0], "groups": ["a"]}, "1 group labels for 2 values"),
        ({"values": [1.0, math.nan, math.inf]}, "2 of 3 values"),
        ({"values": [1.0, None]}, "1 of 2 values"),
        ({"values": [1.0, 2.0], "level": 95}, "level is 95"),
        ({"values": [1.0, 2.0], "resamples": 0}, "0 resamples"),
        ({"values": [1.0, 2.0], "statistic": lambda values: math.nan}, "resampled statistics"),
    ],
)
def test_what_cannot_be_resampled_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        bootstrap_interval(**arguments, seed=0)


def test_finite_values_names_what_is_odd():
    assert finite_values([1, 2], "losses").tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="no losses"):
        finite_values([], "losses")
