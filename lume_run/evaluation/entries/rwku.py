"""The entries of the catalogue for RWKU: forget and neighbor levels, membership, utility."""

from __future__ import annotations

from lume_run.evaluation.definitions import Definition, ScoreGroup, Wanted

RWKU = "arXiv:2406.10890"
OF_TARGETS, OF_NEIGHBORS = (ScoreGroup.FORGET, Wanted.LOWER), (ScoreGroup.RETAIN, Wanted.HIGHER)
OF_USE = (ScoreGroup.UTILITY, Wanted.HIGHER)
RECALL = "mean over targets of the mean recall (union of LCS, pltrdy) of greedy answers to"


def _of_rwku(
    name: str,
    symbol: str,
    what: str,
    aim: tuple[ScoreGroup, Wanted],
    detail: int = 0,
    ends: tuple[float | None, float | None] = (0, 1),
) -> Definition:
    return Definition(
        pattern=f"rwku.{name}",
        symbol=symbol,
        what=what,
        low=ends[0],
        high=ends[1],
        wanted=aim[1],
        group=aim[0],
        source=RWKU,
        detail=detail,
    )


OF_RWKU = (
    _of_rwku("forget.all", "All", f"{RECALL} levels 1 to 3, every row of a target weighing alike", OF_TARGETS),
    _of_rwku("forget.fb", "FB", f"{RECALL} level 1, blanks to fill", OF_TARGETS),
    _of_rwku("forget.qa", "QA", f"{RECALL} level 2, questions", OF_TARGETS),
    _of_rwku("forget.aa", "AA", f"{RECALL} level 3, nine kinds of attack", OF_TARGETS),
    _of_rwku("forget.aa.<kind>", "AA", "`rwku.forget.aa` of one kind of attack", OF_TARGETS, 2),
    _of_rwku("neighbor.all", "All", f"{RECALL} levels 1 and 2 about neighbors, as above", OF_NEIGHBORS),
    _of_rwku("neighbor.fb", "FB", f"{RECALL} level 1 about neighbors", OF_NEIGHBORS),
    _of_rwku("neighbor.qa", "QA", f"{RECALL} level 2 about neighbors", OF_NEIGHBORS),
    _of_rwku(
        "mia.forget.loss",
        "FM",
        "mean token NLL of texts about the targets [nats]",
        (ScoreGroup.PRIVACY, Wanted.HIGHER),
        ends=(0, None),
    ),
    _of_rwku(
        "mia.retain.loss",
        "RM",
        "the same of texts about others [nats]",
        (ScoreGroup.PRIVACY, Wanted.LOWER),
        ends=(0, None),
    ),
    _of_rwku(
        "mia.<side>.<membership>",
        "",
        "mean score of these texts in an attack, higher for members; `mink20`: as the released field, min-k++",
        (ScoreGroup.PRIVACY_BY_SIDE, Wanted.BY_SIDE),
        2,
        (None, None),
    ),
    _of_rwku("utility.general", "Gen", "share of MMLU questions answered right after 5 worked examples", OF_USE),
    _of_rwku("utility.reasoning", "Rea", "share of BBH questions answered right after 3 worked-out ones", OF_USE),
    _of_rwku("utility.truthfulness", "Tru", "share of TruthfulQA questions whose true choice is likeliest", OF_USE),
    _of_rwku("utility.factuality", "Fac", "mean F1 of TriviaQA answers after 5 worked examples", OF_USE),
    _of_rwku(
        "utility.fluency",
        "Flu",
        "mean of 2/3 of the bigram and 4/3 of the trigram entropy of texts [bits]",
        OF_USE,
        ends=(0, None),
    ),
)
