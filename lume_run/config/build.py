"""Walking a plain config tree against dataclasses: types, bounds, unknown and missing keys, `_target_` nodes.

The dataclasses of `settings.py`, and whatever `_target_` names, are the schema. `_target_` is the
registry: a task, a method or a loss is a class of `lume_run` (or of a module that `allow_external`
lists), named in a YAML file; there is nothing else to register.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from lume_run.common.errors import Problem
from lume_run.config.renamed import renamed_key_problem
from lume_run.config.settings import LoraSettings

TARGET = "_target_"
PACKAGE_NAME = "lume_run"


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the choices."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(names)}"


class Builder:
    """One pass over a config tree: builds what can be built and collects what cannot."""

    def __init__(self, allow_external: Iterable[str] = ()) -> None:
        self.problems: list[Problem] = []
        self.prefixes = (PACKAGE_NAME, *allow_external)

    def bad(self, where: str, what: str, remedy: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(where=where, what=what, remedy=remedy))

    def record(self, cls: type[Any], node: Any, path: str) -> Any:
        """An instance of dataclass `cls` from a mapping, or None after noting what is wrong."""
        before = len(self.problems)
        arguments = self.fields(cls, node, path)
        return self.instance(cls, arguments, path) if len(self.problems) == before else None

    def fields(self, cls: type[Any], node: Any, path: str) -> dict[str, Any]:
        """The values of the fields that a mapping has; a mistake in one leaves the others as they are."""
        if not isinstance(node, Mapping):
            self.bad(path, f"expected a group of settings, got {node!r}", f"keys: {', '.join(_fields(cls))}")
            return {}
        fields, hints = _fields(cls), typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for key in node:
            if key not in fields and key != TARGET:
                unknown = Problem(where=_join(path, key), what="unknown key", remedy=suggest_nearest(str(key), fields))
                self.problems.append(renamed_key_problem(unknown.where) or unknown)
        for name, field in fields.items():
            where = _join(path, name)
            if name in node:
                before = len(self.problems)
                values[name] = self.value(hints[name], node[name], where)
                if len(self.problems) == before:
                    self.bounds(field, values[name], where)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self.bad(where, "missing", f"set it: {field.metadata.get('help', 'required')}")
        return values

    def instance(self, cls: type[Any], values: Mapping[str, Any], path: str) -> Any:
        """A dataclass of these values, or None after noting why they are refused."""
        try:
            return cls(**values)
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
                self.bad(path, f"unknown value {value!r}", suggest_nearest(str(value), arguments))
            return value
        if origin in (list, tuple, Sequence):
            return self.sequence(list if origin is list else tuple, arguments, value, path)
        if origin is dict and isinstance(value, Mapping) and TARGET not in value:
            return {key: self.value(arguments[1], item, _join(path, key)) for key, item in value.items()}
        if isinstance(value, Mapping) and TARGET in value:
            return self.target(value, path)
        if hint is LoraSettings and isinstance(value, bool):
            return LoraSettings(enabled=value)
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
            attempt = Builder(self.prefixes)
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
                f"'{name}' is not from {PACKAGE_NAME}",
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
