"""The names that lm-evaluation-harness knows: of its own tasks read once for each version, as it has 14,000 files."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, distribution

from lume_run.common.files import content_hash, write_json
from lume_run.common.places import cache_folder


def known_names(include_path: str | None) -> list[str]:
    """Tasks, groups and tags of the harness, and of the task files in a folder."""
    names = set(_shipped_names())
    if include_path is not None:
        names.update(_read_names(include_path, include_defaults=False))
    return sorted(names)


def _shipped_names() -> list[str]:
    """Those of the harness alone, from the user's cache where it is of this version."""
    harness = distribution("lm_eval")
    file = cache_folder() / f"lm-eval-{content_hash([harness.version, str(harness.locate_file(''))])}.json"
    if _is_worked_on(harness):
        return _read_names(None)
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names
    except (OSError, ValueError, RecursionError):  # none yet, or damaged
        pass
    names = _read_names(None)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, names)
    except OSError:  # no home, or none that can be written: read anew next time
        pass
    return names


def _read_names(include_path: str | None, *, include_defaults: bool = True) -> list[str]:
    from lm_eval.tasks import TaskManager

    return list(TaskManager(include_path=include_path, include_defaults=include_defaults).all_tasks)


def _is_worked_on(harness: Distribution) -> bool:
    """Whether it is installed from a folder in which tasks may come and go under the same version."""
    return '"editable": true' in (harness.read_text("direct_url.json") or "")
