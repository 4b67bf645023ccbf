"""Processor time of commands that compute little: help, mistakes, plans, finished runs, sweeps of small jobs.

    python scripts/startup.py [--repeats 5] [--jobs 16] [--without-sweeps]

CPU seconds (user and system) of a command and every process that it started, with one thread; the least of `--repeats`
runs, and of one run for the two rows that train. No network is used. On a machine that others use at the same time, the
first line says what `import torch` costs there: compare with that.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

LUME_RUN = (sys.executable, "-m", "lume_run.cli")
SMALL = ("debug=default", "launch.device=cpu")  # two documents, two epochs, no W&B
SMALLEST = (  # of sweeps: a job that computes little, so that what jobs share shows
    *SMALL,
    "model.shape.hidden_size=32",
    "model.shape.heads=2",
    "model.shape.intermediate_size=64",
    "evaluator.max_new_tokens=32",
)
PLANNED = ("method=npo", "task=bios", "model=7b", "dry_run=true")
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2): processes whose parent has ended become ours
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "120"}


def cpu_seconds(command: Sequence[str], folder: Path, code: int = 0, **variables: str) -> float:
    """CPU seconds of a command and all that it started; raises RuntimeError for another exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | ENVIRONMENT | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0):
            pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def learning_rates(jobs: int) -> list[str]:
    """So many learning rates of unlearning."""
    return [f"trainer.unlearn.learning_rate={1e-5 * (number + 1):.0e}" for number in range(jobs)]


def swept(jobs: int, *arguments: str) -> list[str]:
    """The command of one sweep over so many learning rates."""
    rates = ",".join(rate.partition("=")[2] for rate in learning_rates(jobs))
    return [*LUME_RUN, "-m", *SMALLEST, *arguments, f"trainer.unlearn.learning_rate={rates}"]


class Table:
    """Prints a row as soon as it is measured; each command is run so many times."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats

    def least(self, name: str, measure: Callable[[], float]) -> float:
        """The least of several measurements, printed."""
        return self.show(name, min(measure() for _ in range(self.repeats)))

    def show(self, name: str, seconds: float) -> float:
        """A row."""
        print(f"| {name} | {seconds:.2f} |", flush=True)
        return seconds


def measure_commands(table: Table, folder: Path) -> None:
    """Commands that end before anything is computed, and a finished run."""
    completion = {"COMP_LINE": "lume-run method=", "COMP_CWORD": "1", "COMP_POINT": "16"}
    run = (*LUME_RUN, *SMALL, "logger=wandb", "output_dir=finished")
    cpu_seconds(run, folder)
    (finished,) = (path.parent for path in (folder / "finished").glob("*/report.json"))
    for name, command, code, variables in (
        ("`import torch`, for comparison", (sys.executable, "-c", "import torch"), 0, {}),
        ("`lume-run --help`", (*LUME_RUN, "--help"), 0, {}),
        ("tab completion of `method=`", (*LUME_RUN, "-sc", "query=bash"), 0, completion),
        ("`lume-run --cfg job`", (*LUME_RUN, "--cfg", "job"), 0, {}),
        ("two mistakes, a method and a key that do not exist", (*LUME_RUN, "method=" + "nppo", "sede=3"), 2, {}),
        ("`lume-run dry_run=true`", (*LUME_RUN, "dry_run=true"), 0, {}),
        ("`lume-run method=npo task=bios model=7b dry_run=true`", (*LUME_RUN, *PLANNED), 0, {}),
        ("the same run again, finished and logged", run, 0, {}),
        ("the same by `python -m lume_run FOLDER`", (sys.executable, "-m", "lume_run", str(finished)), 0, {}),
    ):
        table.least(name, lambda c=command, e=code, v=variables: cpu_seconds(c, folder, e, **v))  # type: ignore[misc]


def measure_sweeps(table: Table, folder: Path, jobs: int) -> None:
    """A sweep against single runs, and sweeps with nothing to compute."""
    sweep = table.show(f"{jobs} small jobs in one sweep", cpu_seconds(swept(jobs, "output_dir=sweep"), folder))
    shared = [cpu_seconds([*LUME_RUN, *SMALLEST, rate, "output_dir=single"], folder) for rate in learning_rates(jobs)]
    table.show(f"{jobs} single runs that share a target: the sweep is {sweep / sum(shared):.2f} of it", sum(shared))
    apart = [
        cpu_seconds([*LUME_RUN, *SMALLEST, rate, f"output_dir=apart-{number}"], folder)
        for number, rate in enumerate(learning_rates(jobs))
    ]
    table.show(f"{jobs} single runs, each with its own target: {sweep / sum(apart):.2f}", sum(apart))
    again = table.least("the sweep again, all finished", lambda: cpu_seconds(swept(jobs, "output_dir=sweep"), folder))
    two = min(cpu_seconds(swept(2, "output_dir=sweep"), folder) for _ in range(table.repeats))
    table.show("of it, each finished job", (again - two) / (jobs - 2))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--without-sweeps", action="store_true")
    given = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    table = Table(given.repeats)
    print("| command | CPU s |\n| --- | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        measure_commands(table, Path(folder))
        if not given.without_sweeps:
            measure_sweeps(table, Path(folder), given.jobs)


if __name__ == "__main__":
    main()
