"""Sweeps over a grid, as a plugin of Hydra: what is missing or failed is run, and a summary says how it ended.

Hydra's own sweeper stops at the first job that raises and starts every job again. Here each job is composed and
checked before any starts; how it ended is read from its folder, so it does not matter which launcher ran it, where.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from rich.markup import escape
from rich.table import Table

from lume_run.common.console import Progress, console
from lume_run.common.errors import ConfigError, LumeError
from lume_run.common.files import content_hash
from lume_run.common.text import first_line
from lume_run.config.resolve import run_identity
from lume_run.config.settings import Settings
from lume_run.launch.preemption import REQUEUE, SIGNALS, STOP_FILE_VARIABLE
from lume_run.pipeline.checks import check_config
from lume_run.report.comparison.run_folders import ERROR_FILE, RunRecord, read_run
from lume_run.sweeps.job import (
    SWEEPER,
    begin_run_folder,
    distinguishing_overrides,
    exit_codes,
    print_user_errors,
    write_error,
)
from lume_run.sweeps.names import hydra_folder
from lume_run.tracking.tracker import fully_logged

JOB_STATES = ("done", "diverged", "failed", "unfinished")
QUIET_JOBS = 50  # jobs that are composed without a word
FAILURES_SHOWN = 20  # jobs that did not end well, in the summary
DIED = "The process of this job died without a word: killed from outside, or out of memory."


@dataclass(frozen=True, kw_only=True)
class Job:
    """One combination. `folder` is None where it does not even compose; `problems` are told then too."""

    overrides: tuple[str, ...]
    folder: Path | None
    settings: Settings | None
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def place(self) -> Path:
        """The folder of a job that has one."""
        assert self.folder is not None
        return self.folder

    @property
    def record(self) -> RunRecord | None:
        """What its folder says of it now."""
        return read_run(self.folder) if self.folder is not None and (self.folder / "config.yaml").exists() else None

    @property
    def state(self) -> str:
        """done, diverged, failed or unfinished."""
        if self.folder is None:
            return "failed"
        found = self.record
        return found.state if found is not None else "unfinished"

    @property
    def cached(self) -> bool:
        """Whether a run of this very config has finished, and has been shown where it is to be shown."""
        found = self.record
        if found is None or self.settings is None or found.state not in ("done", "diverged"):
            return False
        return found.key == content_hash(run_identity(self.data))[:8] and fully_logged(self.settings.logger, self.place)


class JobRunner:
    """Composes jobs, has a launcher run those that are due, says how they ended: what all our sweepers share."""

    def __init__(self, context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )
        self.started = 0
        self.told_to_stop = False

    @property
    def remote(self) -> bool:
        """Whether jobs run elsewhere: what stops this process is none of their business."""
        return "Slurm" in type(self.launcher).__name__

    def compose(self, overrides: Sequence[str]) -> Job:
        """One job, composed and checked as the launcher's process will do it."""
        own = tuple(overrides)
        try:
            cfg = self.context.config_loader.load_sweep_config(self.config, list(own))
        except HydraException as refused:
            return Job(overrides=own, folder=None, settings=None, error=str(refused))
        with print_user_errors():
            folder = hydra_folder(cfg, sweeping=True)
        with open_dict(cfg):
            del cfg["hydra"]
        settings, problems, data = check_config(cfg)
        error = str(ConfigError(problems)) if problems else ""
        return Job(overrides=own, folder=folder if data else None, settings=settings, data=data, error=error)

    def compose_all(self, combinations: Sequence[Sequence[str]]) -> list[Job]:
        """All jobs of a sweep; hundreds take a while."""
        if len(combinations) <= QUIET_JOBS:
            return [self.compose(own) for own in combinations]
        made = []
        with Progress("checking", len(combinations), "job") as progress:
            for own in combinations:
                made.append(self.compose(own))
                progress.advance()
        return made

    def run(self, wanted: Sequence[Job]) -> None:
        """Run these jobs; those that were under way when a process died start again, each alone."""
        fresh = []
        for job in {job.folder: job for job in wanted if job.folder is not None}.values():
            if job.settings is None:
                begin_run_folder(job.place, job.data)
                write_error(job.place, job.error, ["lume-run", *job.overrides])
            else:
                fresh.append(job)
        suspects: list[Job] = []
        vain = 0  # launches in a row that came to no job
        while fresh and vain < 2:
            left, taken = self._launch(fresh)
            vain = 0 if len(left) < len(fresh) else vain + 1
            suspects += taken
            fresh = left
        for job in suspects:
            if any(self._launch([job])):
                write_error(job.place, DIED, ["lume-run", *job.overrides])

    def _launch(self, due: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Hand jobs to the launcher; the jobs it did not come to, and those under way, where a process of it died."""
        if self.told_to_stop:
            return [], []
        began = time.time() - 1
        with self._stoppable():
            try:
                returned = self.launcher.launch([list(job.overrides) for job in due], initial_job_idx=self.started)
            except LumeError as error:  # it cannot work, or not for these jobs
                console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
                return [], []
            except Exception as error:
                told = f"[bold red]{type(error).__name__}:[/] {escape(first_line(str(error)))}"
                console.print(told, soft_wrap=True)
            else:
                for job, one in zip(due, returned, strict=True):
                    if one.status == JobStatus.FAILED and job.state == "unfinished":
                        write_error(job.place, one._return_value, ["lume-run", *job.overrides])
                return [], []
            finally:
                self.started += len(due)
        if self.told_to_stop:
            return [], []
        touched = [job for job in due if written_since(job.place / "config.yaml", began)]
        ended = [
            job for job in touched if job.state in ("done", "diverged") or written_since(job.place / ERROR_FILE, began)
        ]
        return [job for job in due if job not in touched], [job for job in touched if job not in ended]

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let jobs on this machine hear, through a file, that this process is told to stop."""
        if self.remote:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="lume-run-") as folder:
            file = Path(folder) / "STOP"

            def write_down(_number: int, _frame: Any) -> None:
                file.touch()

            before = {number: signal.signal(number, write_down) for number in SIGNALS}
            os.environ |= {STOP_FILE_VARIABLE: str(file), SWEEPER: str(os.getpid())}
            try:
                yield
            finally:
                self.told_to_stop |= file.exists()
                for name in (STOP_FILE_VARIABLE, SWEEPER):
                    del os.environ[name]
                for number, handler in before.items():
                    signal.signal(number, handler)

    def summarise(self, wanted: Sequence[Job], cached: int) -> None:
        """How many jobs ended in which way, and of those that did not end well why. Sets the exit code."""
        states = [job.state for job in wanted]
        counts = Counter(states)
        rest = "preempted" if self.told_to_stop else "unfinished"
        made = Table("jobs", "done", "of them cached", "diverged", "failed", rest)
        made.add_row(*map(str, (len(wanted), counts["done"], cached, *(counts[name] for name in JOB_STATES[1:]))))
        console.print(made)
        ill = [(job, state) for job, state in zip(wanted, states, strict=True) if state in ("diverged", "failed")]
        for job, state in ill[:FAILURES_SHOWN]:
            found = job.record
            why = first_line((found.error if found else "") or job.error)
            what = job.folder.name if job.folder else " ".join(distinguishing_overrides(job.overrides))
            console.print(f"  [red]{state}[/] {escape(what)}: {escape(why)}", soft_wrap=True)
        if len(ill) > FAILURES_SHOWN:
            console.print(f"  and {len(ill) - FAILURES_SHOWN} more; lume-run-report lists them all")
        if counts["failed"] or counts["unfinished"]:
            console.print("  the same command runs only what is missing or failed", soft_wrap=True)
        exit_codes.append(REQUEUE if self.told_to_stop else 1 if counts["failed"] or counts["unfinished"] else 0)


def written_since(path: Path, when: float) -> bool:
    """Whether a file was written after a time [s]."""
    return path.exists() and path.stat().st_mtime >= when
