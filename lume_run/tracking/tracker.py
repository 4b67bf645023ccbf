"""Sends a run to W&B or TensorBoard: what it is, its curves while it trains, and its scores in the end.

The driver only writes down what is to be sent; `sender.py`, a process beside it, sends it. Nothing of that can fail a
run or hold it up: at the end the driver waits for a bounded time. A run that was logged in full, and has nothing new,
starts no such process at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.files import content_hash, write_json
from lume_run.common.records import Response
from lume_run.common.secrets import without_secrets
from lume_run.common.store import Artifact
from lume_run.common.text import first_line
from lume_run.config.settings import LoggerSettings, Settings
from lume_run.launch.preemption import Preempted
from lume_run.report.results import Report
from lume_run.tracking.closing import closing_message, report_files
from lume_run.tracking.messages import CLOSING, SENT, START, parse_object, read_object
from lume_run.tracking.start import LOGGER_TITLES, is_enabled, start_message

TRAINED_STAGES = ("train", "unlearn")  # stages with curves
HURRIED_SECONDS = 15.0  # longest wait of a run that is preempted or interrupted


def fully_logged(logger: LoggerSettings, folder: Path) -> bool:
    """Whether nothing of a finished run is left to send."""
    return not is_enabled(logger) or "report" in read_object(folder / logger.name / SENT)


@contextmanager
def track_run(
    settings: Settings,
    folder: Path,
    identity: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> Iterator[Tracker]:
    """A tracker for the life of a run. An error that ends the run early is sent too."""
    start = start_message(settings, folder, identity, manifest) if is_enabled(settings.logger) else None
    tracker = Tracker(settings, folder, start)
    try:
        yield tracker
    except BaseException as error:
        reason = first_line(str(error)) or type(error).__name__
        hurried = isinstance(error, Preempted | KeyboardInterrupt)
        tracker.close({"error": reason, "preempted": isinstance(error, Preempted)}, hurried=hurried)
        raise


class Tracker:
    """The driver's end of one run's sender; `start` of None: a run that is not logged."""

    def __init__(self, settings: Settings, folder: Path, start: Mapping[str, Any] | None) -> None:
        self.settings, self.folder, self.start = settings, folder, start
        self.home = folder / settings.logger.name
        self.title = LOGGER_TITLES.get(settings.logger.name, "")
        self.series: list[dict[str, Any]] = []
        self.process: subprocess.Popen[str] | None = None
        self.location: dict[str, Any] = {}  # where the run is shown, as the sender says
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self.sent = read_object(self.home / SENT)
        if start is not None and self.sent.get("id") != start["init"]["id"]:
            self.sent = {}
            self._begin()  # at once: connecting takes a while

    def follow(self, artifact: Artifact) -> None:
        """Send the curves of an artifact that is built or was built, from now until the next one."""
        if self.start is None or artifact.stage not in TRAINED_STAGES:
            return
        partial, name = artifact.path.with_name(artifact.path.name + ".partial"), f"{artifact.stage}/{artifact.name}"
        done = artifact.is_done
        self.series.append({"series": name, "partial": str(partial), "path": str(artifact.path), "done": done})
        if self.process is not None:
            self._send(self.series[-1])
        elif not done:
            self._begin()

    def finish(self, report: Report, responses: Mapping[str, Sequence[Response]]) -> None:
        """Send the scores, unless they were sent before, and print where they are."""
        if self.start is None:
            return
        try:
            closing = without_secrets(closing_message(report, responses, self.settings.logger.generations))
        except Exception as error:  # the run is done, and its report written
            self._warn(f"{self.title} gets no scores: {type(error).__name__}: {error}")
            closing = {}
        closing |= {"report": content_hash(closing), "files": [str(path) for path in report_files(self.folder)]}
        if self.process is None and self.sent.get("report") == closing["report"]:
            self._print_location(self.sent)
            return
        if self.process is None:
            self._begin()
        self.close(closing)

    def close(self, closing: Mapping[str, Any], *, hurried: bool = False) -> None:
        """Let the sender finish, for a while; what it could not send lies in its folder."""
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
            rest = self.location.get("sync") or str(self.home)
            self._warn(f"{self.title} did not take everything in {seconds:.0f} s; the rest: {rest}")
            return
        self._listener.join(1.0)
        if code:
            self._warn(f"{self.title} stopped (exit code {code}); see {self.home / 'messages.log'}")
        elif self.location and not self.location.get("online"):
            self._print_location(self.location)

    def _begin(self) -> None:
        """Start the sender, and name it the series so far."""
        known = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_DATA_DIR": str(self.home / "data")}
        try:
            self.home.mkdir(exist_ok=True)
            (self.home / CLOSING).unlink(missing_ok=True)
            write_json(self.home / START, without_secrets(self.start))
            with (self.home / "messages.log").open("a", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "lume_run.tracking.sender", str(self.home)],
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
            self._send(message)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):  # it is gone, which is warned of at the end
                self.process.stdin.write(json.dumps(message) + "\n")
                self.process.stdin.flush()

    def _listen(self) -> None:
        process = self.process
        for line in process.stdout if process is not None and process.stdout is not None else ():
            message = parse_object(line)
            if "warning" in message:
                self._warn(message["warning"])
            elif "where" in message:
                self.location = message
                if message["online"]:
                    self._print_location(message)

    def _print_location(self, location: Mapping[str, Any]) -> None:
        """Where the run is to be seen."""
        where = f"W&B, offline: {location['sync']}" if location["sync"] and not location["online"] else ""
        console.print(f"  {escape(where or f'{self.title}: ' + location['where'])}", soft_wrap=True)

    def _warn(self, warning: str) -> None:
        console.print(f"  [yellow]{escape(warning)}[/]", soft_wrap=True)
