"""The arithmetic of attacks, redone by hand."""

from __future__ import annotations

import pytest

from lume_run.attacks.scores import (
    combined_score,
    quantisation_robustness,
    quantisation_score,
    recovered_score,
    recovered_share,
    relearning_robustness,
    relearning_score,
    robustness_score,
    worst_score,
)
from lume_run.common.records import Score
from lume_run.evaluation.catalogue import definition_of

KNOWLEDGE, EFFICACY = definition_of("forget.knowledge"), definition_of("closer_look.forget_efficacy")
TRUTH_RATIO, AUC = definition_of("tofu.forget.truth_ratio"), definition_of("mia.auc")


def score(value: float | None, *resampled: float, reason: str | None = None, documents: int = 4) -> Score:
    return Score(name="s", value=value, n=8, resampled=resampled, documents=documents, reason=reason)


@pytest.mark.parametrize(
    ("attacked", "before", "target", "share"),
    [
        (0.5, 0.1, 0.9, 0.5),  # half of the way back
        (0.1, 0.1, 0.9, 0.0),
        (0.9, 0.1, 0.9, 1.0),
        (1.0, 0.1, 0.9, 1.0),  # further than the target was
        (0.0, 0.1, 0.9, 0.0),  # further away
        (-0.5, -0.9, -0.1, 0.5),  # a score that falls with knowledge
    ],
)
def test_recovered_share(attacked, before, target, share):
    assert recovered_share(attacked, before, target) == pytest.approx(share)


@pytest.mark.parametrize("before", [0.9, 1.0])
def test_nothing_comes_back_of_what_was_not_forgotten(before):
    with pytest.raises(ValueError, match="nothing can come back"):
        recovered_share(1.0, before, 0.9)


@pytest.mark.parametrize(
    ("before", "after", "control_before", "control_after", "r"),
    [
        (0.1, 0.5, 0.0, 0.1, 0.25),  # 0.1 / 0.4
        (0.1, 0.5, 0.0, 0.4, 1.0),
        (0.1, 0.5, 0.0, 0.9, 1.0),  # the control learns faster
        (0.1, 0.5, 0.2, 0.1, 0.0),  # the control loses some
    ],
)
def test_relearning_robustness(before, after, control_before, control_after, r):
    assert relearning_robustness(before, after, control_before, control_after) == pytest.approx(r)


@pytest.mark.parametrize("after", [0.1, 0.05])
def test_no_relearning_without_a_change(after):
    with pytest.raises(ValueError, match="brought nothing back"):
        relearning_robustness(0.1, after, 0.0, 0.5)


def test_quantisation_robustness():
    assert quantisation_robustness(0.8, 0.6) == pytest.approx(0.75)
    assert quantisation_robustness(0.6, 0.8) == 1.0
    with pytest.raises(ValueError, match="nothing was forgotten"):
        quantisation_robustness(0.0, 0.5)


def test_scores_that_fall_with_knowledge_are_turned():
    """Knowledge 0.9 -> 0.1 -> 0.5, and efficacy, its opposite, 0.1 -> 0.9 -> 0.5: the same half came back."""
    of_knowledge = recovered_score("x", KNOWLEDGE, [score(0.5), score(0.1), score(0.9)])
    of_efficacy = recovered_score("x", EFFICACY, [score(0.5), score(0.9), score(0.1)])
    assert of_knowledge.value == pytest.approx(0.5)
    assert of_efficacy.value == pytest.approx(0.5)
    terms = [score(0.1), score(0.5), score(0.0), score(0.1)]
    turned = [score(1 - float(term.value)) for term in terms]
    assert relearning_score("x", KNOWLEDGE, terms).value == pytest.approx(0.25)
    assert relearning_score("x", TRUTH_RATIO, turned).value == pytest.approx(0.25)


def test_q_is_of_what_is_forgotten():
    """Knowledge 0.2 -> 0.4: forgotten 0.8 -> 0.6. A truth ratio is what is forgotten itself."""
    assert quantisation_score("x", KNOWLEDGE, [score(0.2), score(0.4)]).value == pytest.approx(0.75)
    assert quantisation_score("x", TRUTH_RATIO, [score(0.8), score(0.6)]).value == pytest.approx(0.75)
    of_auc = quantisation_score("x", AUC, [score(0.5), score(0.6)])
    assert (of_auc.value, of_auc.reason) == (None, "Q is of scores within 0 to 1 that are best at 0 or at 1")


def test_intervals_are_paired():
    """Attacked is half-way back in every resample, however the terms vary: the share has no width."""
    attacked, before, target = score(0.5, 0.4, 0.6), score(0.1, 0.0, 0.2), score(0.9, 0.8, 1.0)
    share = recovered_score("x", KNOWLEDGE, [attacked, before, target])
    assert share.resampled == pytest.approx((0.5, 0.5))
    assert (share.value, share.low, share.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (share.n, share.documents) == (8, 4)


def test_a_resample_without_the_number_takes_the_interval_and_leaves_the_value():
    share = recovered_score("x", KNOWLEDGE, [score(0.5, 0.4, 0.5), score(0.1, 0.0, 0.9), score(0.9, 0.8, 0.9)])
    assert (share.value, share.low, share.resampled) == (pytest.approx(0.5), None, ())
    apart = combined_score("x", [score(0.5, 0.4, 0.6), score(0.5)], lambda first, second: first + second)
    assert (apart.value, apart.low) == (1.0, None)


def test_missing_terms_are_named():
    missing = recovered_score("x", KNOWLEDGE, [score(0.5), score(None, reason="no rows"), score(0.9)])
    assert (missing.value, missing.reason) == (None, "no rows")
    absent = relearning_score("x", KNOWLEDGE, [score(0.1), score(0.5), None, None])
    assert (absent.value, absent.reason) == (None, "a model that it compares was not evaluated")


def test_the_worst_of_the_strengths_in_every_resample():
    worst = worst_score("x", [score(0.2, 0.1, 0.6), score(0.4, 0.5, 0.3), score(None, reason="n/a")], max)
    assert (worst.value, worst.resampled) == (0.4, (0.5, 0.6))
    none = worst_score("x", [score(None, reason="nothing came back")], min)
    assert (none.value, none.reason) == (None, "nothing came back")


def test_robustness_is_the_harmonic_mean():
    assert robustness_score("x", score(0.5), score(1.0)).value == pytest.approx(2 / 3)
    assert robustness_score("x", score(0.0), score(1.0)).value == 0.0
