"""Several processes for one stage: which mode, how they are started, how their failures come back.

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
from typing import TYPE_CHECKING, Any

from lume_run.common.console import console
from lume_run.common.errors import RunError
from lume_run.common.store import Artifact
from lume_run.launch import slurm
from lume_run.launch.agent import ERRORS
from lume_run.launch.preemption import STOP_FILE_VARIABLE, Preempted, stop_requested
from lume_run.launch.world import STOP, World

if TYPE_CHECKING:
    pass

RANK_POLL_SECONDS = 0.5
RENDEZVOUS_SECONDS = 300  # for the nodes to find each other, which read the libraries from one disk
TRACEBACK_LINES = 12  # of a traceback; all of it stands in the run folder


def spawn(world: World, folder: Path, artifact: Artifact, partial: Path) -> None:
    """Have all ranks build their shares of an artifact.

    Raises Preempted where they were told to stop, RunError with the first failure otherwise.
    """
    errors, stop = folder / ERRORS, folder / STOP
    shutil.rmtree(errors, ignore_errors=True)
    for left in (stop, partial / STOP):  # by a driver that was killed
        left.unlink(missing_ok=True)
    world.write(folder)
    command = [*torchrun_command(world), "-m", "lume_run.pipeline.rank", str(folder), str(artifact.path)]
    own: dict[str, Any] = {"env": rank_environment(world, stop), "start_new_session": True, "stdin": subprocess.PIPE}
    with subprocess.Popen(command, **own) as process:  # leaving it closes the pipe, which ends whoever is left
        while process.poll() is None:
            if stop_requested() and not stop.exists():
                stop.touch()
            wait_briefly(process)
    stop.unlink(missing_ok=True)
    failed = rank_failure(errors, artifact, process.returncode) if process.returncode else None
    if failed is not None and not stop_requested():
        raise failed
    if failed is not None or (partial / STOP).exists():  # SLURM tells srun too, which fails then
        (partial / STOP).unlink(missing_ok=True)
        without = f", without a last checkpoint ({failed})" if failed else ""
        raise Preempted(f"Told to stop while making {artifact.name}{without}; the same command goes on from here.")


def wait_briefly(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment, or until the processes end."""
    try:
        process.wait(RANK_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def torchrun_command(world: World) -> list[str]:
    """The command that starts the ranks of every node."""
    port = world.port or free_port()
    own = [sys.executable, "-m", "lume_run.launch.agent", f"--nproc-per-node={world.processes}"]
    own += [f"--nnodes={world.nodes}", f"--master-port={port}"]
    if world.nodes == 1:
        return [*own, "--master-addr=127.0.0.1"]
    names = slurm.hosts(world.nodes)
    meet = [f"--master-addr={slurm.address(names[0])}", f"--rdzv-conf=timeout={RENDEZVOUS_SECONDS}"]
    return [*slurm.srun_command(names), *own, *meet]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of this machine; one that was left a moment ago is free."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def rank_environment(world: World, stop: Path) -> Mapping[str, str]:
    """What the ranks are started with: where they run on CPUs, threads are shared out and no library sees a GPU."""
    quiet = os.environ.get("PYTHONWARNINGS", "ignore::FutureWarning")  # torch warns of its own names at every step
    own = {STOP_FILE_VARIABLE: str(stop), "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": quiet}
    if world.device == "cpu":
        threads = max(1, (os.cpu_count() or 1) // world.processes)
        own |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        own |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own}


def rank_failure(errors: Path, artifact: Artifact, code: int) -> RunError:
    """What to tell about ranks that failed: the first one's own words, where it left any."""
    by_time = sorted(errors.glob("*.txt"), key=lambda path: path.stat().st_mtime)
    left = [path for cause in ("killed", "rank", "apart") for path in by_time if path.name.startswith(cause)]
    if not left:
        return RunError(
            f"Making {artifact.name} ended with exit code {code} and no word: a process was killed from outside "
            "(out of memory?). The same command goes on from the last checkpoint."
        )
    lines = left[0].read_text(encoding="utf-8").strip().split("\n")
    if lines[0] == "LumeError":
        return RunError("\n".join(lines[1:]))
    console.print(f"  the whole traceback: {left[0]}", soft_wrap=True)
    return RunError(f"Making {artifact.name} failed in {left[0].stem}:\n" + "\n".join(lines[-TRACEBACK_LINES:]))


# ------------------------------------------------------------------------------------- between the ranks of a stage
