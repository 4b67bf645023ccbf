"""Permissions to run code that is not lume-run's: they count only where the command that is typed now gives them.

A run folder or a recipe that was handed over may hold any of them; nobody who starts it has thereby agreed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lume_run.common.errors import Problem
from lume_run.config.resolve import value_at

PERMISSIONS = ("allow_external", "model.trust_remote_code", "evaluator.suites.lm_eval.include_path")


def missing_permissions(config: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[Problem]:
    """Permissions that a config holds and the overrides on the command line do not give."""
    typed = {name.lstrip("+"): value for name, _, value in (override.partition("=") for override in overrides)}
    for path in PERMISSIONS:
        held = value_at(config, path)
        if not held:
            continue
        words = _as_typed(held)
        if path not in typed or _read(typed[path]) != _read(words):
            what = f"{words} lets code run that is not lume-run's, and only a command that is typed can allow it"
            yield Problem(where=path, what=what, remedy=f"if you trust that code, add '{path}={words}' to the command")


def _as_typed(value: Any) -> str:
    """A value as one types it behind `=`."""
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"[{','.join(map(str, value))}]" if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    )


def _read(text: str) -> Any:
    """A typed value, quoted or not, and with spaces or without."""
    try:
        return yaml.safe_load(text.strip("'\"").replace(",", ", "))
    except yaml.YAMLError:
        return text
