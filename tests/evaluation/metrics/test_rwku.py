"""RWKU's metrics by hand. The recalls are those of the package rouge 1.0.1 too, which is not installed here."""

from __future__ import annotations

import math

import pytest

from lume_run.evaluation.metrics.rwku import (
    answer_recall,
    ngram_entropy,
    plain_words,
    said_answer,
    said_match,
    union_recall,
    word_f1,
)


@pytest.mark.parametrize(
    ("reference", "text", "recall"),
    [
        ("Richard Bachman", "Richard Bachman", 1),
        ("Richard Bachman", "He wrote as Richard Bachman, once.", 1 / 2),  # the comma is part of a word
        ("Richard Bachman", "richard bachman", 0),  # case counts
        ("Richard Bachman", "Bachman Richard", 1 / 2),  # in this order
        ("St. Louis", "St. Louis", 1),  # two sentences of a word each
        ("St. Louis", "Louis St", 1),  # whose order does not matter
        ("the cat and the dog", "the cat", 2 / 4),  # "the" counts once
        ("a b c d", "a b x. c d x", 1),  # the union over sentences of the text
        ("a b c", "c. a b", 1),
        ("a b", "", 0),
        ("a b", "NOANSWER", 0),
        ("a b", "...", 0),  # no sentence at all, of which the package makes an error
        ("3.5", "3.5", 1),
        ("3.5", "3,5", 0),
        ("a b b a", "b a a b", 1),  # of "b a" and "a b" alike both words are different ones
        ("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", 4 / 5),  # the package's own example
        ("a\n b ", " a  b\t", 1),  # white space of any kind
        ("a. b", "a. ", 1 / 2),
    ],
)
def test_union_recall(reference, text, recall):
    assert union_recall(reference, text) == pytest.approx(recall, abs=1e-15)


def test_of_two_longest_common_subsequences_one_counts():
    assert union_recall("a b c", "b a c") == pytest.approx(2 / 3)  # "a c" or "b c", not both
    assert union_recall("x a y. b", "a b. b x") == pytest.approx(3 / 4)  # x, a and b of x, a, y, b


def test_an_empty_answer_is_no_answer():
    assert answer_recall("NOANSWER", " \n") == 1
    assert answer_recall("Carrie", "  Carrie ") == 1


def test_plain_words():
    assert plain_words("The  Queen's a-b, AN (A) b.") == ["queens", "ab", "b"]
    assert plain_words("the a an") == []


def test_word_f1():
    assert word_f1("the Rim of Fire", ["Ring of Fire", "Rim of Fire"]) == 1
    assert word_f1("Ring of fire!", ["rim of fire"]) == pytest.approx(2 / 3)  # 2 of 3 words on both sides
    assert word_f1("fire fire", ["fire"]) == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert word_f1("", ["fire"]) == 0
    assert word_f1("the", ["a"]) == 1  # both are empty


def test_said_answer():
    assert said_answer("So the answer is (B). Q: the answer is (C).") == "(B)"
    assert said_answer("The answer is 4") == "The answer is 4"  # no full stop ends it
    assert said_answer("(B)") == "(B)"
    assert said_answer("the answer is .") == "NOANSWER"
    assert said_answer(" ") == "NOANSWER"


def test_said_match():
    assert said_match("So the answer is True.", "True") == 1
    assert said_match("So the answer is (B).", "(B)") == 1
    assert said_match("So the answer is (B).", "(C)") == 0


def test_said_match_as_released_reads_the_reference_by_characters():
    assert said_match("So the answer is True.", "True", compat=True) == 0
    assert said_match("So the answer is (B).", "(B)", compat=True) == 1
    assert said_match("So the answer is 4.", "49", compat=True) == 1
    assert said_match("So the answer is (A).", "(C)", compat=True) == 1  # "A" is an article and "(" punctuation


def test_ngram_entropy():
    """Four different bigrams, three different trigrams."""
    bigrams, trigrams = math.log2(4), math.log2(3)
    assert ngram_entropy("one two three four five") == pytest.approx((2 / 3 * bigrams + 4 / 3 * trigrams) / 2)
    assert ngram_entropy("go go go go") == 0
    assert ngram_entropy("go") == ngram_entropy("") == 0


def test_a_full_stop_within_a_text_is_a_token():
    """`It ends . It goes on`: five bigrams, four trigrams."""
    assert ngram_entropy("It ends. It goes on") == pytest.approx((2 / 3 * math.log2(5) + 4 / 3 * math.log2(4)) / 2)
