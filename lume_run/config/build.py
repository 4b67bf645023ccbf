"""A plain config tree, built into dataclasses: types, bounds, unknown and missing keys, `_target_` nodes.

The dataclasses of `settings.py`, and whatever `_target_` names, are the schema. `_target_` is the
registry: a task, a method or a loss is a class of `lume_run` (or of a module that `allow_external`
lists), named in a YAML file; there is nothing else to register.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

from lume_run.common.errors import Problem
from lume_run.common.text import shorten_value
from lume_run.config.fields import MOST
from lume_run.config.model_settings import ChatSettings, LoraSettings
from lume_run.config.suggest import key_paths, renamed_key_problem, suggest_key, suggest_nearest
from lume_run.config.targets import PACKAGE_NAME, TARGET, TargetError, import_target

LARGE = 10**300  # whole numbers beyond are no floats
RECIPES = "experiment"  # the group whose files set keys of all groups
SCALARS = {  # kind of value -> what is expected, how it is written
    bool: ("true or false", "write true or false"),
    int: ("a whole number", "write its digits, such as 3"),
    float: ("a number", "write it as 0.001 or 1e-3"),
    str: ("text", "write text; what looks like something else needs quotes inside quotes: 'KEY=\"1\"'"),
}


@cache
def _type_hints(cls: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields; annotations are text, and compiled for each look."""
    return typing.get_type_hints(cls)


