"""A text in pieces that a model has room for: the first half of each is a prompt, the second half continues it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from lume_run.common.text import is_spaceless_text

Span = tuple[int, int]  # where a word of a text begins and ends
Fits = Callable[[str, str], bool]  # whether a model has room for a prompt and what follows it
FIRST_TRY = 64  # words of a piece whose length is not known


def fits_anywhere(_prompt: str, _answer: str) -> bool:
    """Room without end."""
    return True


def cut_text(text: str, words: int | None, fits: Fits = fits_anywhere) -> Iterator[tuple[str, str]]:
    """(beginning, continuation) of each piece of a text; nothing of a text that is a single word.

    A piece has `words` words (None: as many as fit) and fewer where these do not fit. A word that would be left alone
    at the end goes with those before it. White space within a piece stays as it is. Words that do not fit as a
    pair are cut within. A script without spaces is counted in characters.
    """
    text = text.strip()
    spans = [match.span() for match in re.finditer(r"." if is_spaceless_text(text) else r"\S+", text, re.DOTALL)]
    start, size = 0, FIRST_TRY

    def fit(count: int) -> bool:
        return fits(*halves(text, spans[start : start + count]))

    while (left := len(spans) - start) > 1:
        most = left if words is None or left == words + 1 else min(words, left)
        size = _most_that_fit(fit, most, size)
        size = size - 1 if left == size + 1 and size > 2 else size
        whole = size > 1 and left != size + 1
        if not whole and (finer := _letters(spans[start : start + 3])):
            spans[start : start + 3] = finer
            continue
        size = max(2, size)  # two letters at least: more is not to be cut
        yield halves(text, spans[start : start + size])
        start += size


def halves(text: str, piece: Sequence[Span]) -> tuple[str, str]:
    """The two halves of a piece; the second without the single space that will stand between them."""
    middle = piece[len(piece) // 2 - 1][1]
    answer = text[middle : piece[-1][1]]
    return text[piece[0][0] : middle], answer.removeprefix(" ") if answer[1:2].strip() else answer


def _most_that_fit(fit: Callable[[int], bool], most: int, first: int) -> int:
    """How many words fit, at most so many; 0 where not even two do. `first` are tried before more."""
    low, high = 0, min(most, max(2, first))
    while fit(high):
        low = high
        if high == most:
            return most
        high = min(most, 2 * high)
    while high - low > 1 and high > 2:
        middle = max(2, (low + high) // 2)
        low, high = (middle, high) if fit(middle) else (low, middle)
    return low


def _letters(spans: Sequence[Span]) -> list[Span]:
    """The letters of words, each a span; none where the words are letters already."""
    letters = [(place, place + 1) for begin, end in spans for place in range(begin, end)]
    return letters if len(letters) > len(spans) else []
