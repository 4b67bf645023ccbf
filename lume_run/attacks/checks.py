"""What is wrong with attacks before anything runs: misplaced parts, and stages that do not go with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lume_run.attacks.base import ATTACK_KINDS
from lume_run.common.errors import Problem
from lume_run.config.settings import AttackSettings, Checkable, EvaluatorSettings
from lume_run.config.targets import TARGET
from lume_run.evaluation.inside.uds import DepthScore


def attack_problems(
    settings: AttackSettings, stages: Any, evaluator: EvaluatorSettings | None = None
) -> Iterator[Problem]:
    """Attacks where no model is evaluated, and parts that are no attacks or lack their files."""
    if settings.attacks and isinstance(stages, list) and "evaluate" not in stages:
        what = "attacked models are evaluated, and stages has no evaluate"
        yield Problem(where="attack", what=what, remedy="add evaluate to stages, or attack=none")
    suites = evaluator.suites.values() if evaluator is not None else ()
    is_read = bool(settings.attacks) or any(isinstance(suite, DepthScore) for suite in suites)
    if settings.target is not None and (not is_read or stages != ["evaluate"]):
        what = "only attacks on a model that is evaluated alone, and its evaluator=uds, read it"
        yield Problem(where="attack.target", what=what, remedy="attack=NAME stages=[evaluate], or drop it")
    for name, attack in settings.attacks.items():
        where = f"attack.attacks.{name}"
        if not isinstance(attack, ATTACK_KINDS):
            what = f"{type(attack).__name__} does not belong here: it has no trainings, edits or rewrites"
            yield Problem(where=where, what=what, remedy=f"name a class of lume_run.attacks in {where}.{TARGET}")
        elif isinstance(attack, Checkable):
            yield from attack.check()
