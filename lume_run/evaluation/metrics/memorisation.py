"""What a model still completes under teacher forcing: exact memorisation and extraction strength.

Exact memorisation: Tirumala et al., arXiv:2205.10770. Extraction strength: Carlini et al., arXiv:2012.07805, as
Wang et al. (arXiv:2406.09179) turn it into a share of the answer. Both lie within 0 to 1; on a forget set low is good,
on a retain set high.

`hits[i]` says whether the most likely token at place i of the answer is the expected one, given all the expected
tokens before it. The clean forms count every hit they are given: leave an end-of-text token out, no other. The `compat`
forms give open-unlearning's numbers: they expect the hits of all labelled tokens and drop the last, whatever it is.
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


def compat_exact_memorisation(hits: Sequence[bool], *, aligned: bool = True) -> float | None:
    """Exact memorisation without the last labelled token; None where none is left, which enters no mean.

    `aligned=False` says that the labels have a hole or begin on the first position: there the released code compares
    arrays of different length and raises, so this raises ValueError.
    """
    if not aligned:
        raise ValueError(
            "labels with a hole or on the first position: open-unlearning has no exact memorisation of such a row; "
            "use exact_memorisation"
        )
    return exact_memorisation(hits[:-1])


def compat_extraction_strength(hits: Sequence[bool], *, aligned: bool = True) -> float:
    """Extraction strength without the last labelled token and never 0: 1 / L of L tokens where no end matches.

    0 where no token is left, and that enters the mean. `aligned=False`: see `compat_exact_memorisation`; the released
    code then finds no matching end in any row, so 1 / L.
    """
    kept = hits[:-1]
    if not kept:
        return 0.0
    return max(1, _matching_end(kept) if aligned else 0) / len(kept)


def _matching_end(hits: Sequence[bool]) -> int:
    misses = [place for place, hit in enumerate(hits) if not hit]
    return len(hits) - (misses[-1] + 1 if misses else 0)
