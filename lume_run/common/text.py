"""Text cut to one line, for messages and tables."""

from __future__ import annotations


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")
