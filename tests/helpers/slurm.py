"""A Slurm of two nodes on this machine, for tests: munged, slurmctld and two slurmd that all run on this host.

Everything (configuration, keys, spools, logs) lies in one temporary folder, nothing of the system's own Slurm is
read, and no service manager is needed. Debian has what it takes: `apt-get install slurmctld slurmd slurm-client munge`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from helpers import warm

NODES = ("n1", "n2")
PARTITIONS = ("main", "low", "high")  # a job of `high` takes the nodes of one of `low`, which is queued again
CPUS = 4  # of each node, whatever this machine has
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo", "setpriv")
WARM_COMMANDS = r"lume_run|submitit"  # command lines of Python that may be warm
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL")
CONFIG = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=20
MinJobAge=3600
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended: Slurm's word for it, the exit code of its script, how often it was queued again."""

    state: str
    code: int
    restarts: int


@dataclass(kw_only=True)
class Slurm:
    """The running cluster; `environment` is what a command needs to talk to it."""

    folder: Path
    environment: dict[str, str]

    @cached_property
    def warm(self) -> dict[str, str]:
        """An environment in which jobs, and what they start, are warm processes: those that no test counts on anew."""
        path = f"{warm.lume_run_in(self.folder / 'bin')}:{self.environment['PATH']}"
        return self.environment | warm.rank_variables_of_runs(WARM_COMMANDS) | {"PATH": path}

    def call(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """What one of Slurm's commands prints; fails the test with the command's own words."""
        variables = environment or self.environment
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout

    def sbatch(self, script: str, *options: str) -> int:
        """Submit the text of a script, whose commands are warm; the number of its job."""
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".sh", delete=False) as file:
            file.write(f"#!/bin/bash\n{script}")
        return self.submit(Path(file.name), [], *options, environment=self.warm)

    def submit(
        self, script: Path, arguments: Sequence[str], *options: str, environment: Mapping[str, str] | None = None
    ) -> int:
        """Submit a script with its arguments; the number of its job (of an array: of all its tasks)."""
        place = ["--chdir", str(self.folder), "--output", str(self.folder / "%j.out"), "--open-mode=append"]
        number = self.call("sbatch", "--parsable", *place, *options, str(script), *arguments, environment=environment)
        return int(number.split(";")[0])

    def jobs(self, job: int) -> list[dict[str, str]]:
        """What Slurm knows of a job, or of every task of an array."""
        lines = self.call("scontrol", "show", "job", "--oneliner", str(job)).strip().split("\n")
        return [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in lines]

    def wait(self, job: int, seconds: float = 300) -> Ended:
        """Wait until a job (every task of an array) has ended; the first task that did not complete stands for all."""
        until_true(
            lambda: all(task["JobState"] in ENDED for task in self.jobs(job)), seconds, lambda: self.summary(job)
        )
        ends = [
            Ended(state=task["JobState"], code=int(task["ExitCode"].split(":")[0]), restarts=int(task["Restarts"]))
            for task in self.jobs(job)
        ]
        return next((end for end in ends if end.state != "COMPLETED"), ends[0])

    def printed(self, job: int) -> str:
        """What the job's script printed."""
        file = self.folder / f"{job}.out"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def summary(self, job: int) -> str:
        """All there is to say of a job that did not do what it should."""
        return f"{self.jobs(job)}\n{self.printed(job)}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """Two idle nodes; a test file imports this fixture by name."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if lacking:
        pytest.skip(f"no {', '.join(lacking)} here: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs, which takes root")
    with running() as slurm:
        yield slurm


@contextmanager
def running() -> Iterator[Slurm]:
    """Start the four daemons, and leave nothing behind."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path may have 107 characters only
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        write_files(folder)
        known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        environment = known | {"PATH": search_path(), "SLURM_CONF": str(folder / "slurm.conf")}
        slurm = Slurm(folder=folder, environment=environment)
        stack.callback(kill_left, folder)
        start(stack, slurm, "munged", *munge_options(folder))
        until_true((folder / "munge.socket").exists, 10, lambda: logs(folder))
        start(stack, slurm, "slurmctld", "-D", "-i")
        for node in NODES:
            start(stack, slurm, "slurmd", "-D", "-N", node, log=node)
        stack.callback(end_jobs, slurm)
        until_true(lambda: idle(slurm), 60, lambda: logs(folder))
        yield slurm


def search_path() -> str:
    """The commands of the environment that the tests run in, PATH, and the folders of daemons, which may lack there."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


def write_files(folder: Path) -> None:
    """Configuration, key and folders of a cluster."""
    folder.chmod(0o755)  # munged wants everybody to reach its socket
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    host = socket.gethostname().split(".")[0]
    config = CONFIG.format(host=host, folder=folder, cpus=CPUS, ports=free_ports(1 + len(NODES)))
    (folder / "slurm.conf").write_text(config, encoding="utf-8")


def munge_options(folder: Path) -> list[str]:
    """Where munged has its files."""
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    return ["--foreground", "--force", *(f"--{option}={folder}/munge.{end}" for option, end in files.items())]


def start(stack: ExitStack, slurm: Slurm, program: str, *options: str, log: str | None = None) -> None:
    """Start a daemon that ends with the stack, or with this process should that be killed."""
    with (slurm.folder / f"{log or program}.log").open("wb") as file:
        command = ["setpriv", "--pdeathsig", "TERM", program, *options]
        process = subprocess.Popen(
            command, env=slurm.environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )
    stack.callback(end, process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a daemon to end, and make it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_jobs(slurm: Slurm) -> None:
    """Cancel what still runs, so that no step outlives its slurmd."""
    subprocess.run(["scancel", "--user=root"], env=slurm.environment, timeout=20)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not idle(slurm):
        time.sleep(0.2)


def kill_left(folder: Path) -> None:
    """Kill processes that were started with this folder's configuration and are still there."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:  # ended meanwhile
            continue


def idle(slurm: Slurm) -> bool:
    """Whether both nodes wait for work."""
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T"]
    done = subprocess.run(command, env=slurm.environment, capture_output=True, text=True, timeout=20)
    return sorted(done.stdout.split("\n")[:-1]) == [f"{node} idle" for node in NODES]


def until_true(condition, seconds: float, describe) -> None:
    """Wait for something; fail with what `describe()` says where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain\n{describe()}")
        time.sleep(0.2)


def logs(folder: Path) -> str:
    """The daemons' own words."""
    return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in folder.glob("*.log"))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in held:
            listener.bind(("", 0))
        return [int(listener.getsockname()[1]) for listener in held]
