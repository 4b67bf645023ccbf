"""Shows a run to W&B or TensorBoard: what it is, its curves while it trains, and in the end what came out.

The driver only writes down what there is to tell; `courier.py`, a process beside it, does the telling. Nothing of that
can fail a run or hold it up: at the end it is waited for a bounded time. A run that was handed over once, and has
nothing new, starts no such process at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.files import content_hash, write_json
from lume_run.common.records import Ask, Kind, Response
from lume_run.common.store import Artifact
from lume_run.config.settings import LoggerSettings, Settings
from lume_run.launch.preemption import Preempted
from lume_run.report.results import SUBJECTS, Report, group_of, wanted
from lume_run.tracking.secrets import without_secrets
from lume_run.tracking.sender import CLOSING, SENT, START, object_of

SWEEP = "LUME_RUN_SWEEP"  # environment variable: the name of the sweep that a job belongs to
SWEPT = "LUME_RUN_SWEPT"  # and the config paths in which its jobs differ, joined by commas
TRAINED = ("train", "unlearn")  # stages with curves
TITLES = {"wandb": "W&B", "tensorboard": "TensorBoard"}
HURRIED_SECONDS = 15.0  # longest wait of a run that was told to stop
LONGEST_NAME, LONGEST_TAG = 128, 64  # characters, W&B's own limits
TEXTS = ("report.md", "report.json", "config.yaml", "manifest.json")
NAMED_BY = ("method", "task", "model", "seed")
OLD_MODES = {"dryrun": "offline", "run": "online"}  # values of WANDB_MODE that W&B still takes
VARIABLES = {  # those of W&B that win over settings, as WANDB_MODE does
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
}


def mode_of(logger: LoggerSettings) -> str:
    """auto, online, offline or disabled: as the environment says, else as configured."""
    named = os.environ.get("WANDB_MODE") or logger.mode
    return OLD_MODES.get(named, named)


def shows(logger: LoggerSettings) -> bool:
    """Whether runs are shown to anybody."""
    return logger.name != "none" and not (logger.name == "wandb" and mode_of(logger) == "disabled")


def handed_over(logger: LoggerSettings, folder: Path) -> bool:
    """Whether nothing of a finished run is left to show."""
    return not shows(logger) or "report" in _read(folder / logger.name / SENT)


@contextmanager
def tracking(
    settings: Settings,
    folder: Path,
    identity: Mapping[str, Any],
    record: Mapping[str, Any],
) -> Iterator[Tracker]:
    """A tracker for the life of a run. What ends the run early is told too."""
    start = beginning(settings, folder, identity, record) if shows(settings.logger) else None
    tracker = Tracker(settings, folder, start)
    try:
        yield tracker
    except BaseException as error:
        told = next(iter(str(error).split("\n")), "") or type(error).__name__
        hurried = isinstance(error, Preempted | KeyboardInterrupt)
        tracker.close({"error": told, "preempted": isinstance(error, Preempted)}, hurried=hurried)
        raise


class Tracker:
    """The driver's end of one run's courier; `start` of None: a run that is shown to nobody."""

    def __init__(self, settings: Settings, folder: Path, start: Mapping[str, Any] | None) -> None:
        self.settings, self.folder, self.start = settings, folder, start
        self.home = folder / settings.logger.name
        self.title = TITLES.get(settings.logger.name, "")
        self.series: list[dict[str, Any]] = []
        self.process: subprocess.Popen[str] | None = None
        self.heard: dict[str, Any] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self.sent = _read(self.home / SENT)
        if start is not None and self.sent.get("id") != start["init"]["id"]:
            self.sent = {}
            self._begin()  # at once: connecting takes a while

    def follow(self, artifact: Artifact) -> None:
        """Send the curves of an artifact that is made or was made, from now until the next one."""
        if self.start is None or artifact.stage not in TRAINED:
            return
        partial, name = artifact.path.with_name(artifact.path.name + ".partial"), f"{artifact.stage}/{artifact.name}"
        made = artifact.is_done
        self.series.append({"series": name, "partial": str(partial), "path": str(artifact.path), "made": made})
        if self.process is not None:
            self._say(self.series[-1])
        elif not made:
            self._begin()

    def finish(self, report: Report, responses: Mapping[str, Sequence[Response]]) -> None:
        """Send what came out, unless it was sent before, and say where it is."""
        if self.start is None:
            return
        try:
            closing = without_secrets(ending(report, responses, self.settings.logger.generations))
        except Exception as error:  # the run is done, and its report written
            self._warn(f"{self.title} gets no scores: {type(error).__name__}: {error}")
            closing = {}
        closing |= {"report": content_hash(closing), "files": [str(path) for path in files_of(self.folder)]}
        if self.process is None and self.sent.get("report") == closing["report"]:
            self._show(self.sent)
            return
        if self.process is None:
            self._begin()
        self.close(closing)

    def close(self, closing: Mapping[str, Any], *, hurried: bool = False) -> None:
        """Let the courier finish, for a while; what it could not send lies in its folder."""
        if self.process is None or self.process.stdin is None:
            return
        process, pipe, self.process = self.process, self.process.stdin, None
        patience = self.settings.logger.patience
        seconds = min(HURRIED_SECONDS, patience) if hurried else patience
        with suppress(OSError):  # it is gone
            write_json(self.home / CLOSING, without_secrets(closing))
            pipe.close()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            rest = self.heard.get("sync") or str(self.home)
            self._warn(f"{self.title} did not take everything in {seconds:.0f} s; the rest: {rest}")
            return
        self._listener.join(1.0)
        if code:
            self._warn(f"{self.title} stopped (exit code {code}); see {self.home / 'messages.log'}")
        elif self.heard and not self.heard.get("online"):
            self._show(self.heard)

    def _begin(self) -> None:
        """Start the courier, and tell it what it has missed."""
        known = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_DATA_DIR": str(self.home / "data")}
        try:
            self.home.mkdir(exist_ok=True)
            (self.home / CLOSING).unlink(missing_ok=True)
            write_json(self.home / START, without_secrets(self.start))
            with (self.home / "messages.log").open("a", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "lume_run.tracking.sender", str(self.home)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=os.environ | known,
                    start_new_session=True,  # Ctrl-C is for the driver alone
                )
        except OSError as error:
            self._warn(f"{self.title} could not be started: {error}")
            self.start = None
            return
        self._listener.start()
        for message in self.series:
            self._say(message)

    def _say(self, message: Mapping[str, Any]) -> None:
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):  # it is gone, which is told at the end
                self.process.stdin.write(json.dumps(message) + "\n")
                self.process.stdin.flush()

    def _listen(self) -> None:
        process = self.process
        for line in process.stdout if process is not None and process.stdout is not None else ():
            heard = object_of(line)
            if "warning" in heard:
                self._warn(heard["warning"])
            elif "where" in heard:
                self.heard = heard
                if heard["online"]:
                    self._show(heard)

    def _show(self, heard: Mapping[str, Any]) -> None:
        """Where the run is to be seen."""
        where = f"W&B, offline: {heard['sync']}" if heard["sync"] and not heard["online"] else ""
        console.print(f"  {escape(where or f'{self.title}: ' + heard['where'])}", soft_wrap=True)

    def _warn(self, told: str) -> None:
        console.print(f"  [yellow]{escape(told)}[/]", soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    return object_of(path.read_text(encoding="utf-8")) if path.exists() else {}


# ------------------------------------------------------------------------------------------------ what is told


def beginning(
    settings: Settings,
    folder: Path,
    identity: Mapping[str, Any],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run is: its config, and how W&B is to file it. The same run always has the same id."""
    logger, home = settings.logger, folder / settings.logger.name
    parts = [settings.method.name, settings.task.name, settings.model.name]
    swept = [key for key in os.environ.get(SWEPT, "").split(",") if key and key not in NAMED_BY]
    further = [f"{key.rpartition('.')[2]}={_at(identity, key)}" for key in swept]
    name = "-".join([*parts, f"seed{settings.seed}", *further])[:LONGEST_NAME]
    earlier = _read(home / START).get("init", {}).get("name")  # a restart from the folder knows of no sweep
    tags = [*dict.fromkeys([*parts, settings.launch.name, *logger.tags])]
    sweep = os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID")  # W&B's agent named the run
    init = {
        "id": sweep or content_hash([record["config_hash"], str(folder.resolve())]),
        "project": logger.project,
        "entity": logger.entity,
        "name": name if SWEEP in os.environ or not earlier else earlier,
        "group": logger.group or os.environ.get(SWEEP),
        "tags": [tag[:LONGEST_TAG] for tag in tags],
        "config": {
            **identity,
            "launch": asdict(settings.launch),
            "output_dir": settings.output_dir,
            "manifest": dict(record),
        },
    }
    given = {key: value for key, value in init.items() if not os.environ.get(VARIABLES.get(key, ""))}
    told = {"logger": logger.name, "title": TITLES[logger.name], "mode": mode_of(logger), "patience": logger.patience}
    return {**told, "init": given}


