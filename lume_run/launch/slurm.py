"""The SLURM allocation that this command runs in: its nodes, where they meet, how a program starts on each of them.

All of it is read from the environment that sbatch and salloc make (Slurm 20.11 or newer, for `srun --overlap`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from lume_run.common.errors import RunError


def allocation_size() -> int:
    """Nodes of the allocation, 0 outside of one."""
    if not all(os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")):
        return 0
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def default_nodes() -> int:
    """Nodes that a command takes where nobody says how many: in the script of sbatch all it was given, one elsewhere.

    A step of srun may be one of many that share an allocation, and the shell of salloc need not be on a node of it.
    """
    in_script = os.environ.get("SLURMD_NODENAME") and not os.environ.get("SLURM_STEP_ID")
    return max(1, allocation_size()) if in_script else 1


def step_tasks() -> int:
    """Tasks of the srun step that started this command, each of which got the same command; 1 elsewhere."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) if os.environ.get("SLURM_STEP_ID") else 1


def missing_programs() -> list[str]:
    """Programs that it takes to reach other nodes and that are not here, as in a container."""
    return [program for program in ("srun", "scontrol") if shutil.which(program) is None]


def hosts(count: int) -> list[str]:
    """The names of the first nodes of the allocation."""
    return scontrol_show("hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[:count]


def address(host: str) -> str:
    """Where a node can be reached; its name alone need not mean anything to the network."""
    found = re.search(r"\bNodeAddr=(\S+)", scontrol_show("node", host))
    return found[1] if found else host


def srun_command(names: list[str]) -> list[str]:
    """What to put before a command that is to run once on each of these nodes, with all that the job has there.

    Without `--overlap` it would wait for ever where this command is a step itself; without `--cpu-bind` some clusters
    bind it to one core; without `--export` a job submitted with `--export=NONE` loses its environment. A number of
    cores must not be given: srun would keep the step to that many times one task.
    """
    size = [f"--nodes={len(names)}", f"--ntasks={len(names)}", "--ntasks-per-node=1", f"--nodelist={','.join(names)}"]
    options = ["--overlap", "--cpu-bind=none", "--export=ALL", "--mpi=none", "--kill-on-bad-exit=1"]
    return [
        "srun",
        *size,
        *options,
        "sh",
        "-c",
        'PET_NODE_RANK=$SLURM_PROCID exec "$0" "$@"',
    ]  # which node of torchrun's this is


def scontrol_show(*what: str) -> str:
    """What `scontrol show` prints; RunError with its own words where it fails."""
    done = subprocess.run(["scontrol", "show", *what], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"scontrol show {' '.join(what)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
