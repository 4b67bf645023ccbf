"""The closer-look metrics by hand."""

import dataclasses
import math

import pytest

from lume_run.evaluation.metrics.closer_look import (
    SetMeans,
    can_entail,
    closer_look_utility,
    cosine_score,
    entailment_pair,
    entailment_score,
    forget_efficacy,
    forget_truth_ratio,
    token_entropy,
    unigram_entropy,
    utility_truth_ratio,
)


@pytest.mark.parametrize(
    ("tokens", "bits", "normalised"),
    [
        ("abcd", 2.0, 1.0),
        ("aabb", 1.0, 0.5),
        ("aaaa", 0.0, 0.0),
        ("aab", math.log2(3) - 2 / 3, 1 - 2 / 3 / math.log2(3)),
        ("a", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_token_entropy(tokens, bits, normalised):
    assert unigram_entropy(list(tokens)) == pytest.approx(bits)
    assert token_entropy(list(tokens)) == pytest.approx(normalised)


def test_truth_ratios_run_in_opposite_directions():
    ratios = [0.5, 2.0, 1.0]  # wrong over right
    assert forget_truth_ratio(ratios) == pytest.approx(1 - (0.5 + 0.5 + 1) / 3)
    assert utility_truth_ratio(ratios) == pytest.approx(0.5 / 3)
    assert forget_truth_ratio([0.0]) == utility_truth_ratio([0.0]) == 1.0


def test_cosine_is_clipped():
    assert [cosine_score(cosine) for cosine in (-1.0, -0.1, 0.25, 1.0, 1.0000001)] == [0.0, 0.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("tofu", "forget", "reference_first"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
def test_direction_of_entailment(tofu, forget, reference_first):
    pair = entailment_pair("generation", "reference", tofu=tofu, forget=forget)
    assert pair == (("reference", "generation") if reference_first else ("generation", "reference"))


def test_entailment_needs_common_words():
    assert [can_entail(recall) for recall in (0.0, 0.0999, 0.1, 1.0)] == [False, False, True, True]
    assert entailment_score(["entailment", "Entailment", "none", "neutral"]) == 0.25


ONES = SetMeans(rouge=1.0, probability=1.0, truth_ratio=1.0, token_entropy=1.0, cosine=1.0, entailment=1.0)


def test_model_utility_takes_every_mean():
    assert closer_look_utility([ONES]) == 1.0
    for field in dataclasses.fields(SetMeans):
        lower = dataclasses.replace(ONES, **{field.name: 0.5})
        assert closer_look_utility([ONES, lower, ONES]) == pytest.approx(18 / (17 + 2))
        assert closer_look_utility([ONES, dataclasses.replace(ONES, **{field.name: 0.0})]) == 0.0


def test_forget_efficacy_leaves_token_entropy_out():
    assert forget_efficacy(ONES) == 0.0
    assert forget_efficacy(dataclasses.replace(ONES, token_entropy=0.0)) == 0.0
    for name in ("rouge", "probability", "truth_ratio", "cosine", "entailment"):
        assert forget_efficacy(dataclasses.replace(ONES, **{name: 0.5})) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: forget_truth_ratio([]),
        lambda: utility_truth_ratio([math.nan]),
        lambda: entailment_score([]),
        lambda: closer_look_utility([]),
        lambda: closer_look_utility([dataclasses.replace(ONES, cosine=math.nan)]),
        lambda: forget_efficacy(dataclasses.replace(ONES, cosine=math.nan)),
    ],
)
def test_nothing_and_nan_are_refused(call):
    with pytest.raises(ValueError):
        call()
