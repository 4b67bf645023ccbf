"""The entries of the catalogue for scores of attacks: the worst case of each attack, by the score that it is about."""

from __future__ import annotations

from lume_run.evaluation.definitions import Definition, ScoreGroup, Wanted

OPEN_UNLEARNING, NEW = "arXiv:2506.12618", "lume-run"


def _worst_case(
    pattern: str, symbol: str, what: str, wanted: Wanted, source: str, *, detail: int = 1, low: float = 0
) -> Definition:
    return Definition(
        pattern=pattern,
        symbol=symbol,
        what=what,
        low=low,
        high=1,
        wanted=wanted,
        group=ScoreGroup.ROBUSTNESS,
        source=source,
        detail=detail,
    )


UNDER_ATTACK = (
    _worst_case(
        "attack.<kind>.<score>.recovered",
        "",
        "(attacked - unlearned) / (target - unlearned), the largest of an attack's strengths",
        Wanted.LOWER,
        NEW,
        detail=0,
    ),
    _worst_case(
        "attack.<kind>.<score>.excess",
        "",
        "`recovered` less the control's (attacked - before) / (target - before), the largest of the strengths",
        Wanted.LOWER,
        NEW,
        detail=0,
        low=-1,
    ),
    _worst_case(
        "attack.<kind>.<score>.r",
        "R",
        "min(change of the control / change of the unlearned, 1) under relearning, the smallest of the strengths",
        Wanted.HIGHER,
        OPEN_UNLEARNING,
    ),
    _worst_case(
        "attack.<kind>.<score>.q",
        "Q",
        "min(forgotten after / before, 1) under quantisation, the smallest of the formats",
        Wanted.HIGHER,
        OPEN_UNLEARNING,
    ),
    _worst_case(
        "robustness.<score>", "", "harmonic mean of R and Q of a score", Wanted.HIGHER, OPEN_UNLEARNING, detail=0
    ),
)
