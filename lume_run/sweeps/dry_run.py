"""What a sweep would do: its jobs, what they share, what is there already, how long the rest may take.

Times are those that made artifacts of the same kind took here, as their DONE.json tells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from lume_run.common.console import console
from lume_run.common.errors import LumeError
from lume_run.common.store import DONE_FILE, Artifact
from lume_run.common.text import first_line
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run

if TYPE_CHECKING:
    from lume_run.sweeps.runner import Job

JOBS_SHOWN = 100  # jobs in the table


def show_sweep(wanted: Sequence[Job]) -> None:
    """Print the plan of a sweep, without touching weights or writing anything."""
    made = Table("job", "folder", "due", "cached")
    users: dict[Path, int] = {}
    needed: dict[Path, Artifact] = {}
    common = set.intersection(*(set(job.overrides) for job in wanted)) if len(wanted) > 1 else set()
    for job in wanted:
        found, trouble = job_artifacts(job)
        for artifact in found:
            needed[artifact.path] = artifact
            users[artifact.path] = users.get(artifact.path, 0) + 1
        due = [artifact.name for artifact in found if not artifact.is_done]
        told = "all of it" if job.cached else ", ".join(own.name for own in found if own.is_done) or "nothing"
        name = job.folder.name if job.folder else "?"
        if made.row_count < JOBS_SHOWN:
            label = " ".join(own for own in job.overrides if own not in common)
            made.add_row(escape(label), escape(name), escape(trouble or ", ".join(due) or "the report"), escape(told))
    console.print(made)
    if len(wanted) > JOBS_SHOWN:
        console.print(f"  and {len(wanted) - JOBS_SHOWN} jobs more")
    show_shared(wanted, needed, users)


def job_artifacts(job: Job) -> tuple[tuple[Artifact, ...], str]:
    """What a job consists of, or why that cannot be told."""
    if job.settings is None:
        return (), first_line(job.error)
    try:
        run = Run(job.settings, job.place)
        return plan(run).artifacts, ""
    except LumeError as error:
        return (), first_line(str(error))


def show_shared(wanted: Sequence[Job], needed: dict[Path, Artifact], users: dict[Path, int]) -> None:
    """A line for each kind of artifact: how many, made how often less than every job alone would, how long."""
    kinds: dict[str, list[Artifact]] = {}
    for artifact in needed.values():
        kinds.setdefault(artifact.name, []).append(artifact)
    made = Table("makes", "wanted by", "distinct", "cached", "due", "estimate")
    total, unknown = 0.0, False
    for name, own in kinds.items():
        due = [artifact for artifact in own if not artifact.is_done]
        each = seconds_of(own[0])
        unknown |= bool(due) and each is None
        total += len(due) * (each or 0.0)
        told = "" if not due else f"{len(due)} x {each:.1f} s" if each is not None else "never made here"
        jobs = sum(users[artifact.path] for artifact in own)
        made.add_row(escape(name), f"{jobs} jobs", str(len(own)), str(len(own) - len(due)), str(len(due)), told)
    console.print(made)
    finished = sum(job.cached for job in wanted)
    estimate = f"{total / 60:.1f} min" if total >= 90 else f"{total:.0f} s"
    bound = "at least " if unknown and total else ""
    told = f"{bound}{estimate}, one job after another" if total or not unknown else "no time known from earlier runs"
    console.print(f"  {len(wanted)} jobs, {finished} finished; the rest: {told}", soft_wrap=True)


def seconds_of(artifact: Artifact) -> float | None:
    """The mean time [s] that artifacts like this one took where it would go, None where none was made."""
    if artifact.path.parent.parent.name == "store":
        found = list(artifact.path.parent.glob(f"*/{DONE_FILE}"))
    else:
        output_dir, group = artifact.path.parent.parent, artifact.path.parent.name.rpartition("-")[0]
        found = list(output_dir.glob(f"{group}-*/{artifact.path.name}/{DONE_FILE}"))
        found = found or list(output_dir.glob(f"*/{artifact.path.name}/{DONE_FILE}"))
    times = [float(json.loads(path.read_text(encoding="utf-8")).get("seconds", 0.0)) for path in found]
    return mean(times) if times else None
