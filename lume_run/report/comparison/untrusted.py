"""Values from files that nobody should trust: nothing is executed, texts are cut, numbers are finite.

YAML is read without tags and aliases, JSON and YAML only up to a size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from lume_run.common.text_files import file_fault

LARGEST_BYTES = 64 * 2**20  # of a file that is read whole
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there
RESPONSE_BYTES = 2**29  # of a file of responses whose prompts a page shows
LONGEST_TEXT = 2000  # characters
DEEPEST_YAML = 50  # levels of a YAML file
LARGEST_WHOLE = 2**63  # larger ones become text: not all of them are numbers for others


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from plain YAML; ValueError on aliases, which could make a small file huge, and on anything else."""
    depth = 0
    text = _read_text(path)
    for event in yaml.parse(text, Loader=YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases, which lume-run never writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise ValueError(f"it is nested more than {DEEPEST_YAML} deep")
    value = yaml.load(text, Loader=YAML_LOADER)
    if not isinstance(value, dict):
        raise ValueError("it holds no mapping")
    return value


def read_json(path: Path) -> Any:
    """The data of a JSON file, None where there is none; ValueError where it cannot be read."""
    if not os.path.lexists(path):
        return None
    try:
        return json.loads(_read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json_if_sound(path: Path) -> Any:
    """The data of a JSON file, None where it cannot be read."""
    try:
        return read_json(path)
    except ValueError:
        return None


def _read_text(path: Path) -> str:
    """The text of a regular file of a bounded size; ValueError for anything else."""
    if fault := file_fault(path, limit=LARGEST_BYTES):
        raise ValueError(f"it {fault}")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error


def as_mapping(value: Any) -> dict[str, Any]:
    """A mapping as it is, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A list as it is, an empty one for anything else."""
    return value if isinstance(value, list) else []


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its dotted path; lists of scalars are leaves, a number that is not finite becomes its name."""
    if isinstance(node, dict):
        parts: Iterable[tuple[Any, Any]] = [(clean_name(name), child) for name, child in node.items()]
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        parts = enumerate(node)
    else:
        leaf = [_leaf(item) for item in node] if isinstance(node, list) else _leaf(node)
        return {path: leaf} if path else {}
    leaves: dict[str, Any] = {}
    for name, child in parts:
        leaves |= flatten(child, f"{path}.{name}" if path else str(name))
    return leaves


def _leaf(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >= LARGEST_WHOLE:
        return f"a number of {value.bit_length()} bits"
    return value if value is None or isinstance(value, (bool, int, float)) else clean_text(value)


def clean_text(value: Any) -> str:
    """Text that can be written to a file, at most `LONGEST_TEXT` characters of it."""
    return str(value)[:LONGEST_TEXT].encode("utf-8", "replace").decode()


def clean_name(value: Any, most: int = 80) -> str:
    """A name in one line, of characters that print."""
    return "".join(mark if mark.isprintable() else "?" for mark in str(value)[:most])


def finite_number(value: Any) -> float | None:
    """A finite number as a float, None for anything else."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if good else None
