"""Several processes for one stage: the command that starts them, their environment, and how their failures come back.

The driver stays one ordinary process. It has the ranks of a shared artifact started by `lume_run.launch.agent`, on
other nodes through srun; each runs `lume_run.pipeline.rank` on the run folder, builds its share and ends.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lume_run.common.console import console
from lume_run.common.errors import InputError, RunError
from lume_run.common.store import Artifact
from lume_run.launch import slurm
from lume_run.launch.agent import ERRORS
from lume_run.launch.preemption import STOP_FILE_VARIABLE, Preempted, looks_itself, stop_requested
from lume_run.launch.world import STOP, World

RANK_POLL_SECONDS = 0.5
RENDEZVOUS_SECONDS = 300  # for the nodes to find each other, which read the libraries from one disk
TRACEBACK_LINES = 12  # of a traceback, the whole of which is in the run folder


def spawn(world: World, folder: Path, artifact: Artifact, partial: Path) -> None:
    """Have all ranks build their shares of an artifact.

    Raises Preempted where they were asked to stop, RunError with the first failure otherwise.
    """
    errors, stop = folder / ERRORS, folder / STOP
    shutil.rmtree(errors, ignore_errors=True)
    for stale in (stop, partial / STOP):  # left by a driver that was killed
        stale.unlink(missing_ok=True)
    world.write(folder)
    command = [*torchrun_command(world), "-m", "lume_run.pipeline.rank", str(folder), str(artifact.path)]
    # Leaving the block closes the pipe, which ends the processes that are left.
    options: dict[str, Any] = {"env": rank_environment(world, stop), "start_new_session": True}
    with looks_itself(), subprocess.Popen(command, stdin=subprocess.PIPE, **options) as process:
        while process.poll() is None:
            if stop_requested() and not stop.exists():
                stop.touch()
            wait_briefly(process)
    stop.unlink(missing_ok=True)
    failed = rank_failure(errors, artifact, process.returncode) if process.returncode else None
    if failed is not None and not stop_requested():
        raise failed
    if failed is not None or (partial / STOP).exists():  # SLURM signals srun too, which fails then
        (partial / STOP).unlink(missing_ok=True)
        without = f", without a last checkpoint ({failed})" if failed else ""
        raise Preempted(f"Stopped while making {artifact.name}{without}; the same command resumes from here.")


def wait_briefly(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment, or until the processes end."""
    try:
        process.wait(RANK_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def torchrun_command(world: World) -> list[str]:
    """The command that starts the ranks of every node."""
    port = world.port or free_port()
    agent = [sys.executable, "-m", "lume_run.launch.agent", f"--nproc-per-node={world.processes}"]
    agent += [f"--nnodes={world.nodes}", f"--master-port={port}"]
    if world.nodes == 1:
        return [*agent, "--master-addr=127.0.0.1"]
    names = slurm.hosts(world.nodes)
    rendezvous = [f"--master-addr={slurm.address(names[0])}", f"--rdzv-conf=timeout={RENDEZVOUS_SECONDS}"]
    return [*slurm.srun_command(names), *agent, *rendezvous]


def free_port() -> int:
    """A port that no process listens on now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether no process listens on a port of this machine; a port that was closed a moment ago is free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            return False
    return True


def rank_environment(world: World, stop: Path) -> Mapping[str, str]:
    """The environment of the ranks: where they run on CPUs, they share out the threads and no library sees a GPU."""
    warnings = os.environ.get("PYTHONWARNINGS", "ignore::FutureWarning")  # torch warns of its own names at every step
    variables = {STOP_FILE_VARIABLE: str(stop), "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": warnings}
    variables |= {"PYTHONSAFEPATH": "1"}  # no module is taken from the working directory
    if world.device == "cpu":
        threads = max(1, (os.cpu_count() or 1) // world.processes)
        variables |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        variables |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **variables}


def rank_failure(errors: Path, artifact: Artifact, code: int) -> RunError:
    """The error to raise for ranks that failed: that of the first rank which wrote one, where any did."""
    by_time = sorted(errors.glob("*.txt"), key=lambda path: path.stat().st_mtime)
    paths = [path for cause in ("killed", "rank", "apart") for path in by_time if path.name.startswith(cause)]
    if not paths:
        return RunError(
            f"Making {artifact.name} ended with exit code {code} and no error message: a process was killed from "
            "outside (out of memory?). The same command resumes from the last checkpoint."
        )
    lines = paths[0].read_text(encoding="utf-8").strip().split("\n")
    if known := {"LumeError": RunError, "InputError": InputError}.get(lines[0]):
        return known("\n".join(lines[1:]))
    console.print(f"  the whole traceback: {paths[0]}", soft_wrap=True)
    return RunError(f"Making {artifact.name} failed in {paths[0].stem}:\n" + "\n".join(lines[-TRACEBACK_LINES:]))
