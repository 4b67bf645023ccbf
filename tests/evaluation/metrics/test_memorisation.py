"""Exact memorisation and extraction strength, clean and as open-unlearning counts them."""

import pytest
from helpers.reference_metrics import compat_exact_memorisation, compat_extraction_strength

from lume_run.evaluation.metrics.memorisation import exact_memorisation, extraction_strength


def hits(text):
    """One hit per +."""
    return [sign == "+" for sign in text]


@pytest.mark.parametrize(
    ("signs", "exact", "strength"),
    [
        ("++++", 1.0, 1.0),
        ("----", 0.0, 0.0),
        ("+++-", 0.75, 0.0),  # known but for its last token: no end of it can be extracted
        ("-+++", 0.75, 0.75),
        ("+-++", 0.75, 0.5),
        ("+", 1.0, 1.0),
        ("-", 0.0, 0.0),
    ],
)
def test_every_given_token_counts(signs, exact, strength):
    assert exact_memorisation(hits(signs)) == exact
    assert extraction_strength(hits(signs)) == strength


@pytest.mark.parametrize(
    ("signs", "exact", "strength"),
    [
        ("+++++", 1.0, 1.0),
        ("++++-", 1.0, 1.0),  # the last one is dropped, hit or miss
        ("----+", 0.0, 0.25),  # never 0: 1 / L
        ("+++-+", 0.75, 0.25),
        ("-++++", 0.75, 0.75),
    ],
)
def test_compat_drops_the_last_token_and_never_reaches_0(signs, exact, strength):
    assert compat_exact_memorisation(hits(signs)) == exact
    assert compat_extraction_strength(hits(signs)) == strength


@pytest.mark.parametrize("signs", ["", "+", "-"])
def test_no_token_left(signs):
    assert compat_exact_memorisation(hits(signs)) is None
    assert compat_extraction_strength(hits(signs)) == 0.0
    assert exact_memorisation([]) is None
    assert extraction_strength([]) is None


def test_labels_that_do_not_line_up():
    assert compat_extraction_strength(hits("+++++"), aligned=False) == 0.25
    with pytest.raises(ValueError, match="hole"):
        compat_exact_memorisation(hits("+++++"), aligned=False)
