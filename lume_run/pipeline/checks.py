"""What is wrong with a configuration before anything runs: paths, and settings that exclude each other."""

from __future__ import annotations

import typing
from typing import Any

from omegaconf import DictConfig

from lume_run.checks import combination_problems, part_problems, path_problems
from lume_run.common.errors import ConfigError, Problem
from lume_run.config.build import Walk
from lume_run.config.resolve import _resolved
from lume_run.config.settings import Settings


def check(cfg: DictConfig) -> tuple[Settings | None, list[Problem], dict[str, Any]]:
    """(settings or None, all problems, the resolved config as data). No model is touched."""
    try:
        data, unresolved = _resolved(cfg)
    except ConfigError as error:
        return None, list(error.problems), {}
    given = data.get("allow_external")
    allowed = [entry for entry in given if isinstance(entry, str)] if isinstance(given, list) else []
    walk = Walk(allowed)
    settings = walk.record(Settings, data, "")
    groups = typing.get_type_hints(Settings)
    parts = {  # each alone, so that one group's mistake does not hide another's
        name: Walk(allowed).value(groups[name], data.get(name), name)
        for name in ("task", "model", "method", "evaluator", "trainer", "launch")
    }
    found = walk.problems + combination_problems(data) + path_problems(data) + part_problems(parts, data.get("stages"))
    known = {problem.where for problem in unresolved}
    problems = unresolved + [problem for problem in found if problem.where not in known]
    return (None if problems else settings), problems, data


def checked(cfg: DictConfig) -> tuple[Settings, dict[str, Any]]:
    """Settings and the resolved config; raises ConfigError with every problem."""
    settings, problems, data = check(cfg)
    if settings is None:
        raise ConfigError(problems)
    return settings, data
