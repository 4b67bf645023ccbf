"""Kill a small sweep and its report at random moments, start the same commands again, compare with undisturbed ones.

    python scripts/kill_anywhere.py [--compare] [--kills 50] [--seed 0] [--folder FOLDER]

Two methods train, unlearn and evaluate, then `lume-run-report` collects them: all stages, one after another. `kill -9`
hits every process of the command at once, at a moment drawn evenly from the time that the undisturbed commands take.
With `--compare` a comparison of two methods, tuned and run on two seeds, comes in place of the sweep.
Whatever was finished must still be there at the next start, and the final scores must be the same to the last digit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
SMALL = (
    "task.num_documents=3",
    "model.shape.hidden_size=32",
    "model.shape.heads=2",
    "model.shape.intermediate_size=64",
    "model.shape.vocabulary=400",
    "trainer.train.epochs=8",
    "trainer.train.stop_accuracy=null",
    "trainer.unlearn.epochs=12",
    "trainer.checkpoint_every=7",
    "evaluator.max_new_tokens=24",
    "evaluator.batch_tokens=64",
    "evaluator.resamples=200",
    "logger=none",
)
METHODS = "method=npo_gd,kl"
VOLATILE = ("seconds", "costs", "training", "versions")  # of report.json: times, memory


COMPARED = ("hydra.sweeper.n_trials=3", "hydra.sweeper.seeds=[0,1]", "objective=forget.knowledge")


def commands(outputs: Path) -> str:
    """The sweep, or the comparison in a folder of that name, and its report, as a line of the shell."""
    compares = outputs.parent.name == "compare"
    words = ["lume-run-compare", *COMPARED] if compares else ["lume-run", "-m"]
    sweep = [str(BIN / words[0]), *words[1:], METHODS, f"output_dir={outputs}", *SMALL]
    report = [str(BIN / "lume-run-report"), str(outputs), "--no-plots"]
    return f"{shlex.join(sweep)} && {shlex.join(report)}"


def start(outputs: Path) -> subprocess.Popen[bytes]:
    """Both commands in a session of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    with (outputs.parent / f"{outputs.name}.log").open("ab") as log:
        return subprocess.Popen(
            ["bash", "-c", commands(outputs)], env=environment, stdout=log, stderr=log, start_new_session=True
        )


def results(outputs: Path) -> dict[str, Any]:
    """All that the reports hold but times and memory, by run."""
    reports = sorted(outputs.glob("*-*/report.json"))
    values = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in reports}
    kept = {
        name: {key: value for key, value in report.items() if key not in VOLATILE} for name, report in values.items()
    }
    for path in outputs.glob("compare-*/comparison.json"):
        methods = json.loads(path.read_text(encoding="utf-8"))["methods"]
        kept[path.parent.name] = {row["method"]: {**row, "means": None} for row in methods}  # these hold times
    return kept


def finished(outputs: Path) -> set[str]:
    """The artifacts and reports that are whole, by their paths."""
    done = [path.parent for path in outputs.rglob("DONE.json") if not path.parent.name.endswith(".partial")]
    return {str(path.relative_to(outputs)) for path in (*done, *outputs.glob("*-*/report.json"))}


def stage_of(outputs: Path) -> str:
    """What was under way, by what lies there: the newest unfinished artifact, else what comes between."""
    partial = sorted(outputs.rglob("*.partial"), key=lambda path: path.stat().st_mtime)
    if partial:
        return partial[-1].name.split(".")[0] if partial[-1].parent.parent.name != "store" else partial[-1].parent.name
    reports = len(list(outputs.glob("*-*/report.json")))
    return "report" if reports == len(METHODS.split(",")) else "between stages" if finished(outputs) else "start"


def main() -> int:
    """Print how many kills hit what, and whether anything was lost; 1 where it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="a comparison in place of a sweep")
    parser.add_argument("--folder", type=Path, help="where the runs lie (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        folder = (given.folder or Path(scratch)) / ("compare" if given.compare else "sweep")
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        if start(folder / "undisturbed").wait():
            print((folder / "undisturbed.log").read_text(encoding="utf-8")[-2000:])
            return 1
        duration, expected = time.monotonic() - began, results(folder / "undisturbed")
        print(f"undisturbed: {duration:.0f} s, {len(expected)} runs", flush=True)
        faults = kill_again_and_again(folder, given.kills, random.Random(given.seed), duration, expected)
    return int(faults > 0)


def kill_again_and_again(
    folder: Path, kills: int, draw: random.Random, duration: float, expected: dict[str, Any]
) -> int:
    """The number of faults: something lost, a command that failed, other results."""
    hit: Counter[str] = Counter()
    faults = rounds = starts = 0
    while hit.total() < kills:
        rounds += 1
        outputs = folder / f"round{rounds}"
        outputs.mkdir()
        code: int | None = None
        while code is None:
            before, starts = finished(outputs), starts + 1
            process = start(outputs)
            try:
                code = process.wait(draw.uniform(0, duration) if hit.total() < kills else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                hit[stage_of(outputs)] += 1
            if lost := before - finished(outputs):
                faults += 1
                print(f"round {rounds}: lost {', '.join(sorted(lost))}", flush=True)
        if code or results(outputs) != expected:
            faults += 1
            print(f"round {rounds}: exit code {code}, results {'differ' if not code else 'missing'}", flush=True)
    print(f"{hit.total()} kills in {starts} starts of {rounds} rounds, {faults} faults")
    print("killed during: " + ", ".join(f"{stage} {count}" for stage, count in hit.most_common()))
    return faults


if __name__ == "__main__":
    sys.exit(main())
