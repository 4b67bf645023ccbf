"""Text cut to a line for messages and tables, and joined as its script joins words."""

from __future__ import annotations

import unicodedata

# beginnings of the Unicode names of letters and signs that are written without spaces between words
SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "FULLWIDTH", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR")


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def shorten_value(text: str, longest: int = 80) -> str:
    """`text`, cut where it is too long for a message."""
    return text if len(text) <= longest else f"{text[: longest - 10]}...{text[-7:]}"


def shorten_middle(text: str, longest: int) -> str:
    """`text`, without its middle where it is too long for a line."""
    part = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:part]}...{text[-part:]}"


def joining_space(before: str, after: str) -> str:
    """The space between two texts: none beside white space, at a beginning, and within a script that has none."""
    if not before or before[-1].isspace() or after[:1].isspace():
        return ""
    return "" if after and all(map(_is_spaceless, (before[-1], after[0]))) else " "


def is_spaceless_text(text: str) -> bool:
    """Whether at least half of a text's letters are of scripts that are written without spaces between words."""
    letters = [letter for letter in text if letter.isalpha()]
    return bool(letters) and 2 * sum(map(_is_spaceless, letters)) >= len(letters)


def _is_spaceless(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(SPACELESS)