def _at(data: Any, path: str) -> Any:
    """What stands at a dotted path; a group (its name is what was chosen) by its name."""
    for part in path.lstrip("+").replace("/", ".").split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data.get("name", "") if isinstance(data, Mapping) else data


def ending(report: Report, responses: Mapping[str, Sequence[Response]], rows: int) -> dict[str, Any]:
    """What came out: scores before, after and their change under flat names, as tables, and what the models wrote."""
    summary: dict[str, Any] = {
        f"{SUBJECTS[subject]}/{name.replace('.', '/')}": value
        for subject in report.subjects
        for name in report.names
        if (value := report.value(subject, name)) is not None
    }
    moved = {f"change/{name.replace('.', '/')}": report.change(name) for name in report.names}
    summary |= {name: value for name, value in moved.items() if value is not None}
    summary |= {f"seconds/{stage}": round(spent, 2) for stage, spent in report.seconds.items()}
    summary |= {"mmlu_gate": report.gate} if report.gate is not None else {}
    summary |= {"warnings": "\n".join(report.warnings)} if report.warnings else {}
    tables = {"scores": score_table(report)} | ({"generations": generation_table(responses, rows)} if rows else {})
    return {"summary": summary, "tables": {name: table for name, table in tables.items() if table["rows"]}}


