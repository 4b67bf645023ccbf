"""The SLURM allocation that this command runs in: its nodes, their addresses, how a program starts on each of them.

All of it is read from the environment that sbatch and salloc make (Slurm 20.11 or newer, for `srun --overlap`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from lume_run.common.errors import RunError

WITH_NODE_RANK = 'PET_NODE_RANK=$SLURM_PROCID exec "$0" "$@"'  # tells torchrun which of the nodes it is on


def allocation_size() -> int:
    """Nodes of the allocation, 0 outside of one."""
    if not all(os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")):
        return 0
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def default_nodes() -> int:
    """Nodes that a command takes where no setting says how many: in a script of sbatch all of them, one elsewhere.

    A step of srun may share an allocation with others, and the shell of salloc need not run on one of its nodes.
    """
    in_script = os.environ.get("SLURMD_NODENAME") and not os.environ.get("SLURM_STEP_ID")
    return max(1, allocation_size()) if in_script else 1


def step_tasks() -> int:
    """Tasks of the srun step that started this command, each of which got the same command; 1 elsewhere."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) if os.environ.get("SLURM_STEP_ID") else 1


def missing_programs() -> list[str]:
    """Programs for reaching other nodes that are not installed here, as in a container."""
    return [program for program in ("srun", "scontrol") if shutil.which(program) is None]


def hosts(count: int) -> list[str]:
    """The names of the first nodes of the allocation."""
    return scontrol_show("hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[:count]


def address(host: str) -> str:
    """The network address of a node, whose name alone need not resolve."""
    match = re.search(r"\bNodeAddr=(\S+)", scontrol_show("node", host))
    return match[1] if match else host


def srun_command(names: list[str]) -> list[str]:
    """What to put before a command that is to run once on each of these nodes, with all resources of the job there.

    Without `--overlap` it would wait for ever where this command is a step itself; without `--cpu-bind` some clusters
    bind it to one core; without `--export` a job submitted with `--export=NONE` loses its environment. A number of
    cores must not be given: srun would keep the step to that many times one task.
    """
    size = [f"--nodes={len(names)}", f"--ntasks={len(names)}", "--ntasks-per-node=1", f"--nodelist={','.join(names)}"]
    options = ["--overlap", "--cpu-bind=none", "--export=ALL", "--mpi=none", "--kill-on-bad-exit=1"]
    return ["srun", *size, *options, "sh", "-c", WITH_NODE_RANK]


def scontrol_show(*arguments: str) -> str:
    """The output of `scontrol show`; RunError with its message where it fails."""
    done = subprocess.run(["scontrol", "show", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"scontrol show {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
