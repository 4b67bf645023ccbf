"""From a composed config to checked `Settings`: every problem at once, each with its path and remedy.

The config is walked against the dataclasses of `settings.py` and of whatever `_target_` names. The
`_target_` is the registry: a task, a method or a loss is a class of `lume_run` (or of a module
that `allow_external` lists), named in a YAML file; there is nothing else to register.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import importlib.util
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lume_run.errors import ConfigError, LumeError, Problem
from lume_run.settings import Lora, Settings

TARGET = "_target_"
OWN_PREFIX = "lume_run"
PATHS = ("output_dir", "responses", "task.data_dir", "evaluator.mmlu.data_dir")
MAYBE_PATHS = ("model.path", "model.base", "model.tokenizer")  # a folder, or a hub id
NOT_IDENTITY = ("dry_run", "output_dir", "launch", "hydra")  # change nothing about what a run computes


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the choices."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(names)}"


class Walk:
    """One pass over a config tree: builds what can be built and collects what cannot."""

    def __init__(self, allow_external: Iterable[str] = ()) -> None:
        self.problems: list[Problem] = []
        self.prefixes = (OWN_PREFIX, *allow_external)

    def bad(self, where: str, what: str, remedy: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(where=where, what=what, remedy=remedy))

    def record(self, cls: type[Any], node: Any, path: str) -> Any:
        """An instance of dataclass `cls` from a mapping, or None after noting what is wrong."""
        if not isinstance(node, Mapping):
            self.bad(path, f"expected a group of settings, got {node!r}", f"keys: {', '.join(_fields(cls))}")
            return None
        fields, hints = _fields(cls), typing.get_type_hints(cls)
        before, arguments = len(self.problems), {}
        for key in node:
            if key not in fields and key != TARGET:
                self.bad(_join(path, key), "unknown key", nearest(str(key), fields))
        for name, field in fields.items():
            where = _join(path, name)
            if name in node:
                arguments[name] = self.value(hints[name], node[name], where)
                self.bounds(field, arguments[name], where)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self.bad(where, "missing", f"set it: {field.metadata.get('help', 'required')}")
        if len(self.problems) > before:
            return None
        try:
            return cls(**arguments)
        except ValueError as error:
            self.bad(path, str(error))
            return None

    def bounds(self, field: dataclasses.Field[Any], value: Any, where: str) -> None:
        """Note a number outside its field's range."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return
        low, high = field.metadata.get("low"), field.metadata.get("high")
        too_low = low is not None and (value < low or (field.metadata.get("open_low") and value == low))
        if too_low or (high is not None and value > high) or not math.isfinite(value):
            least = (
                f"{'greater than' if field.metadata.get('open_low') else 'at least'} {low}" if low is not None else ""
            )
            most = f"at most {high}" if high is not None else ""
            allowed = " and ".join(part for part in (least, most) if part) or "a finite number"
            self.bad(where, f"{value} is out of range", ": ".join(filter(None, (allowed, field.metadata.get("help")))))

    def value(self, hint: Any, value: Any, path: str) -> Any:
        """`value` as `hint` asks, or a noted problem."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self.union(arguments, value, path)
        if origin is Literal:
            if value not in arguments:
                self.bad(path, f"unknown value {value!r}", nearest(str(value), arguments))
            return value
        if origin in (list, tuple, Sequence):
            return self.sequence(list if origin is list else tuple, arguments, value, path)
        if isinstance(value, Mapping) and TARGET in value:
            return self.target(value, path)
        if hint is Lora and isinstance(value, bool):
            return Lora(enabled=value)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.record(hint, value, path)
        if hint is Any or getattr(hint, "_is_protocol", False):
            self.bad(path, f"expected a group with {TARGET}, got {value!r}", "choose one of the group's YAML files")
            return None
        return self.scalar(hint, value, path)

    def union(self, hints: tuple[Any, ...], value: Any, path: str) -> Any:
        """The first alternative that fits; problems of the last one otherwise."""
        if type(None) in hints and (value is None or value == {}):  # an empty YAML file chooses nothing
            return None
        options = [hint for hint in hints if hint is not type(None)]
        for hint in options[:-1]:
            attempt = Walk(self.prefixes)
            found = attempt.value(hint, value, path)
            if not attempt.problems:
                return found
        return self.value(options[-1], value, path)

    def sequence(self, kind: type[Any], arguments: tuple[Any, ...], value: Any, path: str) -> Any:
        """A list (or tuple) with each member checked."""
        if not isinstance(value, (list, tuple)):
            self.bad(path, f"expected a list, got {value!r}", f"write it as {path}=[...]")
            return None
        inner = arguments[0] if arguments else Any
        return kind(self.value(inner, item, f"{path}[{number}]") for number, item in enumerate(value))

    def scalar(self, hint: Any, value: Any, path: str) -> Any:
        """A bool, int, float or str of exactly that kind (an int will do for a float)."""
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if hint is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if hint in (bool, int, float, str) and (
            not isinstance(value, hint) or (hint is int and isinstance(value, bool))
        ):
            names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
            self.bad(path, f"expected {names[hint]}, got {value!r}")
        return value

    def target(self, node: Mapping[str, Any], path: str) -> Any:
        """Build what `_target_` names, from `lume_run` or an allowed module only."""
        name = str(node[TARGET])
        module_name, _, attribute = name.rpartition(".")
        if not any(module_name == prefix or module_name.startswith(prefix + ".") for prefix in self.prefixes):
            self.bad(
                _join(path, TARGET),
                f"'{name}' is not from {OWN_PREFIX}",
                "list its module in allow_external if you trust it",
            )
            return None
        try:
            cls = vars(importlib.import_module(module_name)).get(attribute)
        except ImportError as error:
            self.bad(_join(path, TARGET), f"'{module_name}' cannot be imported: {error}")
            return None
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            self.bad(_join(path, TARGET), f"'{name}' is not a dataclass", "name a dataclass of that module")
            return None
        return self.record(cls, node, path)


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


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
    for path in PATHS + MAYBE_PATHS:
        *parents, leaf = path.split(".")
        node: Any = data
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(leaf), str):
            given = Path(node[leaf]).expanduser()
            if path in PATHS or given.exists() or node[leaf].startswith((".", "~", "/")):
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
    return {key: value for key, value in data.items() if key not in NOT_IDENTITY}


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
        for name in ("task", "method", "evaluator", "trainer", "launch")
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


def _get(data: Mapping[str, Any], path: str) -> Any:
    node: Any = data
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def path_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Folders and files that are named but absent."""
    found = []
    for path in ("responses", "evaluator.mmlu.data_dir", *MAYBE_PATHS):
        value = _get(data, path)
        if isinstance(value, str) and value.startswith("/") and not Path(value).exists():
            found.append(Problem(where=path, what=f"{value} does not exist", remedy="check the path, or give a hub id"))
    return found


