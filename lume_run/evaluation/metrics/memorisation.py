"""What a model still completes under teacher forcing: exact memorisation and extraction strength.

Exact memorisation: Tirumala et al., arXiv:2205.10770. Extraction strength: Carlini et al., arXiv:2012.07805, as
Wang et al. (arXiv:2406.09179) turn it into a share of the answer. Both lie within 0 to 1; on a forget set low is good,
on a retain set high.

`hits[i]` says whether the most likely token at place i of the answer is the expected one, given all the expected
tokens before it. Every given hit counts: leave an end-of-text token out, no other. open-unlearning drops the last of
all labelled tokens instead, whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence


def exact_memorisation(hits: Sequence[bool]) -> float | None:
    """Share of expected tokens that were the most likely ones; None for an answer without tokens: leave it out."""
    return sum(hits) / len(hits) if hits else None


def extraction_strength(hits: Sequence[bool]) -> float | None:
    """Length of the longest all-hit end of the answer over its length: 1 where all match, 0 where no end does.

    A prefix of the remaining share of the answer is enough to have the model extract the rest. None for an answer
    without tokens: leave it out.
    """
    return _matching_end(hits) / len(hits) if hits else None


def _matching_end(hits: Sequence[bool]) -> int:
    misses = [place for place, hit in enumerate(hits) if not hit]
    return len(hits) - (misses[-1] + 1 if misses else 0)
