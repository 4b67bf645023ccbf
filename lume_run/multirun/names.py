"""What a config's run is called and where it lives: the same config always has the same folder.

Neither Hydra nor torch is imported here, so that `lume-run --help` stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_name(data: dict[str, Any]) -> str:
    """`task-model-method-hash`: the same config always has the same folder, so the same command goes on."""
    from lume_run.config import identity
    from lume_run.store import content_hash

    def name(group: str) -> str:
        node = data.get(group)
        return str(node.get("name", group)) if isinstance(node, dict) else group

    stages = data.get("stages")
    alone = str(stages[0]) if isinstance(stages, list) and len(stages) == 1 else ""
    groups = {"score": [], "evaluate": ["task", "model"], "train": ["task", "model"]}.get(
        alone, ["task", "model", "method"]
    )
    return "-".join([*([alone] if alone else []), *map(name, groups), content_hash(identity(data))[:8]])


def run_folder(data: dict[str, Any]) -> Path:
    """Where this config's run lives."""
    return Path(str(data["output_dir"])) / run_name(data)
