"""The entries of the catalogue for means over requests one after another, by the score that they are about."""

from __future__ import annotations

from lume_run.evaluation.definitions import Definition, ScoreGroup, Wanted

MEANINGS = {
    "current": ("a score of a request's documents after that request, mean over requests", Wanted.LOWER),
    "earlier": ("the same of documents of earlier requests, mean over times and requests", Wanted.LOWER),
    "returned": ("the same after the last request less that after its own, mean over requests", Wanted.LOWER),
    "to_come": ("the same of documents not yet asked for, mean over times and requests", Wanted.HIGHER),
    "area": ("a score of what is to be kept, mean over the times after each request", Wanted.HIGHER),
}
OVER_REQUESTS = tuple(
    Definition(
        pattern=f"sequence.<score>.{kind}",
        symbol="",
        what=what,
        low=None,
        high=None,
        wanted=wanted,
        group=ScoreGroup.ROBUSTNESS,
        source="lume-run",
        detail=0,
    )
    for kind, (what, wanted) in MEANINGS.items()
)
