"""The entries of the catalogue for answers that a language model judges."""

from __future__ import annotations

from lume_run.evaluation.definitions import Definition, ScoreGroup, Wanted

OF_LLM_JUDGE = tuple(
    Definition(
        pattern=f"llm_judge.{name}",
        symbol="",
        what=what,
        low=0,
        high=1,
        wanted=wanted,
        group=group,
        source="lume-run",
        detail=detail,
    )
    for name, what, wanted, group, detail in (
        (
            *("<side>.accuracy", "share of answers that a language model says give the reference answer"),
            *(Wanted.BY_SIDE, ScoreGroup.BY_SIDE, 1),
        ),
        (
            *("agreement.entailment", "share of its verdicts that the entailment model shares"),
            *(Wanted.NONE, ScoreGroup.UTILITY, 2),
        ),
        (
            *("agreement.exact", "share of its verdicts that exact rules share"),
            *(Wanted.NONE, ScoreGroup.UTILITY, 2),
        ),
    )
)
