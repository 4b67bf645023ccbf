"""HaluEval's reading of a judgement (Li et al., arXiv:2305.11747, released evaluation code).

A text that contains exactly one of Yes and No, capitals as written, is that judgement, wherever in the text and even as
part of a word (Not, None); any other text is no judgement and counts as a wrong one.
"""

from __future__ import annotations

JUDGEMENTS = ("Yes", "No")


def judgement(output: str) -> str | None:
    """Yes or No, None where the text says neither or both."""
    said = [word for word in JUDGEMENTS if word in output]
    return said[0] if len(said) == 1 else None
