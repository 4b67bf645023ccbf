"""Run the four LUME baselines on the three LUME tasks and on all of them, and write the table.

    python scripts/lume_table.py DATA_DIR [--documents 20] [--mmlu DIR] [--out outputs/results-lume.md] [override ...]

Each run is an ordinary `lume-run` command; runs of one task share their target. What is done is kept,
so the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from method_table import run

TASKS = ("novels", "bios", "wiki", "lume")
METHODS = ("ga", "gd", "kl", "npo")
SCORES = (
    "forget.regurgitation",
    "forget.knowledge",
    "retain.regurgitation",
    "retain.knowledge",
    "mia.auc",
    "mmlu.accuracy",
    "task_aggregate",
    "aggregate",
)


def cell(value: float | None) -> str:
    """Three digits, or n/a."""
    return "n/a" if value is None else f"{value:.3f}"


def main() -> None:
    """Run all pairs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--mmlu", help="folder of the MMLU CSV files")
    parser.add_argument("--mmlu-limit", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--out", type=Path, default=Path("outputs/results-lume.md"))
    known, overrides = parser.parse_known_args()
    common = [
        f"output_dir={known.output_dir}",
        f"task.data_dir={known.data_dir}",
        f"task.num_documents={known.documents}",
        *overrides,
    ]
    if known.mmlu:
        common += [f"evaluator.mmlu.data_dir={known.mmlu}", f"evaluator.mmlu.limit={known.mmlu_limit}"]
    lines = ["| task | method | " + " | ".join(SCORES) + " | gate |", "|" + " --- |" * (len(SCORES) + 3)]
    for task, method in itertools.product(TASKS, known.methods):
        report = run(method, 0, [f"task={task}", *common])
        scores, gate = report["scores"], report["mmlu_gate"]["passed"]
        if method == known.methods[0]:
            lines.append(
                f"| {task} | (target) | " + " | ".join(cell(scores[f"target.{name}"]) for name in SCORES) + " | |"
            )
        verdict = {True: "pass", False: "FAIL", None: "n/a"}[gate]
        values = " | ".join(cell(scores[f"unlearned.{name}"]) for name in SCORES)
        lines.append(f"| {task} | {method} | {values} | {verdict} |")
        known.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
