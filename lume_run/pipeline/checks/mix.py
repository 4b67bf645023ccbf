"""Where weights between those before and those after unlearning cannot be had, said before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lume_run.common.errors import Problem
from lume_run.config.resolve import value_at
from lume_run.config.targets import TARGET, class_name
from lume_run.methods.baselines import AS_IT_ANSWERS, NoOp

# Classes of methods that leave all weights as they are.
WITHOUT_WEIGHTS = tuple(kind.__name__ for kind in (*AS_IT_ANSWERS, NoOp))


def mix_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What `mix` is set for and cannot be done, and a part of the documents where no model is asked."""
    stages = data.get("stages")
    if stages == ["score"] and value_at(data, "evaluator.documents") not in ("all", None):
        what = "answers that are there are scored as they are"
        yield Problem(where="evaluator.documents", what=what, remedy="evaluator.documents=all")
    if data.get("mix") is None:
        return
    if isinstance(stages, list) and "unlearn" not in stages:
        what = "there are no weights before and after unlearning without stage unlearn"
        yield Problem(where="mix", what=what, remedy="stages=[train,unlearn,evaluate], or drop mix")
    if class_name(str(value_at(data, f"method.{TARGET}"))) in WITHOUT_WEIGHTS:
        what = f"'{value_at(data, 'method.name')}' changes no weight, so that there is nothing between before and after"
        yield Problem(where="mix", what=what, remedy="a method that trains, or drop mix")
    if value_at(data, "sequence.requests") is not None:
        what = "a sequence of requests has several unlearned models"
        yield Problem(where="mix", what=what, remedy="sequence=none, or drop mix")
