"""From a composed config to checked `Settings`: every problem at once, each with its path and remedy.

`build.py` checks types and bounds, `pipeline/checks/` files and combinations.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lume_run.common.errors import ConfigError, DataError, Problem
from lume_run.common.places import as_given
from lume_run.common.records import Ask
from lume_run.common.secrets import SECRET_VARIABLE
from lume_run.config.targets import TARGET, class_name
from lume_run.config.yaml_files import read_config_file

FILES = (
    *("responses", "evaluator.mmlu.data_dir", "evaluator.retrained_responses"),
    *("method.idk_file", "method.stop_when.disruption_text"),
)
PATHS = (  # suites look into theirs themselves
    *FILES,
    *(f"evaluator.suites.{name}" for name in ("perplexity.path", "lm_eval.include_path")),
    *(f"evaluator.suites.nq_open.{name}" for name in ("path", "shots_path")),
    *(f"attack.attacks.{name}.path" for name in ("relearn_text", "benign")),
    *(f"evaluator.suites.halueval.{part}_path" for part in ("qa", "dialogue", "summarization", "general")),
    *(f"evaluator.suites.halueval.{part}instruction" for part in ("", "dialogue_", "summarization_")),
)
JUDGES = {  # setting: what the model there is asked
    "evaluator.suites.closer_look.embedder": Ask.COSINE,
    "evaluator.suites.closer_look.entailment": Ask.ENTAILMENT,
    "evaluator.suites.leak.entailment": Ask.ENTAILMENT,
    "evaluator.suites.open_unlearning.classifier": Ask.FLUENCY,
}
HUB_IDS = ("task.hub_id", "evaluator.mmlu.hub_id")  # of data, never a path
MAYBE_PATHS = (
    "model.path",
    "model.base",
    "model.tokenizer",
    "evaluator.retrained_model",
    "attack.target",
    *JUDGES,
)  # folder or id
SOURCES = (  # of task=custom: a path, or a hub id with config and split; of muse_raw: a path, or a name in a corpus
    *(f"task.{name}" for name in ("forget", "retain", "holdout")),
    *(f"task.texts.{name}" for name in ("forget", "retain", "learned")),
)
FOLDERS = ("output_dir", "task.data_dir")  # may not exist yet, or are checked by the task
# What a run computes is the same whatever these are.
NOT_IDENTITY = ("dry_run", "verify", "objective", "output_dir", "launch", "logger", "hydra")

RESOLVERS = ("oc.env", "oc.select", "now", "hydra", "lume_run_name")
RESOLVER_CALL = re.compile(r"\$\{\s*([\w.]+)\s*:\s*([^,}]*)")

Composed: TypeAlias = DictConfig  # a composed config, for those who only hand it on


def as_data(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain data, interpolations resolved, Hydra's own node left out, paths made absolute.

    Raises ConfigError for interpolations that lead nowhere and mandatory values (`???`) not given.
    """
    data, problems = resolve(cfg)
    if problems:
        raise ConfigError(problems)
    return data


