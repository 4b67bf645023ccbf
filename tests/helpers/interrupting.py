"""What the tests of interrupted runs share: a run folder, its driver as a real process, moments to strike at."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from helpers import warm
from helpers.shared import ROOT, shape
from lume_run.config.overrides import compose, conf_dir
from lume_run.pipeline.checks.config import require_settings
from lume_run.training.checkpoints import last_checkpoint, step_of

SMALL = (
    "task.num_documents=4",
    *shape(32, 2, 64),
    "trainer.train.epochs=2",
    "trainer.train.stop_accuracy=null",
    "trainer.unlearn.epochs=20",  # of three steps each
    "trainer.checkpoint_every=10",
    "trainer.keep_checkpoints=1",
    "evaluator.max_new_tokens=24",
    "evaluator.batch_tokens=64",
    "launch=single",
)
SECONDS = 240.0


@dataclass(frozen=True)
class End:
    """How a start ended: its exit code, all it printed, the step of the newest whole checkpoint it left."""

    code: int
    text: str
    step: int


@dataclass
class Runs:
    """A run folder that is started again and again."""

    folder: Path
    log: Path  # where it prints: not on a disk that is to be full
    overrides: tuple[str, ...] = ()

    @property
    def partial(self) -> Path:
        return self.folder / "unlearned.partial"

    @property
    def checkpoints(self) -> Path:
        return self.partial / "checkpoints"

    @property
    def step(self) -> int:
        """Of the newest whole checkpoint, 0 without one."""
        checkpoint = last_checkpoint(self.checkpoints)
        return step_of(checkpoint) if checkpoint else 0

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "unlearned" / "model" / "model.safetensors")

    def start(self, *changed: str, warm_ranks: str = "") -> warm.Process:
        """Start the driver; `warm_ranks`: a regular expression of the artifacts whose ranks are warm."""
        overrides = [*SMALL, *self.overrides, f"output_dir={self.folder.parent}", *changed]
        _, data = require_settings(compose(overrides, [conf_dir()]))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(data)), encoding="utf-8")
        environment = dict(os.environ)
        if warm_ranks:
            environment |= warm.rank_variables_of_runs(rf"lume_run\.pipeline\.rank .*{warm_ranks}")
        with self.log.open("wb") as file:
            return warm.start(str(self.folder), module="lume_run", cwd=ROOT, log=file, env=environment)

    def wait(self, process: warm.Process) -> End:
        """Wait for the driver."""
        code = process.wait(SECONDS)
        return End(code, self.log.read_text(encoding="utf-8"), self.step)

    def until(self, process: warm.Process, condition: Callable[[], object]) -> None:
        """Wait for a moment; fails if the driver ends before."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            text = self.log.read_text(encoding="utf-8")
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.003)

    def strike_and_wait(
        self,
        strike: Callable[[warm.Process], object],
        *changed: str,
        when: Callable[[], bool] | None = None,
        warm_ranks: str = "",
    ) -> End:
        """Start, strike at a moment (once there is a newer checkpoint), and see how it ends."""
        before = self.step
        process = self.start(*changed, warm_ranks=warm_ranks)
        self.until(process, when or (lambda: self.step > before))
        strike(process)
        return self.wait(process)

    def run_to_end(self, *changed: str) -> End:
        """Start and let it end."""
        return self.wait(self.start(*changed))

    @property
    def records(self) -> list[str]:
        """What the models answered so far, in evaluations that are under way."""
        files = sorted(self.folder.parent.glob("store/responses/*.partial/responses.partial.*.jsonl"))
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines(keepends=True)]

    @property
    def prompts(self) -> int:
        """How often the finished evaluations put a prompt to a model."""
        files = self.folder.parent.glob("store/responses/*/cost.json")
        return sum(cost["prompts"] for file in files for cost in json.loads(file.read_text(encoding="utf-8")).values())


def send(number: signal.Signals) -> Callable[[warm.Process], None]:
    """Send the driver a signal."""
    return lambda process: process.send_signal(number)


class Disk:
    """A disk of its own for a run, which can be made full: a small tmpfs, or else a limit on the size of files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"
        command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
        self.mounted = subprocess.run(command, capture_output=True).returncode == 0

    def fill(self, process: warm.Process) -> None:
        """Leave the run no room."""
        if not self.mounted:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            return
        with suppress(OSError), self.filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def relieve(self) -> None:
        """Make room again."""
        self.filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Give it back."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def ranks(folder: Path) -> list[int]:
    """Processes that work for a run folder, in the order of their ranks; the agent comes first."""
    pids = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            known = dict(pair.partition(b"=")[::2] for pair in (entry / "environ").read_bytes().split(b"\0"))
        except OSError:  # ended meanwhile
            continue
        if str(folder).encode() in words and b"lume_run.pipeline.rank" in words:
            pids[int(entry.name)] = int(known.get(b"RANK", b"-1"))
    return sorted(pids, key=pids.__getitem__)


def alive(pids: list[int]) -> list[int]:
    """Those that still run; one that nobody waited for is dead all the same."""
    left = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        left += [pid] if state not in "ZX" else []
    return left


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    """Whether processes are gone within a while."""
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pids)


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
