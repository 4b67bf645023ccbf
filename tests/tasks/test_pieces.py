"""Texts in pieces: nothing is lost, each fits the model, words stay whole where they can."""

from __future__ import annotations

import random

import pytest
from helpers.shared import tokenizer_at

from lume_run.common.records import Kind, continuation
from lume_run.models.rows.tokenise import encode, has_room
from lume_run.tasks.custom.pieces import cut_text
from lume_run.tasks.custom.task import CustomTask, Room

WORDS = (
    "the river froze early that year and no ferry left its bank until old March came with antidisestablishmentarianism"
)


def within(limit: int):
    return lambda prompt, answer: len(prompt) <= limit // 2 and len(prompt) + len(answer) <= limit


def letters(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("limit", [40, 90, 10_000])
@pytest.mark.parametrize("words", [None, 2, 3, 7, 40])
def test_nothing_is_lost_and_all_fits(words, limit):
    chooser = random.Random(words or 0)
    for count in (2, 3, 8, 50, 131):
        text = "".join(chooser.choice(WORDS.split()) + chooser.choice([" ", "\n", ".\n\n"]) for _ in range(count))
        pieces = list(cut_text(text, words, within(limit)))
        assert letters("".join(map("".join, pieces))) == letters(text)
        assert all(within(limit)(*piece) and all(piece) for piece in pieces)


def test_a_word_that_would_stand_alone_goes_with_the_others():
    assert list(cut_text("a b c d e", 4)) == [("a b", "c d e")]
    assert list(cut_text("a b c d e f g", 3)) == [("a", "b c"), ("d e", "f g")]
    assert list(cut_text("a b c", 2)) == [("a", "b c")]


def test_without_a_number_of_words_pieces_are_as_long_as_fits():
    assert list(cut_text(" ".join("a" * 200), None)) == [(" ".join("a" * 100),) * 2]
    sizes = [len(prompt) + len(answer) for prompt, answer in cut_text(" ".join("a" * 200), None, within(60))]
    assert max(sizes) > 55 and min(sizes[:-1]) > 50


def test_a_word_longer_than_the_model_is_cut():
    pieces = list(cut_text(f"see {'x' * 300} there", 120, within(50)))
    assert letters("".join(map("".join, pieces))) == f"see{'x' * 300}there"
    assert max(len(prompt + answer) for prompt, answer in pieces) <= 50


@pytest.mark.parametrize("limit", [16, 24, 64])
def test_rows_of_a_task_fit_the_model(limit, tiny, tmp_path):
    """By its own tokenizer, the end included; without a tokenizer by the bytes."""
    long = "".join(map(chr, range(0x3B1, 0x3C9)))
    text = f"{WORDS}.\n\n山田花子は京都の古い橋のそばに住んでいる。 {long} {long.upper()}end"
    (tmp_path / "story.txt").write_text(text, encoding="utf-8")
    tokenizer = tokenizer_at(tiny)
    task = CustomTask(name="custom", forget=str(tmp_path / "story.txt"))
    for known in (tokenizer, None):
        room = Room(has_room=lambda row, known=known: has_room(row, known, limit), tokens=limit)
        data = task.load(0, room)
        assert f"pieces of at most 120 words and {limit} tokens" in data.source
        rows = [encode(row, tokenizer, max_tokens=limit) for row in data.forget]
        assert not any(row.truncated for row in rows)
        assert letters("".join(row.prompt + continuation(row) for row in data.forget)) == letters(text)
        assert {row.kind for row in data.forget} == {Kind.COMPLETION}
