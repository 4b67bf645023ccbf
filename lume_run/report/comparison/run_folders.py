"""Run folders as data, wherever they were made; nothing in them is executed or unpickled.

A run folder holds config.yaml and, once finished, report.json. One whose job ended in an error holds error.json beside
it (`{"error": text, "when": ISO time, "command": [words]}`); one with neither is unfinished. Everything in such folders
is read by `untrusted.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from lume_run.common.files import ERROR_FILE
from lume_run.common.text import first_line
from lume_run.common.text_files import file_fault
from lume_run.report.comparison.untrusted import (
    RESPONSE_BYTES,
    as_list,
    as_mapping,
    clean_name,
    clean_text,
    finite_number,
    flatten,
    read_json,
    read_yaml,
)
from lume_run.report.results import SUBJECTS

RunState = Literal["done", "diverged", "failed", "unfinished"]
RUN_STATES: tuple[RunState, ...] = ("done", "diverged", "failed", "unfinished")  # of copies the first is kept
JSON_FILES = ("manifest.json", "report.json", ERROR_FILE)
DEEPEST = 5  # folders below a given one that are looked into
LONGEST_SCORE_NAME = 200  # characters of a score's name


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. `config` is flat, by dotted path; `scores` by subject and name hold finite numbers only.

    `key` is the config hash as in the folder's name, the same on every machine; `when` [seconds since 1970] is when it
    began or failed.
    """

    folder: Path
    key: str
    state: RunState
    task: str
    model: str
    method: str
    seed: int | None
    config: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    error: str = ""
    when: float = 0.0
    command: tuple[str, ...] = ()
    git: str = ""
    hardware: str = ""
    source: str = ""
    gate: bool | None = None
    gate_rule: str = ""
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name, in characters that can be written."""
        return printable_path(Path(self.folder.name))

    @property
    def place(self) -> str:
        """The folder, in characters that can be written."""
        return printable_path(self.folder)

    @property
    def subject(self) -> str:
        """The model the run is about."""
        return "unlearned" if "unlearned" in self.scores else "model"


def printable_path(path: Path) -> str:
    """A path as text; names that are not UTF-8 with a mark in place of what is not."""
    return os.fsencode(path).decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All runs in some folders, one of each config, and `notes` on what was left out."""

    runs: tuple[RunRecord, ...]
    notes: tuple[str, ...] = ()


def collect_runs(folders: Sequence[Path]) -> Collection:
    """Every run in or below the folders. Of copies of one config a finished one is kept, of those the newest."""
    records = [record for folder in find_run_folders(folders) if (record := read_run(folder)) is not None]
    records.sort(key=lambda run: (RUN_STATES.index(run.state), -run.when, str(run.folder)))
    kept: dict[str, RunRecord] = {}
    notes = []
    for run in records:
        if run.key in kept:
            notes.append(f"{run.place} is the same run as {kept[run.key].place}, which is newer or got further")
        else:
            kept[run.key] = run
    notes += [note for run in kept.values() for note in _unread_responses(run)]
    runs = sorted(kept.values(), key=lambda run: (run.task, run.model, run.method, run.seed or 0, str(run.folder)))
    return Collection(runs=tuple(runs), notes=tuple(notes))


def _unread_responses(run: RunRecord) -> Iterator[str]:
    """Why prompts and answers of a run do not stand in the page."""
    for path in sorted(run.folder.glob("responses.*.jsonl")):
        if fault := file_fault(path, limit=RESPONSE_BYTES):
            yield f"{printable_path(path)} {fault}: its prompts are left out of the page"


def find_run_folders(folders: Iterable[Path]) -> Iterator[Path]:
    """Folders that hold a config.yaml, each once, also through links; the store and hidden folders are left out."""
    visited: set[Path] = set()

    def below(folder: Path, depth: int) -> Iterator[Path]:
        real = folder.resolve()
        if real in visited:
            return
        visited.add(real)
        if os.path.lexists(folder / "config.yaml"):
            yield folder
        elif depth < DEEPEST and os.access(folder, os.R_OK | os.X_OK):
            for child in sorted(folder.iterdir()):
                if child.is_dir() and child.name != "store" and not child.name.startswith("."):
                    yield from below(child, depth + 1)

    for folder in folders:
        yield from below(folder, 0)


