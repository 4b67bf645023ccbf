"""What cannot be done with two models that answer as one (`method=whp`), said before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lume_run.attacks.base import PromptAttack
from lume_run.common.errors import Problem
from lume_run.evaluation.inside.logit_lens import LogitLens
from lume_run.evaluation.inside.uds import DepthScore
from lume_run.methods.baselines import WhosHarryPotter

LAYER_SUITES = (LogitLens, DepthScore)


def joined_problems(groups: Mapping[str, Any]) -> Iterator[Problem]:
    """An engine that runs one model, suites that read its layers, and attacks on its weights."""
    method, evaluator, attack = (groups[name] for name in ("method", "evaluator", "attack"))
    if not isinstance(method, WhosHarryPotter):
        return
    why = f"'{method.name}' runs two models"
    if evaluator is not None:
        if evaluator.backend != "transformers":
            what = f"{why}, and {evaluator.backend} one"
            yield Problem(where="evaluator.backend", what=what, remedy="evaluator.backend=transformers")
        if evaluator.placement == "spread":
            what = f"{why}, which are not spread over devices at once"
            yield Problem(where="evaluator.placement", what=what, remedy="evaluator.placement=replicas")
        for name in (name for name, suite in evaluator.suites.items() if isinstance(suite, LAYER_SUITES)):
            what = f"{why} that answer as one, of which {name} would read the layers"
            yield Problem(where=f"evaluator.suites.{name}", what=what, remedy="another evaluator, or another method")
    for name, part in attack.attacks.items() if attack is not None else ():
        if not isinstance(part, PromptAttack):
            what = f"{why}, so that there are no weights of an unlearned one to attack"
            yield Problem(where=f"attack.attacks.{name}", what=what, remedy="attack=prefill, or another on the prompt")
