"""Text cut to one line, for messages and tables."""

from __future__ import annotations


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def shorten_value(text: str, longest: int = 80) -> str:
    """`text`, cut where it is too long for a message."""
    return text if len(text) <= longest else f"{text[: longest - 10]}...{text[-7:]}"
