"""What is wrong with a configuration before anything runs: types, paths, and settings that exclude each other."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lume_run.attacks.checks import attack_problems
from lume_run.common.errors import ConfigError, Problem
from lume_run.common.secrets import secret_in, secret_variables
from lume_run.common.text import shorten_value
from lume_run.config.build import Builder
from lume_run.config.model_settings import lora_problems, shape_problems
from lume_run.config.resolve import FILES, HUB_IDS, JUDGES, MAYBE_PATHS, Composed, resolve, value_at
from lume_run.config.settings import Checkable, Settings
from lume_run.config.suggest import suggest_nearest
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.entries.scores import CATALOGUE
from lume_run.launch.preemption import STOP_FILE_VARIABLE
from lume_run.pipeline.checks.devices import backend_problems, device_problems, launch_problems, quantization_problems
from lume_run.pipeline.checks.methods import (
    fine_tuning_problems,
    interface_problems,
    method_problems,
    pairing_problems,
    target_problems,
)
from lume_run.pipeline.checks.mix import mix_problems
from lume_run.pipeline.checks.rows import early_row_problems
from lume_run.tasks.requests import sequence_problems
from lume_run.tracking.start import logger_problems

GROUPS = ("task", "model", "method", "sequence", "attack", "evaluator", "trainer", "launch", "logger")
HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]{0,95}")


class CheckedConfig(NamedTuple):
    """A config after the check: its settings (None where there are problems), all problems, the resolved data."""

    settings: Settings | None
    problems: list[Problem]
    data: dict[str, Any]


def check_config(cfg: Composed, *, briefly: bool = False) -> CheckedConfig:
    """Check a composed config without touching a model; `briefly` without what takes seconds: a mistake is known."""
    try:
        data, unresolved = resolve(cfg)
    except ConfigError as error:
        return CheckedConfig(None, list(error.problems), {})
    external = data.get("allow_external")
    builder = Builder([entry for entry in external if isinstance(entry, str)] if isinstance(external, list) else [])
    fields = builder.build_fields(Settings, data, "")  # each alone, so that one group's mistake does not hide another's
    settings = builder.build_instance(Settings, fields, "") if not builder.problems else None
    groups = {name: fields.get(name) for name in GROUPS}
    problems = [
        *builder.problems,
        *combination_problems(data),
        *path_problems(data),
        *group_problems(groups, data.get("stages")),
    ]
    known = {problem.where for problem in unresolved}
    problems = unresolved + [problem for problem in problems if problem.where not in known]
    if settings is not None and not problems and settings.model.path and _runs_model(settings.stages):
        problems += early_row_problems(settings, data)
    problems += _network_problems(groups, data, briefly=briefly or bool(problems))
    return CheckedConfig(None if problems else settings, problems, data)


def require_settings(cfg: Composed) -> tuple[Settings, dict[str, Any]]:
    """Settings and the resolved config; raises ConfigError with every problem."""
    settings, problems, data = check_config(cfg)
    if settings is None:
        raise ConfigError(problems)
    return settings, data


def _secret_problems(
    data: Mapping[str, Any], variables: Sequence[tuple[str, str]], path: str = ""
) -> Iterator[Problem]:
    """Settings that hold a secret, such as these variables' values: they are written into files that people hand on."""
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _secret_problems(value, variables, where)
        elif what := secret_in(json.dumps(value, ensure_ascii=False, default=str), variables):
            remedy = "settings are written into the run's folder: leave it in the environment"
            yield Problem(where=where, what=what, remedy=remedy)


def path_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Folders and files that are named but absent, and names that are neither a path nor an id."""
    for setting in (*FILES, *MAYBE_PATHS, *HUB_IDS):
        path, maybe_id = value_at(data, setting), setting in MAYBE_PATHS
        if not isinstance(path, str) or not path.strip():
            continue
        if path.startswith("/") and not os.path.lexists(path):
            remedy = "check the path, or give a hub id" if maybe_id else "check the path"
            yield Problem(where=setting, what=f"{path} does not exist", remedy=remedy)
        elif not HUB_ID.fullmatch(path) and (setting in HUB_IDS or not path.startswith("/")):
            what = f"{shorten_value(path)!r} is neither a folder here nor a hub id"
            yield Problem(where=setting, what=what, remedy="an id is NAME or OWNER/NAME; a path begins with / or ./")


def combination_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Settings that are fine alone and impossible together."""
    return [
        *_stage_problems(data),
        *_model_problems(data),
        *target_problems(data),
        *shape_problems(data),
        *launch_problems(data),
        *_name_problems(data),
        *_searched_score_problems(data),
        *mix_problems(data),
        *_secret_problems(data, secret_variables()),
    ]


def _name_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Names that could not be part of a folder's name, or would lead out of the output folder."""
    for setting in ("task.name", "model.name", "method.name"):
        name = value_at(data, setting)
        if isinstance(name, str) and not re.fullmatch(r"[A-Za-z0-9+_-][A-Za-z0-9.+_-]{0,79}", name):
            what = f"{shorten_value(name)!r} becomes part of a folder's name"
            remedy = "at most 80 letters, digits, '.', '_', '-' and '+', no '.' first"
            yield Problem(where=setting, what=what, remedy=remedy)


