"""Show that a change leaves losses and scores alone: six small runs before and after it, compared digit by digit.

    python scripts/loss_trajectories.py record before --checkout ../other-checkout
    python scripts/loss_trajectories.py record after
    python scripts/loss_trajectories.py compare before after

A record is a folder of ordinary runs that share one target. What is compared: every number of every optimisation's
`history.json`, and `report.json` without times, costs and paths.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUNS = {
    "npo_gd": ["method=npo_gd"],
    "me_gd": ["method=me_gd"],
    "idk_ap": ["method=idk_ap"],
    "kl_lora": ["method=kl", "model.lora=true"],
    "rmu": ["method=rmu"],
    "ties": ["method=ties", "model.lora=true"],
}
COMMON = ["task.num_documents=6", "trainer.train.epochs=20", "trainer.unlearn.epochs=4", "logger=none"]
UNSTABLE = {"seconds", "manifest", "costs", "name", "config_hash"}  # of report.json: times, versions, paths, keys
MEASURED = {"peak_memory_bytes", "seconds_per_step"}  # below it, wherever they stand


def record(folder: Path, checkout: Path) -> None:
    """Make the six runs with the code of `checkout`."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    for name, overrides in RUNS.items():
        place = [f"output_dir={folder.resolve()}", f"hydra.run.dir={folder.resolve() / name}"]
        command = [sys.executable, "-m", "lume_run.cli", *COMMON, *overrides, *place]
        subprocess.run(command, check=True, cwd=checkout, env=environment)


def numbers(folder: Path) -> dict[str, Any]:
    """{where: value} of all six runs: each history by run and artifact, each report."""
    values: dict[str, Any] = {}
    for name in RUNS:
        artifacts = json.loads((folder / name / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
        for artifact, place in artifacts.items():
            for history in (Path(place) / "history.json", Path(place).parent / "history.json"):
                if history.exists():
                    values |= leaves(json.loads(history.read_text(encoding="utf-8")), f"{name}/{artifact}")
        report = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))
        values |= leaves({key: value for key, value in report.items() if key not in UNSTABLE}, f"{name}/report")
    return values


def leaves(node: Any, where: str) -> dict[str, Any]:
    """The scalars below a JSON node by their path."""

    def walk(node: Any, where: str) -> Iterator[tuple[str, Any]]:
        inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
        if inside is None:
            yield where, node
        for key, value in inside or ():
            yield from walk(value, f"{where}.{key}")

    return {path: value for path, value in walk(node, where) if path.rpartition(".")[2] not in MEASURED}


def compare(before: Path, after: Path) -> int:
    """Print what differs; 0 when nothing does."""
    old, new = numbers(before), numbers(after)
    different = sorted(where for where in old.keys() | new.keys() if old.get(where) != new.get(where))
    for where in different[:40]:
        print(f"{where}: {old.get(where)!r} -> {new.get(where)!r}")
    print(f"{len(old)} numbers and words before, {len(new)} after, {len(different)} differ")
    return 1 if different else 0


def main() -> int:
    """Record or compare, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record")
    recorder.add_argument("folder", type=Path)
    recorder.add_argument("--checkout", type=Path, default=Path(__file__).parents[1])
    comparer = commands.add_parser("compare")
    comparer.add_argument("before", type=Path)
    comparer.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(given.folder, given.checkout)
        return 0
    return compare(given.before, given.after)


if __name__ == "__main__":
    sys.exit(main())
