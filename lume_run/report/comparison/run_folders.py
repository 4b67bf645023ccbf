"""Run folders as data, wherever they were made; nothing in them is executed or unpickled.

A run folder holds config.yaml and, once finished, report.json. One whose job ended in an error holds error.json beside
it (`{"error": text, "when": ISO time, "command": [words]}`); one with neither is unfinished. Text from such folders is
not to be trusted: YAML is read without tags and aliases, numbers are kept only where they are finite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from lume_run.common.text import first_line
from lume_run.report.results import SUBJECTS

RunState = Literal["done", "diverged", "failed", "unfinished"]
RUN_STATES: tuple[RunState, ...] = (
    "done",
    "diverged",
    "failed",
    "unfinished",
)  # of copies of one run the first is kept
ERROR_FILE = "error.json"
DEEPEST = 5  # folders below a given one that are looked into
LARGEST_BYTES = 64 * 2**20  # of a file that is read whole
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there
LONGEST_TEXT, LONGEST_NAME = 2000, 200  # characters of a text, of a score's name
CURVE_NAMES = ("loss", "forget_nll", "retain_nll", "forget_loss", "retain_loss")


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
        """The folder's name."""
        return self.folder.name

    @property
    def subject(self) -> str:
        """The model the run is about."""
        return "unlearned" if "unlearned" in self.scores else "model"


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All runs that were found, one of each config, and `notes` on what was left out."""

    runs: tuple[RunRecord, ...]
    notes: tuple[str, ...] = ()


def collect_runs(folders: Sequence[Path]) -> Collection:
    """Every run in or below the folders. Of copies of one config a finished one is kept, of those the newest."""
    found = [record for folder in find_run_folders(folders) if (record := read_run(folder)) is not None]
    kept: dict[str, RunRecord] = {}
    dropped: list[RunRecord] = []
    for record in sorted(found, key=lambda one: (RUN_STATES.index(one.state), -one.when, str(one.folder))):
        if record.key in kept:
            dropped.append(record)
        else:
            kept[record.key] = record
    notes = [
        f"{one.folder} is the same run as {kept[one.key].folder}, which is newer or got further" for one in dropped
    ]
    runs = sorted(kept.values(), key=lambda one: (one.task, one.model, one.method, one.seed or 0, str(one.folder)))
    return Collection(runs=tuple(runs), notes=tuple(notes))


def find_run_folders(folders: Iterable[Path]) -> Iterator[Path]:
    """Folders that hold a config.yaml, each once, also through links; the store and hidden folders are left out."""
    seen: set[Path] = set()

    def below(folder: Path, depth: int) -> Iterator[Path]:
        real = folder.resolve()
        if real in seen:
            return
        seen.add(real)
        if (folder / "config.yaml").is_file():
            yield folder
        elif depth < DEEPEST:
            for child in sorted(folder.iterdir()):
                if child.is_dir() and child.name != "store" and not child.name.startswith("."):
                    yield from below(child, depth + 1)

    for folder in folders:
        yield from below(folder, 0)


def read_run(folder: Path) -> RunRecord | None:
    """The run in a folder; None where its config.yaml is of something else."""
    trouble = ""
    try:
        config = read_yaml(folder / "config.yaml")
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        config, trouble = {}, f"config.yaml cannot be read: {first_line(str(error))}"
    if not trouble and not {"task", "model", "method", "stages"} <= config.keys():
        return None
    manifest, report, failure = (_read_mapping(folder / name) for name in ("manifest.json", "report.json", ERROR_FILE))
    training = _as_mapping(report.get("training")) or _as_mapping(manifest.get("training"))
    values = flatten(config)
    told = trouble or (clean_text(failure.get("error") or "failed without a message") if failure else "")
    state = run_state(report, told, training)
    gate = _as_mapping(report.get("mmlu_gate"))
    return RunRecord(
        folder=folder,
        key=clean_name(manifest.get("config_hash") or report.get("config_hash") or "")[:8] or hash_in(folder.name),
        state=state,
        task=clean_name(values.get("task.name", "?")),
        model=clean_name(values.get("model.name", "?")),
        method=_method_name(config, values),
        seed=values["seed"] if isinstance(values.get("seed"), int) else None,
        config=values,
        scores=_scores_by_subject(_as_mapping(report.get("scores"))) if state in ("done", "diverged") else {},
        error=_ending_reason(told, training) if state in ("failed", "diverged") else "",
        when=_start_time(folder, failure if state == "failed" else {}, manifest),
        command=tuple(map(clean_text, _as_list(manifest.get("command") or failure.get("command")))),
        git=clean_text(manifest.get("git") or ""),
        hardware=clean_text(_hardware_text(_as_mapping(manifest.get("hardware")))),
        source=clean_text(report.get("source") or ""),
        gate=gate["passed"] if isinstance(gate.get("passed"), bool) else None,
        gate_rule=clean_text(gate.get("rule") or ""),
        warnings=tuple(map(clean_text, _as_list(report.get("warnings")))),
        seconds={
            name: spent for name, value in _as_mapping(report.get("seconds")).items() if (spent := finite_number(value))
        },
        training={name: own for name, own in training.items() if isinstance(own, dict)},
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from plain YAML; ValueError on aliases, which could make a small file huge, and on anything else."""
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError("it is too large")
    text = path.read_text(encoding="utf-8")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=YAML_LOADER)):
        raise ValueError("it has aliases, which lume-run never writes")
    value = yaml.load(text, Loader=YAML_LOADER)
    if not isinstance(value, dict):
        raise ValueError("it holds no mapping")
    return value


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its dotted path; lists of scalars are leaves, a number that is not finite becomes its name."""
    if isinstance(node, dict):
        parts: Iterable[tuple[Any, Any]] = [(clean_name(name), own) for name, own in node.items()]
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        parts = enumerate(node)
    else:
        leaf = [_leaf(item) for item in node] if isinstance(node, list) else _leaf(node)
        return {path: leaf} if path else {}
    return {
        key: leaf for name, own in parts for key, leaf in flatten(own, f"{path}.{name}" if path else str(name)).items()
    }


def _leaf(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float)) else clean_text(value)


def run_state(report: Mapping[str, Any], error: str, training: Mapping[str, Any]) -> RunState:
    """A report ends a run, whatever an earlier attempt said; one of a diverged optimisation says so."""
    if report and not error.startswith("config.yaml"):
        diverged = any(isinstance(own, dict) and own.get("diverged") for own in training.values())
        return "diverged" if diverged else "done"
    return "failed" if error else "unfinished"


def _ending_reason(error: str, training: Mapping[str, Any]) -> str:
    ended = {name: own.get("diverged") for name, own in training.items() if isinstance(own, dict)}
    return error or clean_text("; ".join(f"{name} diverged: {why}" for name, why in ended.items() if why))


def _method_name(config: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The method's name; of a run that only trained, evaluated or scored the stage's."""
    stages = _as_list(config.get("stages"))
    return clean_name(stages[0] if len(stages) == 1 else values.get("method.name", "?"))


