"""Where the configs of runs differ, and how such a difference is named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lume_run.report.comparison.run_folders import RunRecord

MOST_SETTINGS = 4  # in a group's name
IRRELEVANT_PATHS = ("launch", "output_dir", "dry_run", "responses", "hydra", "seed", "allow_external")
TASK_PATHS = ("task.", "model.name", "model.path", "model.base", "model.is_target", "model.shape.")


def comparable_text(value: Any) -> str:
    """A config value as text that compares: 1 and 1.0 are one value, true is another."""
    return json.dumps(float(value) if type(value) is int else value, sort_keys=True)


def affects_results(path: str) -> bool:
    """Whether a config path may change what is computed, seeds aside."""
    return path.split(".")[0] not in IRRELEVANT_PATHS and not path.endswith("_target_")


def comparison_key(run: RunRecord, *, within: Sequence[str] = ()) -> str:
    """The same text for runs that agree, in the paths that begin with `within` where given."""
    settings = {path: comparable_text(value) for path, value in run.config.items() if affects_results(path)}
    chosen = {path: value for path, value in settings.items() if not within or path.startswith(tuple(within))}
    return json.dumps([run.task, run.model, "" if within else run.method, chosen], sort_keys=True)


def differing_paths(runs: Sequence[RunRecord]) -> list[str]:
    """Paths in which the runs do not agree, a path that only some have among them."""
    paths = dict.fromkeys(path for run in runs for path in run.config if affects_results(path))

    def values(path: str) -> set[str]:
        return {comparable_text(run.config[path]) if path in run.config else "" for run in runs}

    return [path for path in paths if len(values(path)) > 1]


def short_path(path: str, among: Sequence[str]) -> str:
    """The end of a dotted path that no other of `among` ends in: `learning_rate`, else `train.learning_rate`."""
    parts = path.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if not any(other != path and f".{other}".endswith(f".{end}") for other in among):
            return end
    return path


def format_setting(value: Any) -> str:
    """A config value as one would type it."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(format_setting, value))}]" if isinstance(value, list) else str(value)


def settings_label(settings: Mapping[str, Any]) -> str:
    """`learning_rate=0.001 beta=0.1`; of many settings the first few, those of the evaluator last."""
    paths = sorted(settings, key=lambda path: path.startswith("evaluator."))
    parts = [f"{short_path(path, paths)}={format_setting(settings[path])}" for path in paths[:MOST_SETTINGS]]
    return " ".join([*parts, *([f"(+{len(paths) - MOST_SETTINGS} settings)"] if len(paths) > MOST_SETTINGS else [])])