def combination_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Settings that are fine alone and impossible together."""
    found: list[Problem] = []

    def note(where: str, what: str, remedy: str) -> None:
        found.append(Problem(where=where, what=what, remedy=remedy))

    stages = data.get("stages")
    known = ["train", "unlearn", "evaluate"]
    if isinstance(stages, list) and stages != ["score"]:
        if not stages:
            note("stages", "no stage given", "stages=[train,unlearn,evaluate], [evaluate] or [score]")
        elif "score" in stages:
            note("stages", "score stands alone: it needs responses, not a model", "stages=[score] responses=FILE")
        elif all(stage in known for stage in stages) and stages != [stage for stage in known if stage in stages]:
            note("stages", f"out of order or repeated: {stages}", "the order is train, unlearn, evaluate")
    if stages == ["score"] and not data.get("responses"):
        note(
            "responses",
            "stage score needs a responses file",
            "responses=outputs/.../responses.jsonl or a folder of official CSVs",
        )
    if stages != ["score"] and data.get("responses"):
        note("responses", "only stage score reads responses", "add stages=[score], or drop responses")
    released, path = _get(data, "model.is_target"), _get(data, "model.path")
    if path is None and _get(data, "model.shape") is None:
        note("model.path", "neither a path nor a shape to build from", "model.path=FOLDER_OR_ID")
    if path is None and released:
        note("model.path", "a target that already memorised the documents must be named", "model.path=FOLDER_OR_ID")
    if path is None and stages == ["evaluate"]:
        note("model.path", "stages=[evaluate] scores an existing model", "model.path=FOLDER_OR_ID")
    if released and _get(data, "task.source") == "builtin":
        note(
            "task.source",
            "the released target never saw the built-in documents",
            "task.source=hub, or task.data_dir=FOLDER",
        )
    if released and _get(data, "evaluator.retrained") and not _get(data, "model.base"):
        note(
            "model.base",
            "evaluator.retrained fine-tunes the model from before the documents",
            "model.base=FOLDER_OR_ID",
        )
    return found


def part_problems(parts: Mapping[str, Any], stages: Any) -> list[Problem]:
    """What only the built groups (None: not built) can tell: the task's files, method parts in the wrong place."""
    task, method, evaluator, trainer, launch = (
        parts[name] for name in ("task", "method", "evaluator", "trainer", "launch")
    )
    forget, retain = (_part(method, name) for name in ("forget", "retain"))
    found = _kind_problems("task", task, ("name", "load", "check"))
    if task is not None and not found and stages != ["score"]:
        found += task.check()
    misplaced = [
        *_kind_problems("method", method, ("name", "needs", "__call__")),
        *_kind_problems("method.forget", forget, ("needs", "__call__")),
        *_kind_problems("method.retain", retain, ("needs", "__call__")),
    ]
    found += misplaced
    if misplaced:
        forget = retain = None
    if forget is not None and forget.needs.retain_rows:
        remedy = "forget parts: conf/method/forget"
        found.append(
            Problem(where="method.forget", what=f"{type(forget).__name__} is a retain regulariser", remedy=remedy)
        )
    if retain is not None and not retain.needs.retain_rows:
        remedy = "retain parts: conf/method/retain"
        found.append(
            Problem(where="method.retain", what=f"{type(retain).__name__} is a forget objective", remedy=remedy)
        )
    if evaluator is not None and evaluator.mmlu.data_dir and Path(evaluator.mmlu.data_dir).exists():
        from lume_run.tasks.mmlu import check_folder

        found += check_folder(Path(evaluator.mmlu.data_dir))
    if launch is not None and launch.device != "auto":
        found += _device_problems(launch.device)
    for name in ("train", "unlearn") if trainer is not None else ():
        optimizer = getattr(trainer, name).optimizer
        if optimizer.startswith("paged_") and importlib.util.find_spec("bitsandbytes") is None:
            where = f"trainer.{name}.optimizer"
            found.append(
                Problem(
                    where=where,
                    what=f"{optimizer} needs bitsandbytes",
                    remedy="pip install bitsandbytes, or adamw_torch_fused",
                )
            )
    return found


def _part(method: Any, name: str) -> Any:
    """A method's forget or retain part, where it is made of parts."""
    part = getattr(method, name, None)
    return part if dataclasses.is_dataclass(part) else None


def _kind_problems(where: str, part: Any, needed: tuple[str, ...]) -> list[Problem]:
    """Whether a built part (None: not built) can do what its place asks for."""
    if part is None:
        return []
    lacking = [name for name in needed if name not in dir(part)]  # hasattr would run properties
    if not lacking:
        return []
    what = f"{type(part).__name__} does not belong here: it has no {', '.join(lacking)}"
    return [Problem(where=where, what=what, remedy=f"name a class made for {where} in {where}.{TARGET}")]


def _device_problems(name: str) -> list[Problem]:
    from lume_run.runtime import device_of

    try:
        device_of(name)
    except (LumeError, RuntimeError) as error:
        return [Problem(where="launch.device", what=str(error).split("\n")[0], remedy="launch.device=auto or cpu")]
    return []