def score_table(report: Report) -> dict[str, Any]:
    """Every score: a column a model, the change with its 95 % interval, and why it is missing where it is."""
    columns = ["group", "score", "wanted", *(SUBJECTS[subject] for subject in report.subjects)]
    rows = []
    for name in report.names:
        values = [report.value(subject, name) for subject in report.subjects]
        ends = report.change_interval(name)
        reasons = [own.reason for subject in report.subjects if (own := report.score(subject, name)) and own.reason]
        change = [report.change(name), ends.low if ends else None, ends.high if ends else None]
        rows.append([str(group_of(name)), name, str(wanted(name)), *values, *change, "; ".join(dict.fromkeys(reasons))])
    return {"columns": [*columns, "change", "change_low", "change_high", "reason"], "rows": rows}


def generation_table(responses: Mapping[str, Sequence[Response]], most: int) -> dict[str, Any]:
    """What each model wrote to the same prompt, `most` of them, in turn from each side; what leaks is not hidden."""
    subjects = [subject for subject in SUBJECTS if subject in responses]
    texts = {
        subject: {
            own.id: own
            for own in responses[subject]
            if own.ask is Ask.GENERATE and not own.variant and own.kind in (Kind.COMPLETION, Kind.QUESTION)
        }
        for subject in subjects
    }
    asked = {key: own for subject in subjects for key, own in texts[subject].items()}
    counts: Counter[str] = Counter()
    turn = {key: (counts.update([own.split]), counts[own.split])[1] for key, own in asked.items()}
    rows = []
    for key in sorted(asked, key=turn.__getitem__)[:most]:
        own = asked[key]
        written = [found.output if (found := texts[subject].get(key)) else None for subject in subjects]
        rows.append([key, str(own.split), own.subtask, own.prompt, own.expected, *written])
    titles = [SUBJECTS[subject] for subject in subjects]
    return {"columns": ["id", "side", "task", "prompt", "expected", *titles], "rows": rows}


def files_of(folder: Path) -> list[Path]:
    """The report, what it was made from, and every plot."""
    return [*(folder / name for name in TEXTS if (folder / name).exists()), *sorted(folder.glob("*.png"))]