def _scores_by_subject(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """`<subject>.<name>` keys by subject; what could not be computed is left out."""
    scores: dict[str, dict[str, float]] = {}
    for key, value in found.items():
        subject, _, name = clean_name(key, LONGEST_NAME).partition(".")
        number = finite_number(value)
        if subject in SUBJECTS and name and number is not None:
            scores.setdefault(subject, {})[name] = number
    return scores


def _start_time(folder: Path, failure: Mapping[str, Any], manifest: Mapping[str, Any]) -> float:
    for told in (failure.get("when"), manifest.get("started")):
        try:
            return datetime.fromisoformat(str(told)).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return folder.stat().st_mtime


def _hardware_text(found: Mapping[str, Any]) -> str:
    gpus = [str(name) for name in _as_list(found.get("gpus"))]
    return ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or str(found.get("machine") or "")


def training_curves(record: RunRecord, most: int) -> dict[str, list[list[float]]]:
    """Training curves of unlearning as [step, value] by name, at most `most` points each: means of neighbours."""
    steps = [
        step for step in _as_list(_read_json(record.folder / "unlearned" / "history.json")) if isinstance(step, dict)
    ]
    found: dict[str, list[list[float]]] = {}
    for name in CURVE_NAMES:
        points = [
            [at, value]
            for number, step in enumerate(steps, 1)
            if (value := finite_number(step.get(name))) is not None
            and (at := finite_number(step.get("step", number))) is not None
        ]
        width = max(1, math.ceil(len(points) / most))
        parts = [points[start : start + width] for start in range(0, len(points), width)]
        if points:
            found[name] = [[sum(one[axis] for one in part) / len(part) for axis in (0, 1)] for part in parts]
    return found


def hash_in(name: str) -> str:
    """The hash at the end of a run folder's name, the name itself where there is none."""
    match = re.search(r"-([0-9a-f]{8})$", name)
    return match[1] if match else name


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


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _read_mapping(path: Path) -> dict[str, Any]:
    return _as_mapping(_read_json(path))


def _as_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
