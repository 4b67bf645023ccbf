"""From a composed config to checked `Settings`: every problem at once, each with its path and remedy.

`walk.py` judges types and bounds, `checks.py` files and combinations; here the two meet Hydra's config.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lume_run.checks import MAYBE_PATHS, PATHS, combination_problems, part_problems, path_problems
from lume_run.common.errors import ConfigError, Problem
from lume_run.settings import Settings
from lume_run.walk import OWN_PREFIX, TARGET, Walk

FOLDERS = ("output_dir", "task.data_dir")  # may still be made, or are checked by the task
NOT_IDENTITY = ("dry_run", "objective", "output_dir", "launch", "logger", "hydra")  # what a run computes is the same


def as_data(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain data, interpolations resolved, Hydra's own node left out, paths made absolute.

    Raises ConfigError for interpolations that lead nowhere and mandatory values (`???`) not given.
    """
    data, problems = _resolved(cfg)
    if problems:
        raise ConfigError(problems)
    return data


def _resolved(cfg: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """(what `as_data` returns, problems): a value that cannot be resolved is noted and taken as null."""
    cfg = copy.deepcopy(cfg)
    problems: list[Problem] = []
    while True:
        try:
            data: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
            break
        except OmegaConfBaseException as error:
            where = str(error.full_key or "")
            what = str(error.msg or error).split("\n")[0]
            problem = Problem(where=where or "config", what=what, remedy=f"set {where or 'it'}=...")
            if not where or problem in problems:  # nothing to set to null, or no use
                raise ConfigError([*problems, problem]) from error
            problems.append(problem)
            OmegaConf.update(cfg, where, None)
    data.pop("hydra", None)
    for path in FOLDERS + PATHS + MAYBE_PATHS:
        *parents, leaf = path.split(".")
        node: Any = data
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(leaf), str):
            given = Path(node[leaf]).expanduser()
            if path not in MAYBE_PATHS or given.exists() or node[leaf].startswith((".", "~", "/")):
                node[leaf] = str(given.resolve())
    _resolve_source(data)
    return dict(data), problems


def _resolve_source(data: dict[str, Any]) -> None:
    """`task.source: auto` becomes folder, hub or builtin by what else was given."""
    task, model = data.get("task"), data.get("model")
    if isinstance(task, dict) and isinstance(model, dict) and task.get("source") == "auto":
        released = bool(model.get("is_target"))
        task["source"] = "folder" if task.get("data_dir") else "hub" if released else "builtin"


def identity(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the config that decides what a run computes."""
    return {key: without_modules(value) for key, value in data.items() if key not in NOT_IDENTITY}


def class_name(path: str) -> str:
    """What a `_target_` counts as in hashes: the class's own name for lume_run's, the whole path for others'."""
    return path.rpartition(".")[2] if path.startswith(OWN_PREFIX + ".") else path


def without_modules(node: Any) -> Any:
    """A part of the config with class names in place of the paths of lume_run's classes."""
    if isinstance(node, Mapping):
        return {key: class_name(str(value)) if key == TARGET else without_modules(value) for key, value in node.items()}
    return [without_modules(item) for item in node] if isinstance(node, list) else node


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
