"""The SLURM allocation that this command runs in: its nodes, where they meet, how a program starts on each of them.

All of it is read from the environment that sbatch and salloc make (Slurm 20.11 or newer, for `srun --overlap`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from lume_run.errors import RunError


def allocated() -> int:
    """Nodes of the allocation, 0 outside of one."""
    if not all(os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")):
        return 0
    if any(shutil.which(program) is None for program in ("srun", "scontrol")):
        return 0
    given = os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES", "1")
    return int(given)


def hosts(nodes: int) -> list[str]:
    """The names of the first `nodes` nodes; RunError where the allocation has fewer."""
    if allocated() < nodes:
        raise RunError(f"{nodes} nodes are wanted, and {allocated()} allocated: sbatch --nodes={nodes}")
    return show("hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[:nodes]


def address(host: str) -> str:
    """Where a node can be reached; its name alone need not mean anything to the network."""
    found = re.search(r"\bNodeAddr=(\S+)", show("node", host))
    return found[1] if found else host


def srun(names: list[str]) -> list[str]:
    """What to put before a command that is to run once on each of these nodes, with all that the job has there.

    Without `--overlap` it would wait for ever where this command is a step itself; without `--cpu-bind` some clusters
    bind it to one core; without `--export` a job submitted with `--export=NONE` loses its environment. A number of
    cores must not be given: srun would keep the step to that many times one task.
    """
    tasks = [f"--nodes={len(names)}", f"--ntasks={len(names)}", "--ntasks-per-node=1", f"--nodelist={','.join(names)}"]
    return ["srun", *tasks, "--overlap", "--cpu-bind=none", "--export=ALL", "--mpi=none", "--kill-on-bad-exit=1"]


def show(*what: str) -> str:
    """What `scontrol show` prints; RunError with its own words where it fails."""
    done = subprocess.run(["scontrol", "show", *what], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"scontrol show {' '.join(what)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
