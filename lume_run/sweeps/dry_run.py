"""What a sweep would do: its jobs, the artifacts they share, what is there already, how long the rest may take.

Times are those that artifacts of the same kind took here, by their DONE.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from lume_run.common.console import console
from lume_run.common.errors import LumeError, ProblemsError, RunError
from lume_run.common.store import DONE_FILE, Artifact, read_done_record
from lume_run.common.text import first_line
from lume_run.pipeline.memory.cost import Cost, run_cost
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run

if TYPE_CHECKING:
    from lume_run.sweeps.runner import Job

JOBS_SHOWN = 100  # jobs in the table


def show_sweep(jobs: Sequence[Job]) -> None:
    """Print the plan of a sweep, without touching weights or writing anything.

    Where not one of its jobs could run, the error of the first is raised.
    """
    table = Table("job", "folder", "due", "cached")
    planned: list[tuple[Job, tuple[Artifact, ...]]] = []
    errors: list[LumeError] = []
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        artifacts, error = job_artifacts(job)
        planned.append((job, artifacts))
        errors += [error] if error else []
        due = [artifact.name for artifact in artifacts if not artifact.is_cached]
        cached = [artifact.name for artifact in artifacts if artifact.is_cached]
        if table.row_count < JOBS_SHOWN:
            label = " ".join(override for override in job.overrides if override not in common)
            folder = job.folder.name if job.folder else "?"
            left = (error and _said_first(error)) or ", ".join(due) or "the report"
            there = "all of it" if job.is_cached else ", ".join(cached) or "nothing"
            table.add_row(escape(label), escape(folder), escape(left), escape(there))
    console.print(table)
    if len(jobs) > JOBS_SHOWN:
        console.print(f"  and {len(jobs) - JOBS_SHOWN} jobs more")
    show_shared(jobs, [artifact for _, artifacts in planned for artifact in artifacts])
    show_cost(planned)
    if len(errors) == len(jobs) and isinstance(errors[0], ProblemsError):
        raise errors[0]


def show_cost(planned: Sequence[tuple[Job, Sequence[Artifact]]]) -> None:
    """A line on what is due, what jobs share once; nothing where no model's size is known."""
    seen: set[Path] = set()
    parts: list[Cost] = []
    for job, artifacts in planned:
        if job.settings is None or not artifacts:
            continue
        due = [artifact for artifact in artifacts if artifact.path not in seen and not artifact.is_cached]
        seen |= {artifact.path for artifact in due}
        cost = run_cost(Run(job.settings, job.run_folder), due)
        parts += [] if cost is None else [cost]
    if parts:
        console.print(f"  what is due takes about: {sum(parts, Cost())}", soft_wrap=True)


def _said_first(error: LumeError) -> str:
    """What an error says first."""
    return str(error.problems[0]) if isinstance(error, ProblemsError) else first_line(str(error))


def job_artifacts(job: Job) -> tuple[tuple[Artifact, ...], LumeError | None]:
    """The artifacts of a job, or the error for which they are not known."""
    if job.settings is None:
        return (), RunError(job.error)
    try:
        return plan(Run(job.settings, job.run_folder)).artifacts, None
    except LumeError as error:
        return (), error


def show_shared(jobs: Sequence[Job], needed: Sequence[Artifact]) -> None:
    """A line for each kind of artifact: how many, made how often less than every job alone would, how long."""
    users = Counter(artifact.path for artifact in needed)
    kinds: dict[str, list[Artifact]] = {}
    for artifact in {artifact.path: artifact for artifact in needed}.values():
        kinds.setdefault(artifact.name, []).append(artifact)
    table = Table("makes", "wanted by", "distinct", "cached", "due", "estimate")
    total, unknown = 0.0, False
    for name, artifacts in kinds.items():
        due = sum(not artifact.is_cached for artifact in artifacts)
        each = seconds_of(artifacts[0])
        unknown |= bool(due) and each is None
        total += due * (each or 0.0)
        estimate = "" if not due else f"{due} x {each:.1f} s" if each is not None else "never made here"
        wanted_by = f"{sum(users[artifact.path] for artifact in artifacts)} jobs"
        cells = (name, wanted_by, str(len(artifacts)), str(len(artifacts) - due), str(due), estimate)
        table.add_row(*map(escape, cells))
    console.print(table)
    finished = sum(job.is_cached for job in jobs)
    time = f"{total / 60:.1f} min" if total >= 90 else f"{total:.0f} s"
    bound = "at least " if unknown and total else ""
    rest = f"{bound}{time}, one job after another" if total or not unknown else "no time known from earlier runs"
    console.print(f"  {len(jobs)} jobs, {finished} finished; the rest: {rest}", soft_wrap=True)


def seconds_of(artifact: Artifact) -> float | None:
    """The mean time [s] that artifacts like this one took where it would go, None where none was made."""
    if artifact.path.parent.parent.name == "store":
        paths = list(artifact.path.parent.glob(f"*/{DONE_FILE}"))
    else:
        output_dir, group = artifact.path.parent.parent, artifact.path.parent.name.rpartition("-")[0]
        paths = list(output_dir.glob(f"{group}-*/{artifact.path.name}/{DONE_FILE}"))
        paths = paths or list(output_dir.glob(f"*/{artifact.path.name}/{DONE_FILE}"))
    records = [read_done_record(path).get("seconds") for path in paths]
    times = [seconds for seconds in records if isinstance(seconds, int | float)]
    return mean(times) if times else None
