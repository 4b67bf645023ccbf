"""YAML files: those that others may have written are bounded in size, depth and what their aliases expand to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from lume_run.common.errors import DataError, Problem
from lume_run.common.text_files import read_utf8

YAML_BYTES, MOST_DEPTH, MOST_NODES = 2**20, 50, 100_000  # nodes: with those that aliases repeat
REMEDY = "a configuration file is a small mapping in UTF-8"


def read_shipped_file(path: Path) -> tuple[Any, str]:
    """(plain data, text) of a YAML file of ours, which nobody may change; read once a process unless it is edited."""
    return _read_version(path, path.stat().st_mtime_ns)


@cache
def _read_version(path: Path, _: int) -> tuple[Any, str]:
    text = path.read_text(encoding="utf-8")
    return yaml.load(text, Loader=_fast_loader()), text


@cache
def _fast_loader() -> Any:
    """OmegaConf's loader, over the parser of libyaml where that is there: of many files it is several times faster."""
    plain = get_yaml_loader()
    try:
        from yaml._yaml import CParser
    except ImportError:
        return plain

    class FastLoader(CParser, plain):  # type: ignore[misc, valid-type]
        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return FastLoader


def read_config_file(path: Path, remedy: str = REMEDY) -> tuple[Any, str]:
    """(plain data of a YAML file, as OmegaConf reads it; its text); raises DataError that names the file."""
    text = read_utf8(path, remedy=remedy, limit=YAML_BYTES)
    try:
        if not (what := _excess(text)):
            data = yaml.load(text, Loader=get_yaml_loader())  # a safe loader that knows 1e-5 as a number
            if not (what := next(_foreign_parts(data), "")):
                return data, text
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits
        what = " ".join(str(error).split())
    raise DataError([Problem(where=str(path), what=what, remedy=remedy)])


def _foreign_parts(node: Any, path: str = "") -> Iterator[str]:
    """Keys that are no text, and values that no setting has: sets, bytes, dates."""
    if isinstance(node, dict):
        for key, child in node.items():
            if not isinstance(key, str):
                yield f"the key {key!r}{f' of {path}' if path else ''} is no text: put it in quotes"
            yield from _foreign_parts(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from _foreign_parts(child, f"{path}[{number}]")
    elif not isinstance(node, str | int | float | None):
        yield f"{path} is of the type {type(node).__name__}: put its text in quotes"


def _excess(text: str) -> str:
    """What a YAML text has too much of; empty where nothing. Its events alone are looked at, nothing is expanded."""
    sizes: dict[str, int] = {}  # of anchored nodes
    open_nodes: list[tuple[str | None, int]] = []  # anchor and size so far
    size = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, size))
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = size
            size += before
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                sizes[event.anchor] = 1
            size += 1
        elif isinstance(event, yaml.AliasEvent):
            size += sizes.get(str(event.anchor), MOST_NODES)  # unknown: an alias to what it stands in
        if len(open_nodes) > MOST_DEPTH:
            return f"is nested more than {MOST_DEPTH} deep"
        if size > MOST_NODES:
            return f"has more than {MOST_NODES:,} values, with those that its aliases repeat"
    return ""