def _stage_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    stages, known = data.get("stages"), ["train", "unlearn", "evaluate"]
    if isinstance(stages, list) and stages != ["score"]:
        if not stages:
            remedy = "stages=[train,unlearn,evaluate], [evaluate] or [score]"
            yield Problem(where="stages", what="no stage given", remedy=remedy)
        elif "score" in stages:
            what = "score stands alone: it needs responses, not a model"
            yield Problem(where="stages", what=what, remedy="stages=[score] responses=FILE")
        elif all(stage in known for stage in stages) and stages != [stage for stage in known if stage in stages]:
            what = f"out of order or repeated: {stages}"
            yield Problem(where="stages", what=what, remedy="the order is train, unlearn, evaluate")
    if stages == ["score"] and not data.get("responses"):
        remedy = "responses=outputs/.../responses.jsonl or a folder of official CSVs"
        yield Problem(where="responses", what="stage score needs a responses file", remedy=remedy)
    if stages != ["score"] and value_at(data, "evaluator.mmlu.accuracy") is not None:
        what = "a given accuracy would stand for every model of the run"
        yield Problem(where="evaluator.mmlu.accuracy", what=what, remedy="stages=[score] only")
    if stages != ["score"] and data.get("responses"):
        what, remedy = "only stage score reads responses", "add stages=[score], or drop responses"
        yield Problem(where="responses", what=what, remedy=remedy)


def _model_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    released, path = value_at(data, "model.is_target"), value_at(data, "model.path")
    if path is None:
        remedy = "model.path=FOLDER_OR_ID"
        if value_at(data, "model.shape") is None:
            yield Problem(where="model.path", what="neither a path nor a shape to build from", remedy=remedy)
        if released:
            what = "a target that already memorised the documents must be named"
            yield Problem(where="model.path", what=what, remedy=remedy)
        if data.get("stages") == ["evaluate"]:
            yield Problem(where="model.path", what="stages=[evaluate] scores an existing model", remedy=remedy)
    if released and value_at(data, "evaluator.retrained") and not value_at(data, "model.base"):
        what = "evaluator.retrained fine-tunes the model from before the documents"
        yield Problem(where="model.base", what=what, remedy="model.base=FOLDER_OR_ID")


def _searched_score_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Scores that a search is about and that no suite of ours has; those of other packages are not known here."""
    names = data.get("objective")
    names = [names] if isinstance(names, str) else names
    if names == []:
        yield Problem(where="objective", what="no score given", remedy="objective=task_aggregate, or a list of scores")
    for name in names if isinstance(names, list) and not data.get("allow_external") else []:
        if isinstance(name, str) and definition_of(name) is None:
            known = [entry.pattern for entry in CATALOGUE]
            yield Problem(where="objective", what=f"there is no score '{name}'", remedy=suggest_nearest(name, known))


def group_problems(groups: Mapping[str, Any], stages: Any) -> Iterator[Problem]:
    """What only the built groups (None: not built) can tell: the task's files, method parts in the wrong place."""
    task, trainer, launch = groups["task"], groups["trainer"], groups["launch"]
    runs_model = stages != ["score"]
    misplaced = interface_problems("task", task, ("name", "load", "check"))
    yield from misplaced
    if task is not None and not misplaced and runs_model:
        yield from task.check()
    yield from method_problems(groups["method"])
    yield from lora_problems(groups["model"])
    if runs_model:
        yield from pairing_problems(groups, stages)
    if groups["sequence"] is not None:
        yield from sequence_problems(groups["sequence"], stages, groups["attack"])
    if groups["attack"] is not None:
        yield from attack_problems(groups["attack"], stages, groups["evaluator"])
    if groups["evaluator"] is not None:
        yield from _suite_problems(groups["evaluator"], runs_model=runs_model)
    if launch is not None and launch.device != "auto":
        yield from device_problems(launch.device)
    if groups["evaluator"] is not None and launch is not None and runs_model:
        yield from backend_problems(groups["evaluator"].backend, launch.device)
    if groups["logger"] is not None:
        yield from logger_problems(groups["logger"])
    if trainer is not None:
        yield from fine_tuning_problems(trainer.train)
    if runs_model:
        yield from quantization_problems(groups, stages)


def _runs_model(stages: Any) -> bool:
    """Whether this process is about to run a model whose files nobody has looked at: of a rank the driver has."""
    return stages != ["score"] and STOP_FILE_VARIABLE not in os.environ


def _network_problems(groups: Mapping[str, Any], data: Mapping[str, Any], *, briefly: bool) -> Iterator[Problem]:
    """What is wrong with the folders of models and judges, of which a hub id is seen when it loads.

    `briefly` where a mistake waits to be told: the library of models, which tells the rest, takes seconds to import.
    """
    if groups["model"] is not None and _runs_model(data.get("stages")):
        from lume_run.models.folder import model_folder_problems

        retrained = groups["evaluator"].retrained_model if groups["evaluator"] is not None else None
        yield from model_folder_problems(groups["model"], retrained, briefly=briefly)
    for setting, ask in () if briefly else JUDGES.items():
        path = value_at(data, setting)
        if isinstance(path, str) and Path(path).is_dir():
            from lume_run.evaluation.judges import judge_trouble

            if trouble := judge_trouble(ask, path):
                yield Problem(where=setting, what=trouble, remedy="the folder of such a model, or a hub id")


def _suite_problems(evaluator: Any, *, runs_model: bool) -> Iterator[Problem]:
    """Suites in the wrong place or without their files, and MMLU's folder."""
    for name, suite in evaluator.suites.items():
        yield from interface_problems(f"evaluator.suites.{name}", suite, ("asks", "scores"))
        if isinstance(suite, Checkable) and runs_model:
            yield from suite.check()
    if evaluator.mmlu.data_dir and Path(evaluator.mmlu.data_dir).exists():
        from lume_run.evaluation.datasets.mmlu import check_folder

        yield from check_folder(Path(evaluator.mmlu.data_dir))
