"""MUSE's ROUGE and its privacy leakage, by hand."""

import math

import pytest
from helpers.reference_metrics import smoothed_privacy_leakage, smoothed_relative_difference, stemmed_rouge_l_f1

from lume_run.evaluation.metrics.muse import (
    BOOKS_RETRAINED_AUC,
    NEWS_RETRAINED_AUC,
    cut_answer,
    knowledge_memorisation,
    privacy_leakage,
    rouge_l_f1,
    verbatim_memorisation,
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "f1"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "a b", 2 * 0.5 / 1.5),  # recall 1/2, precision 1
        ("a b", "a b c d", 2 * 0.5 / 1.5),  # F1, so what is added costs
        ("running dogs", "run dog", 0.0),  # no stems
        ("some words", "", 0.0),
        ("", "some words", 0.0),
        ("東京", "東京", 0.0),
    ],
)
def test_rouge_l_f1(reference, hypothesis, f1):
    assert rouge_l_f1(reference, hypothesis) == pytest.approx(f1)
    assert verbatim_memorisation(reference, hypothesis) == pytest.approx(f1)


def test_stemming_is_open_unlearnings():
    assert stemmed_rouge_l_f1("running dogs", "run dog") == 1.0


@pytest.mark.parametrize(
    ("generation", "kept"),
    [
        ("Paris", "Paris"),
        (" Paris\n\nQuestion: next", " Paris"),
        ("Paris\nQuestion: next\n\nmore", "Paris"),
        ("Paris Question: next", "Paris "),
        ("Paris\nQuestions remain", "Paris"),
        ("Paris\nin the north", "Paris\nin the north"),
        ("\n\nParis", ""),
        ("", ""),
    ],
)
def test_an_answer_ends_where_the_next_question_begins(generation, kept):
    assert cut_answer(generation) == kept


def test_knowledge_memorisation_scores_what_is_kept():
    assert knowledge_memorisation("Paris", "Paris\n\nQuestion: where is Rome?") == 1.0
    assert knowledge_memorisation("Paris", "\n\nParis") == 0.0


@pytest.mark.parametrize(
    ("auc", "retrained", "leakage"),
    [(0.5, 0.5, 0.0), (1.0, 0.5, -100.0), (0.0, 0.5, 100.0), (0.75, 0.5, -50.0), (0.5, 0.0, -50.0), (1.0, 0.2, -100.0)],
)
def test_privacy_leakage(auc, retrained, leakage):
    assert privacy_leakage(auc, retrained) == pytest.approx(leakage)


@pytest.mark.parametrize(("published", "constant"), [(0.4772, NEWS_RETRAINED_AUC), (0.5393, BOOKS_RETRAINED_AUC)])
def test_it_is_the_formula_of_the_paper_on_its_own_aucs(published, constant):
    for theirs in (0.0, 0.3, published, 1.0):
        expected = (theirs - published) / published * 100
        assert privacy_leakage(1 - theirs, constant) == pytest.approx(expected, abs=1e-9)


def test_a_retrained_model_that_is_recognised_gives_no_leakage():
    with pytest.raises(ValueError, match="retrained model's AUC is 1"):
        privacy_leakage(0.9, 1.0)
    assert smoothed_privacy_leakage(0.2, 1.0) == pytest.approx(8e11)


def test_relative_difference():
    assert smoothed_relative_difference(0.75, 0.5) == pytest.approx(50.0)
    assert smoothed_relative_difference(1.0, 0.0) == pytest.approx(1e12)


@pytest.mark.parametrize("aucs", [(1.2, 0.5), (0.5, -0.1), (math.nan, 0.5), (0.5, math.nan), (52.28, 0.5)])
def test_an_auc_lies_within_0_to_1(aucs):
    with pytest.raises(ValueError, match="AUC is"):
        privacy_leakage(*aucs)