class Builder:
    """One pass over a config tree: builds what can be built and collects what cannot."""

    def __init__(self, allow_external: Iterable[str] = ()) -> None:
        self.problems: list[Problem] = []
        self.prefixes = (PACKAGE_NAME, *allow_external)

    def note_problem(self, where: str, what: str, remedy: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(where=where, what=what, remedy=remedy))

    def build_record(self, cls: type[Any], node: Any, path: str) -> Any:
        """An instance of dataclass `cls` from a mapping, or None after noting what is wrong."""
        before = len(self.problems)
        arguments = self.build_fields(cls, node, path)
        return self.build_instance(cls, arguments, path) if len(self.problems) == before else None

    def build_fields(self, cls: type[Any], node: Any, path: str) -> dict[str, Any]:
        """The values of the fields that a mapping has; a mistake in one leaves the others as they are."""
        if not isinstance(node, Mapping):
            self.note_problem(
                path, f"expected a group of settings, got {node!r}", f"keys: {', '.join(_settable_fields(cls))}"
            )
            return {}
        fields, hints = _settable_fields(cls), _type_hints(cls)  # type: ignore[arg-type]  # a class is hashable
        values: dict[str, Any] = {}
        for key in node:
            if key not in fields and key != TARGET:
                self.note_unknown_key(str(key), node, path, fields)
        for name, field in fields.items():
            where = _join_path(path, name)
            if name in node:
                before = len(self.problems)
                blank = field.metadata.get("blank") and isinstance(node[name], str)
                values[name] = node[name] if blank else self.build_value(hints[name], node[name], where)
                if len(self.problems) == before:
                    self.check_bounds(field, values[name], where)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self.note_problem(where, "missing", f"set it: {field.metadata.get('help', 'required')}")
        return values

    def note_unknown_key(self, key: str, node: Mapping[str, Any], path: str, fields: Iterable[str]) -> None:
        """Note a key that the group at `path` does not have, with what it is now, or the nearest key there or below."""
        where = _join_path(path, key)
        below = [below for below in key_paths(node, path) if below.count(".") > where.count(".")]
        here = [_join_path(path, name) for name in fields]
        remedy = suggest_key(where, [*here, *(name for name in below if not name.startswith(f"{where}."))])
        if where == RECIPES:  # a file of that group without a package of its own
            remedy = "begin the recipe with the line '# @package _global_'"
        unknown = Problem(where=where, what="unknown key", remedy=remedy or suggest_nearest(key, fields))
        self.problems.append(renamed_key_problem(where) or unknown)

    def build_instance(self, cls: type[Any], values: Mapping[str, Any], path: str) -> Any:
        """A dataclass of these values, or None after noting why they are refused."""
        try:
            return cls(**values)
        except ValueError as error:
            what, _, remedy = str(error).partition("; ")
            self.note_problem(
                path, what, remedy or f"lume-run --cfg job shows the settings of {path}; leave out what was changed"
            )
            return None

    def check_bounds(self, field: dataclasses.Field[Any], value: Any, where: str) -> None:
        """Note a number outside its field's range."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return
        low, high = field.metadata.get("low"), field.metadata.get("high")
        too_low = low is not None and (value < low or (field.metadata.get("open_low") and value == low))
        if high is None and MOST < value < math.inf:
            high = MOST
        if low is None and -math.inf < value < -MOST:
            low = -MOST
        if too_low or (high is not None and value > high) or not math.isfinite(value):
            least = (
                f"{'greater than' if field.metadata.get('open_low') else 'at least'} {low}" if low is not None else ""
            )
            most = f"at most {high}" if high is not None else ""
            allowed = " and ".join(part for part in (least, most) if part) or "a finite number"
            self.note_problem(
                where, f"{value} is out of range", ": ".join(filter(None, (allowed, field.metadata.get("help"))))
            )

    def build_value(self, hint: Any, value: Any, path: str) -> Any:
        """`value` as `hint` asks, or a noted problem."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self.build_union(arguments, value, path)
        if origin is Literal:
            if value not in arguments:
                self.note_problem(path, f"unknown value {value!r}", suggest_nearest(str(value), arguments))
            return value
        if origin in (list, tuple, Sequence):
            return self.build_sequence(list if origin is list else tuple, arguments, value, path)
        if origin is dict and not isinstance(value, Mapping):
            self.note_problem(path, f"expected a group of settings, got {value!r}", f"write it as {path}={{...}}")
            return {}
        if origin is dict and TARGET not in value:
            return {key: self.build_value(arguments[1], item, _join_path(path, key)) for key, item in value.items()}
        if isinstance(value, Mapping) and TARGET in value:
            return self.build_target(value, path)
        if hint is LoraSettings and isinstance(value, bool):
            return LoraSettings(enabled=value)
        if hint is ChatSettings and isinstance(value, str):
            value = {"use": value}
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.build_record(hint, value, path)
        if hint is Any or getattr(hint, "_is_protocol", False):
            self.note_problem(
                path, f"expected a group with {TARGET}, got {value!r}", "choose one of the group's YAML files"
            )
            return None
        return self.check_scalar(hint, value, path)

    def build_union(self, hints: tuple[Any, ...], value: Any, path: str) -> Any:
        """The first alternative that fits; problems of the last one otherwise."""
        if type(None) in hints and (value is None or value == {}):  # an empty YAML file chooses nothing
            return None
        options = [hint for hint in hints if hint is not type(None)]
        for hint in options[:-1]:
            attempt = Builder(self.prefixes)
            built = attempt.build_value(hint, value, path)
            if not attempt.problems:
                return built
        return self.build_value(options[-1], value, path)

    def build_sequence(self, kind: type[Any], arguments: tuple[Any, ...], value: Any, path: str) -> Any:
        """A list (or tuple) with each member checked."""
        if not isinstance(value, (list, tuple)):
            self.note_problem(path, f"expected a list, got {value!r}", f"write it as {path}=[...]")
            return None
        inner = arguments[0] if arguments else Any
        return kind(self.build_value(inner, item, f"{path}[{number}]") for number, item in enumerate(value))

    def check_scalar(self, hint: Any, value: Any, path: str) -> Any:
        """A bool, int, float or str of exactly that kind (an int will do for a float)."""
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value) if abs(value) < LARGE else value
        if hint is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if hint in (bool, int, float, str) and (
            not isinstance(value, hint) or (hint is int and isinstance(value, bool))
        ):
            expected, remedy = SCALARS[hint]
            self.note_problem(path, f"expected {expected}, got {shorten_value(repr(value))}", remedy)
        elif hint is str and not value.strip():
            self.note_problem(path, "expected text, got none", f"write it as {path}=TEXT, or leave it out")
        return value

    def build_target(self, node: Mapping[str, Any], path: str) -> Any:
        """Build what `_target_` names, from `lume_run` or an allowed module only."""
        try:
            cls = import_target(str(node[TARGET]), self.prefixes)
        except TargetError as error:
            self.note_problem(_join_path(path, TARGET), error.what, error.remedy)
            return None
        return self.build_record(cls, node, path)


def _settable_fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _join_path(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