def read_run(folder: Path) -> RunRecord | None:
    """The run in a folder; None where its config.yaml is of something else."""
    (config, manifest, report, failure), faults = _read_files(folder)
    if "config.yaml" not in faults and not {"task", "model", "method", "stages"} <= config.keys():
        return None
    unreadable = clean_text("; ".join(faults.values()))
    outcomes = as_mapping(report.get("training")) or as_mapping(manifest.get("training"))
    training = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, dict)}
    values = flatten(config)
    reason = unreadable or (clean_text(failure.get("error") or "failed without a message") if failure else "")
    state = "failed" if unreadable else run_state(report, reason, training)
    gate = as_mapping(report.get("mmlu_gate"))
    seconds = {name: finite_number(value) for name, value in as_mapping(report.get("seconds")).items()}
    return RunRecord(
        folder=folder,
        key=clean_name(manifest.get("config_hash") or report.get("config_hash") or "")[:8] or hash_in(folder.name),
        state=state,
        task=clean_name(values.get("task.name", "?")),
        model=clean_name(values.get("model.name", "?")),
        method=_method_name(config, values),
        seed=values["seed"] if isinstance(values.get("seed"), int) else None,
        config=values,
        scores=_scores_by_subject(as_mapping(report.get("scores"))) if state in ("done", "diverged") else {},
        error=reason or _divergence(training) if state in ("failed", "diverged") else "",
        when=_start_time(folder, failure if state == "failed" else {}, manifest),
        command=tuple(map(clean_text, as_list(manifest.get("command") or failure.get("command")))),
        git=clean_text(manifest.get("git") or ""),
        hardware=clean_text(_hardware_text(as_mapping(manifest.get("hardware")))),
        source=clean_text(report.get("source") or ""),
        gate=gate["passed"] if isinstance(gate.get("passed"), bool) else None,
        gate_rule=clean_text(gate.get("rule") or ""),
        warnings=tuple(map(clean_text, as_list(report.get("warnings")))),
        seconds={name: spent for name, spent in seconds.items() if spent},
        training=training,
    )


def _read_files(folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What config.yaml and `JSON_FILES` of a run hold, and by name why one of them cannot be read."""
    contents: list[dict[str, Any]] = []
    faults: dict[str, str] = {}
    for name, read in (("config.yaml", read_yaml), *((name, read_json) for name in JSON_FILES)):
        try:
            contents.append(as_mapping(read(folder / name)))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            contents.append({})
            faults[name] = f"{name} cannot be read: {first_line(str(error))}"
    return contents, faults


def run_state(report: Mapping[str, Any], error: str, training: Mapping[str, Mapping[str, Any]]) -> RunState:
    """A report ends a run, whatever an earlier attempt said; one of a diverged optimisation says so."""
    if report:
        return "diverged" if any(outcome.get("diverged") for outcome in training.values()) else "done"
    return "failed" if error else "unfinished"


def _divergence(training: Mapping[str, Mapping[str, Any]]) -> str:
    reasons = {name: outcome.get("diverged") for name, outcome in training.items()}
    return clean_text("; ".join(f"{name} diverged: {reason}" for name, reason in reasons.items() if reason))


def _method_name(config: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The method's name; of a run that only trained, evaluated or scored the stage's."""
    stages = as_list(config.get("stages"))
    return clean_name(stages[0] if len(stages) == 1 else values.get("method.name", "?"))


def _scores_by_subject(flat: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """`<subject>.<name>` keys by subject; what could not be computed is left out."""
    scores: dict[str, dict[str, float]] = {}
    for key, value in flat.items():
        subject, _, name = clean_name(key, LONGEST_SCORE_NAME).partition(".")
        number = finite_number(value)
        if subject in SUBJECTS and name and number is not None:
            scores.setdefault(subject, {})[name] = number
    return scores


def _start_time(folder: Path, failure: Mapping[str, Any], manifest: Mapping[str, Any]) -> float:
    for time in (failure.get("when"), manifest.get("started")):
        try:
            return datetime.fromisoformat(str(time)).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return folder.stat().st_mtime


def _hardware_text(hardware: Mapping[str, Any]) -> str:
    gpus = [str(name) for name in as_list(hardware.get("gpus"))]
    counts = ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
    return counts or str(hardware.get("machine") or "")


def hash_in(name: str) -> str:
    """The hash at the end of a run folder's name, the name itself where there is none."""
    match = re.search(r"-([0-9a-f]{8})$", name)
    return match[1] if match else name
