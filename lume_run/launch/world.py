"""How many processes share a stage, on how many nodes, and what DeepSpeed has them share out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lume_run.common.files import write_json

STOP, WORLD = "STOP", "world.json"
ZERO_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3_offload": 3}


@dataclass(frozen=True, kw_only=True)
class World:
    """How many processes share a stage, what they share (`mode` is a name of conf/launch), and why that was chosen.

    `memory` is the bytes of a device, as all of them are to reckon with (None: as each finds out).
    """

    mode: str = "single"
    processes: int = 1
    nodes: int = 1
    port: int | None = None
    device: str = "cpu"
    memory: int | None = None
    why: str = ""

    @property
    def size(self) -> int:
        """All processes."""
        return self.processes * self.nodes

    @property
    def stage(self) -> int:
        """The ZeRO stage, 0 without DeepSpeed."""
        return ZERO_STAGES.get(self.mode, 0)

    @property
    def needs_torchrun(self) -> bool:
        """Whether stages run in processes started by torchrun, whose environment DeepSpeed needs even for one."""
        return self.size > 1 or self.stage > 0

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        return f"{self.mode}, {processes}" + (f" on each of {self.nodes} nodes" if self.nodes > 1 else "")

    def write(self, folder: Path, name: str = WORLD) -> None:
        """Write it into a run folder for the ranks, or into a checkpoint."""
        write_json(folder / name, asdict(self))

    @classmethod
    def read(cls, folder: Path, name: str = WORLD) -> World:
        """What the driver decided; one process where nothing was written."""
        path = folder / name
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()
