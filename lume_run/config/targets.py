"""The class that a `_target_` names: of `lume_run` or an allowed module, and where a class is now that has moved."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from lume_run.config.overrides import conf_dir

TARGET = "_target_"
PACKAGE_NAME = "lume_run"


class TargetError(Exception):
    """A `_target_` that names no class to build: what is wrong, and a remedy."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


def import_target(name: str, prefixes: Iterable[str]) -> type[Any]:
    """The dataclass at a dotted path; raises TargetError. Modules outside `prefixes` are not imported."""
    module_name, _, attribute = name.rpartition(".")
    if not any(module_name == prefix or module_name.startswith(prefix + ".") for prefix in prefixes):
        raise TargetError(f"'{name}' is not from {PACKAGE_NAME}", "list its module in allow_external if you trust it")
    try:
        cls = vars(importlib.import_module(module_name)).get(attribute)
    except ImportError as error:
        raise TargetError(f"'{module_name}' cannot be imported: {error}", _moved_remedy(name)) from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TargetError(f"'{name}' is not a dataclass", _moved_remedy(name) or "name a dataclass of that module")
    return cls


def class_name(path: str) -> str:
    """What a `_target_` counts as in hashes: the class's own name for lume_run's, the whole path for others'."""
    return path.rpartition(".")[2] if path.startswith(PACKAGE_NAME + ".") else path


@cache
def configured_classes() -> dict[str, str]:
    """{class name: its path} of the classes of lume_run that the shipped YAML files name."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(conf_dir().rglob("*.yaml")))
    paths = {path for text in texts for path in re.findall(rf"{TARGET}: ({PACKAGE_NAME}\.[\w.]+)", text)}
    return {class_name(path): path for path in sorted(paths)}


def _moved_remedy(name: str) -> str:
    """Where the class of an earlier version's path is now; empty for classes of others, and unknown ones."""
    path = configured_classes().get(class_name(name)) if name.startswith(PACKAGE_NAME + ".") else None
    return f"{TARGET}: {path} is where the class is now" if path else ""
