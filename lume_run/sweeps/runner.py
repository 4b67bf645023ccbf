"""The jobs of a sweep: composed and checked, run where they are missing or failed, summarised in the end.

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
from lume_run.common.files import ERROR_FILE, content_hash
from lume_run.common.text import first_line
from lume_run.config.hydra_node import job_node_problems
from lume_run.config.resolve import run_identity
from lume_run.config.settings import Settings
from lume_run.launch.preemption import REQUEUE, SIGNALS, STOP_FILE_VARIABLE
from lume_run.pipeline.checks.config import check_config
from lume_run.report.comparison.run_folders import RunRecord, read_run
from lume_run.sweeps.job import SWEEPER, begin_run_folder, exit_codes, print_user_errors, write_error
from lume_run.sweeps.names import hydra_folder
from lume_run.sweeps.overrides import distinguishing_overrides
from lume_run.sweeps.settings import check_launcher
from lume_run.tracking.tracker import fully_logged

JOB_STATES = ("done", "diverged", "failed", "unfinished")
QUIET_JOBS = 50  # jobs that are composed without a progress bar
FAILURES_SHOWN = 20  # jobs that did not end well, in the summary
DIED = "The process of this job died without an error: killed from outside, or out of memory."


@dataclass(frozen=True, kw_only=True)
class Job:
    """One combination. `folder` is None where it does not even compose; `settings` is None where `error` says why."""

    overrides: tuple[str, ...]
    folder: Path | None
    settings: Settings | None
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def run_folder(self) -> Path:
        """The folder of a job that composes."""
        assert self.folder is not None
        return self.folder

    @property
    def command(self) -> list[str]:
        """The command that runs this job alone."""
        return ["lume-run", *self.overrides]

    @property
    def record(self) -> RunRecord | None:
        """What its folder says of it now."""
        return read_run(self.folder) if self.folder is not None and (self.folder / "config.yaml").exists() else None

    @property
    def state(self) -> str:
        """done, diverged, failed or unfinished."""
        if self.folder is None:
            return "failed"
        record = self.record
        return record.state if record is not None else "unfinished"

    @property
    def is_cached(self) -> bool:
        """Whether a run of this very config has finished, and is logged wherever it is to be logged."""
        record = self.record
        if record is None or self.settings is None or record.state not in ("done", "diverged"):
            return False
        same = record.key == content_hash(run_identity(self.data))[:8]
        return same and fully_logged(self.settings.logger, self.run_folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """Jobs of a launch that broke off: those that never started, and those under way when a process died."""

    not_started: Sequence[Job] = ()
    under_way: Sequence[Job] = ()


class JobRunner:
    """Composes jobs, has a launcher run those that are due, says how they ended: what all our sweepers share."""

    def __init__(self, context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = context, config
        check_launcher(config.hydra.launcher)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )
        self.started = 0
        self.stopped = False

    @property
    def is_remote(self) -> bool:
        """Whether jobs run under SLURM, where a signal to this process does not concern them."""
        return getattr(self.launcher, "_EXECUTOR", "") == "slurm"  # as hydra-submitit-launcher names it

    def compose(self, overrides: Sequence[str]) -> Job:
        """One job, composed and checked as the launcher's process will do it."""
        overrides = tuple(overrides)
        try:
            cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        except (HydraException, ValueError) as refusal:  # ValueError: a group chosen by a number
            return Job(overrides=overrides, folder=None, settings=None, error=str(refusal))
        with print_user_errors():
            folder = hydra_folder(cfg, sweeping=True)
        if refused := list(job_node_problems(cfg, self.config)):
            return Job(overrides=overrides, folder=None, settings=None, error=str(ConfigError(refused)))
        with open_dict(cfg):
            del cfg["hydra"]
        settings, problems, data = check_config(cfg)
        error = str(ConfigError(problems)) if problems else ""
        return Job(overrides=overrides, folder=folder if data else None, settings=settings, data=data, error=error)

    def compose_all(self, combinations: Sequence[Sequence[str]]) -> list[Job]:
        """All jobs of a sweep; hundreds take a while."""
        if len(combinations) <= QUIET_JOBS:
            return [self.compose(overrides) for overrides in combinations]
        jobs = []
        with Progress("checking", len(combinations), "job") as progress:
            for overrides in combinations:
                jobs.append(self.compose(overrides))
                progress.advance()
        return jobs

    def run(self, jobs: Sequence[Job]) -> None:
        """Run these jobs; those that were under way when a process died start again, each alone."""
        due = []
        for job in {job.folder: job for job in jobs if job.folder is not None}.values():
            if job.settings is None:
                begin_run_folder(job.run_folder, job.data)
                write_error(job.run_folder, job.error, job.command)
            else:
                due.append(job)
        suspects: list[Job] = []
        vain = 0  # launches in a row that started no job
        while due and vain < 2:
            interrupted = self._launch(due)
            vain = 0 if len(interrupted.not_started) < len(due) else vain + 1
            suspects += interrupted.under_way
            due = list(interrupted.not_started)
        for job in suspects:
            interrupted = self._launch([job])
            if interrupted.not_started or interrupted.under_way:
                write_error(job.run_folder, DIED, job.command)

    def _launch(self, due: Sequence[Job]) -> Interrupted:
        """Hand jobs to the launcher; which of them did not end, where a process of the launcher died."""
        if self.stopped:
            return Interrupted()
        began = time.time() - 1
        with self._stoppable():
            try:
                results = self.launcher.launch([list(job.overrides) for job in due], initial_job_idx=self.started)
            except LumeError as error:  # it cannot work, or not for these jobs
                console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
                return Interrupted()
            except Exception as error:
                reason = escape(first_line(str(error)))
                console.print(f"[bold red]{type(error).__name__}:[/] {reason}", soft_wrap=True)
            else:
                for job, result in zip(due, results, strict=True):
                    if result.status == JobStatus.FAILED and job.state == "unfinished":
                        write_error(job.run_folder, result._return_value, job.command)
                return Interrupted()
            finally:
                self.started += len(due)
        if self.stopped:
            return Interrupted()
        started = [job for job in due if written_since(job.run_folder / "config.yaml", began)]
        return Interrupted(
            not_started=[job for job in due if job not in started],
            under_way=[job for job in started if not _has_ended(job, began)],
        )

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Pass on to jobs on this machine, through a file, that this process is asked to stop."""
        if self.is_remote:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="lume-run-") as folder:
            file = Path(folder) / "STOP"

            def touch_stop_file(_number: int, _frame: Any) -> None:
                file.touch()

            before = {number: signal.signal(number, touch_stop_file) for number in SIGNALS}
            os.environ |= {STOP_FILE_VARIABLE: str(file), SWEEPER: str(os.getpid())}
            try:
                yield
            finally:
                self.stopped |= file.exists()
                for name in (STOP_FILE_VARIABLE, SWEEPER):
                    del os.environ[name]
                for number, handler in before.items():
                    signal.signal(number, handler)

    def summarise(self, jobs: Sequence[Job], cached: int) -> None:
        """How many jobs ended in which way, and of those that did not end well why. Sets the exit code."""
        states = [job.state for job in jobs]
        counts = Counter(states)
        rest = "preempted" if self.stopped else "unfinished"
        table = Table("jobs", "done", "of them cached", "diverged", "failed", rest)
        table.add_row(*map(str, (len(jobs), counts["done"], cached, *(counts[state] for state in JOB_STATES[1:]))))
        console.print(table)
        failures = [(job, state) for job, state in zip(jobs, states, strict=True) if state in ("diverged", "failed")]
        for job, state in failures[:FAILURES_SHOWN]:
            record = job.record
            reason = first_line((record.error if record else "") or job.error)
            name = job.folder.name if job.folder else " ".join(distinguishing_overrides(job.overrides))
            console.print(f"  [red]{state}[/] {escape(name)}: {escape(reason)}", soft_wrap=True)
        if len(failures) > FAILURES_SHOWN:
            console.print(f"  and {len(failures) - FAILURES_SHOWN} more; lume-run-report lists them all")
        incomplete = bool(counts["failed"] or counts["unfinished"])
        if incomplete:
            console.print("  the same command runs only what is missing or failed", soft_wrap=True)
        exit_codes.append(REQUEUE if self.stopped else int(incomplete))


def _has_ended(job: Job, began: float) -> bool:
    return job.state in ("done", "diverged") or written_since(job.run_folder / ERROR_FILE, began)


def written_since(path: Path, when: float) -> bool:
    """Whether a file was written after a time [s]."""
    return path.exists() and path.stat().st_mtime >= when