def resolve(cfg: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """(what `as_data` returns, problems): a value that cannot be resolved is noted and taken as null."""
    cfg = pickle.loads(pickle.dumps(cfg))  # a copy, in a third of copy.deepcopy's time
    problems: list[Problem] = []
    written = OmegaConf.to_container(cfg, resolve=False)
    for where, what in _refused_interpolations(written):
        problems.append(Problem(where=where, what=what, remedy="write the value itself, or take it from a variable"))
        OmegaConf.update(cfg, where, None)
    for where in _missing_keys(written):  # before what is interpolated from them
        what = f"Missing mandatory value: {where.rpartition('.')[2]}"
        problems.append(Problem(where=where, what=what, remedy=f"set {where}=..."))
        OmegaConf.update(cfg, where, None)
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
    for path in FOLDERS + PATHS + MAYBE_PATHS + SOURCES:
        setting = value_at(data, path)
        group, _, leaf = path.rpartition(".")
        if isinstance(setting, list) and path in SOURCES:
            value_at(data, group)[leaf] = [_absolute(path, source) for source in setting]
        elif setting is not None:
            value_at(data, group)[leaf] = _absolute(path, setting)
    _resolve_source(data)
    return dict(data), problems


def _absolute(path: str, setting: Any) -> Any:
    """What stands at `path` with the command's folder before it, where it is a relative path and no hub id."""
    if not isinstance(setting, str) or not setting.strip():
        return setting
    given = as_given(setting)
    is_path = path not in MAYBE_PATHS + SOURCES or given.exists() or setting.startswith((".", "~", "/"))
    return os.path.abspath(given) if is_path else setting  # noqa: PTH100  (links are not followed)


def value_at(data: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none; the empty path is the whole."""
    node: Any = data
    for key in path.split(".") if path else ():
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _refused_interpolations(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(where, what) of interpolations that would read a secret, or that call what lume-run does not know."""
    if isinstance(node, dict):
        for key, child in node.items():
            if path or key != "hydra":
                yield from _refused_interpolations(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from _refused_interpolations(child, f"{path}[{number}]")
    elif isinstance(node, str):
        for resolver, argument in RESOLVER_CALL.findall(node):
            if resolver not in RESOLVERS:
                yield path, f"{resolver} is none of the resolvers that a setting may use ({', '.join(RESOLVERS)})"
            elif resolver == "oc.env" and SECRET_VARIABLE.search(argument.strip()):
                yield path, f"{argument.strip()} is a secret by its name, and settings are written down"


def _missing_keys(node: Any, path: str = "") -> list[str]:
    """Where a mandatory value (`???`) was not given; Hydra's own node is left out."""
    if isinstance(node, dict):
        entries = [(key, f"{path}.{key}" if path else str(key)) for key in node if path or key != "hydra"]
        return [where for key, below in entries for where in _missing_keys(node[key], below)]
    if isinstance(node, list):
        return [where for at, entry in enumerate(node) for where in _missing_keys(entry, f"{path}[{at}]")]
    return [path] if node == "???" else []


def _resolve_source(data: dict[str, Any]) -> None:
    """`task.source: auto` becomes folder, hub or builtin by what else was given."""
    task, model = data.get("task"), data.get("model")
    if isinstance(task, dict) and isinstance(model, dict) and task.get("source") == "auto":
        released = bool(model.get("is_target"))
        task["source"] = "folder" if task.get("data_dir") else "hub" if released else "builtin"


# Of phases and methods: null is what versions without them did.
LATER_SETTINGS = ("sharpness", "warmup_steps", "max_tokens", "knowledge")


def run_identity(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the config that decides what a run computes.

    Without attacks, requests, requests apart, mixed weights, parts and later settings of a phase that of versions that
    had none.
    """
    unused = {"attack": not value_at(data, "attack.attacks"), "sequence": not value_at(data, "sequence.requests")}
    left_out = {*NOT_IDENTITY, *(group for group, is_unused in unused.items() if is_unused)}
    identity = {key: without_modules(value) for key, value in data.items() if key not in left_out}
    if identity.get("mix") is None:
        identity.pop("mix", None)
    evaluator = identity.get("evaluator")
    if isinstance(evaluator, dict) and evaluator.get("documents") == "all":
        evaluator.pop("documents")
    sequence = identity.get("sequence")
    if isinstance(sequence, dict) and not sequence.get("apart"):
        sequence.pop("apart", None)
    for group, name in (("method", "stop_when"), ("trainer", "train"), ("trainer", "unlearn")):
        if isinstance(settings := value_at(identity, f"{group}.{name}"), dict):
            identity[group][name] = without_unset(settings)
    return identity


def without_unset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for hashing: those that came later, where they are null, left out."""
    return {name: value for name, value in settings.items() if value is not None or name not in LATER_SETTINGS}


def without_modules(node: Any) -> Any:
    """A part of the config with class names in place of the paths of lume_run's classes."""
    if isinstance(node, Mapping):
        return {key: class_name(str(value)) if key == TARGET else without_modules(value) for key, value in node.items()}
    return [without_modules(item) for item in node] if isinstance(node, list) else node


def read_config(path: Path) -> DictConfig:
    """The resolved config that lume-run wrote; raises ConfigError where there is none to read."""
    remedy = "give the folder of a run"
    if not os.path.lexists(path):
        raise ConfigError([Problem(where=str(path.parent), what="no config.yaml here", remedy=remedy)])
    try:
        content, _ = read_config_file(path, remedy=remedy)
    except DataError as error:
        raise ConfigError(error.problems) from error
    if not isinstance(content or {}, dict):
        raise ConfigError([Problem(where=str(path), what="not a mapping", remedy=remedy)])
    return OmegaConf.create(content or {})
