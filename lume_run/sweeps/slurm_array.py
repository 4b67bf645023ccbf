"""Sweeps as SLURM arrays, as a launcher of Hydra on hydra-submitit-launcher.

submitit starts the jobs, and has them queued again when they are preempted or out of time. This module waits for them:
submitit's launcher gives up at the first job that was cancelled, and learns of that from SLURM's accounting only. Here
every job is waited for, and squeue says which are still there. Run folders say how jobs ended; submitit's pickled
results are not read.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.files import write_json
from lume_run.launch import slurm
from lume_run.sweeps.job import failed_job

ACTIVE = "active.json"  # beside the logs: which job of SLURM was submitted last for which overrides
QUEUE_POLL_SECONDS = 2.0
MISSES = 3  # looks in a row at which a job is neither in the queue nor has left a result: files may come late
ALONE = ("--nodes=1", "--ntasks=1", "--overlap", "--cpu-bind=none", "--export=ALL")  # of srun: see slurm.py
COMMON = ("name", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "timeout_min")


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A submitted job, by its number (`12`, or `12_3` of an array), and the file it leaves at its end."""

    number: str
    result: Path

    @property
    def last_error_line(self) -> str:
        """The last line that it printed as an error."""
        log = Path(str(self.result).replace("_result.pkl", "_log.err"))
        lines = log.read_text(encoding="utf-8", errors="replace").strip().split("\n") if log.exists() else [""]
        return f"job {self.number} of SLURM ended without a report; {log} ends with: {lines[-1].strip()}"


class SlurmArray(Launcher):
    """Submits the jobs of a sweep as one array and waits for all of them."""

    _EXECUTOR = "slurm"  # as hydra-submitit-launcher's own launchers say

    def __init__(self, **params: Any) -> None:
        self.options = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra. Raises ConfigError where it cannot work."""
        try:
            from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
        except ImportError:
            problem = _problem("hydra-submitit-launcher is not installed", "pip install 'lume-run[slurm]'")
            raise ConfigError([problem]) from None
        if missing := slurm.missing_programs():
            raise ConfigError([_problem(f"there is no {' and no '.join(missing)} here", "start it where sbatch works")])
        self.inner = SlurmLauncher(**self.options)
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.params = dict(self.inner.params)
        if self.params.pop("tasks_per_node", 1) != 1:
            raise ConfigError([_problem("a job is one task, and starts its own ranks", "leave tasks_per_node out")])
        self.folder = Path(str(self.params.pop("submitit_folder")))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit those of the jobs that are not in the queue still, and wait for all.

        Every job returns as failed, with the reason if it did: `JobRunner` looks into its run folder first.
        """
        home = Path(str(self.folder).split("%j")[0])
        home.mkdir(parents=True, exist_ok=True)
        overrides = [self._with_nodes(job) for job in job_overrides]
        keys = [" ".join(job) for job in overrides]
        known = read_active(home / ACTIVE)
        active = queued_jobs([known[key]["number"] for key in keys if key in known]) or set()
        submitted = {
            key: Submitted(number=known[key]["number"], result=Path(known[key]["result"]))
            for key in keys
            if key in known and known[key]["number"] in active
        }
        new = [index for index, key in enumerate(keys) if key not in submitted]
        if submitted:
            console.print(f"  {len(submitted)} of these jobs are in the queue already", soft_wrap=True)
        if new:
            jobs = self._submit([overrides[index] for index in new], [initial_job_idx + index for index in new])
            submitted |= dict(zip([keys[index] for index in new], jobs, strict=True))
        entries = {key: {"number": job.number, "result": str(job.result)} for key, job in submitted.items()}
        write_json(home / ACTIVE, known | entries)
        return wait_for_jobs([submitted[key] for key in keys])

    def _with_nodes(self, overrides: Sequence[str]) -> list[str]:
        """A job's overrides; it is one step of srun, which cannot know how many nodes it may take."""
        nodes = int(self.params.get("nodes") or 1)
        given = any(override.lstrip("+").startswith("launch.nodes=") for override in overrides)
        return [*overrides] if nodes == 1 or given else [*overrides, f"launch.nodes={nodes}"]

    def _submit(self, overrides: Sequence[list[str]], numbers: Sequence[int]) -> list[Submitted]:
        import submitit

        params = {key: value for key, value in self.params.items() if value not in (None, [], {})}
        executor = submitit.AutoExecutor(
            folder=self.folder, cluster="slurm", slurm_max_num_timeout=params.pop("max_num_timeout", 0)
        )
        steps = [*ALONE, *params.pop("srun_args", [])]
        named = {key if key in COMMON else f"slurm_{key}": value for key, value in params.items()}
        executor.update_parameters(**named, slurm_srun_args=steps)
        count, state = len(overrides), Singleton.get_state()
        keys, ids = ["hydra.sweep.dir"] * count, [f"job_{number}" for number in numbers]
        try:
            jobs = executor.map_array(self.inner, overrides, keys, numbers, ids, [state] * count)
        except Exception as error:  # submitit's own classes, with sbatch's message in them
            raise RunError(f"sbatch refused: {error}") from error
        first = str(jobs[0].job_id).split("_")[0]
        console.print(f"[bold]SLURM[/] job {first}: {count} jobs; logs: {escape(str(self.folder))}", soft_wrap=True)
        return [Submitted(number=str(job.job_id), result=Path(job.paths.result_pickle)) for job in jobs]


def wait_for_jobs(submitted: Sequence[Submitted]) -> list[JobReturn]:
    """Wait until all jobs have ended, however long they are queued, and queued again."""
    ended: dict[str, JobReturn] = {}
    missed: Counter[str] = Counter()
    try:
        while waiting := [job for job in submitted if job.number not in ended]:
            active = queued_jobs([job.number for job in waiting])
            for job in waiting:
                if job.result.exists():
                    ended[job.number] = failed_job(job.last_error_line)
                elif active is not None:
                    missed[job.number] = 0 if job.number in active else missed[job.number] + 1
                    if missed[job.number] >= MISSES:
                        ended[job.number] = failed_job(f"SLURM ended job {job.number}: {job_state(job.number)}")
            time.sleep(QUEUE_POLL_SECONDS if len(ended) < len(submitted) else 0)
    except KeyboardInterrupt:
        numbers = " ".join(sorted({job.number.split("_")[0] for job in submitted}))
        console.print(f"the jobs stay queued; the same command waits for them again, scancel {numbers} ends them")
        raise SystemExit(130) from None
    return [ended[job.number] for job in submitted]


def queued_jobs(numbers: Sequence[str]) -> set[str] | None:
    """Those of the jobs that wait or run; None where SLURM does not answer."""
    if not numbers:
        return set()
    arrays = ",".join(sorted({number.split("_")[0] for number in numbers}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={arrays}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return set(done.stdout.split()) & set(numbers)


def job_state(number: str) -> str:
    """The state in which a job ended, as SLURM names it, where it still knows."""
    try:
        match = re.search(r"\bJobState=(\S+)", slurm.scontrol_show("job", number))
    except (RunError, OSError):
        return "it no longer knows how"
    return match[1] if match else "it does not say how"


def _problem(what: str, remedy: str) -> Problem:
    return Problem(where="hydra/launcher=slurm", what=what, remedy=remedy)


def read_active(path: Path) -> dict[str, dict[str, str]]:
    """The number and the result file of the jobs submitted last, by their overrides."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
