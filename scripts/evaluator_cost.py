"""What `evaluator=full` costs against its evaluators one by one: model runs, generated tokens, seconds.

    python scripts/evaluator_cost.py [--evaluators lume memorisation ...] [OVERRIDE ...]

The target of the composed run (the embedded default unless overrides say otherwise; it is trained where it is not in
the store) answers the questions of every evaluator in a folder of its own, then those of `full` once. A run is one
prompt or answer through the model once, whatever the batch; a pass is one forward call of a batch. Scores come from
the responses alone and must agree with those of `full`.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from lume_run.common.console import console
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Response
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import Settings
from lume_run.evaluation.inference.respond import gather_responses
from lume_run.evaluation.questions import suites_of
from lume_run.evaluation.saved_responses import read_cost
from lume_run.evaluation.scoring import score_answers
from lume_run.evaluation.suites.base import Answers
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.evaluate import answer_questions
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run

COLUMNS = ("prompts", "passes", "tokens", "seconds")


def settings_of(evaluator: str, overrides: list[str]) -> Settings:
    """The checked settings of a run with one evaluator."""
    settings, _ = require_settings(compose([f"evaluator={evaluator}", *overrides], [conf_dir()]))
    return settings


def cost_of(settings: Settings, path: str, folder: Path) -> tuple[dict[str, float], dict[str, float | None]]:
    """(what one evaluator costs in all asks, its scores) with the model at `path`; judges are not counted."""
    run = Run(settings, folder)
    began = time.monotonic()
    if run.questions:
        answer_questions(run, run.questions, "target", path, folder)
        gather_responses(run.questions, folder)
    spent = time.monotonic() - began
    asks = read_cost(folder).values()
    total = {column: float(sum(of_ask[column] for of_ask in asks)) for column in COLUMNS} | {"seconds": spent}
    responses = read_jsonl(folder / "responses.jsonl", Response) if run.questions else []
    scores, _ = score_answers(Answers(responses=responses, evaluator=settings.evaluator))
    return total, {score.name: score.value for score in scores}


def main() -> None:
    """Measure, compare the scores, print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluators", nargs="+", default=list(suites_of(settings_of("full", []).evaluator)))
    parser.add_argument("overrides", nargs="*", help="overrides of lume-run, such as task=lume")
    options = parser.parse_args()
    full = settings_of("full", options.overrides)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (target,) = (artifact for artifact in plan(Run(full, folder)).artifacts if artifact.name == "target")
        for artifact in plan(Run(full, folder)).artifacts:
            artifact.make()
            if artifact.path == target.path:
                break
        costs: dict[str, dict[str, float]] = {}
        alone: dict[str, Any] = {}
        for name in options.evaluators:
            (folder / name).mkdir()
            costs[name], scores_alone = cost_of(settings_of(name, options.overrides), str(target.path), folder / name)
            alone |= scores_alone
        (folder / "full").mkdir()
        together, scores = cost_of(full, str(target.path), folder / "full")
    differing = [name for name, value in alone.items() if not same(value, scores.get(name))]
    total = {column: sum(cost[column] for cost in costs.values()) for column in COLUMNS}
    console.print("| evaluator | " + " | ".join(COLUMNS) + " |\n| --- |" + " ---: |" * len(COLUMNS))
    for name, cost in (*costs.items(), ("sum", total), ("full", together)):
        console.print(
            f"| {name} | " + " | ".join(f"{cost[column]:,.{int(column == 'seconds')}f}" for column in COLUMNS) + " |"
        )
    ratios = " | ".join(f"{total[column] / together[column]:.2f}" if together[column] else "" for column in COLUMNS)
    console.print(f"| sum / full | {ratios} |")
    console.print(
        f"{len(alone) - len(differing)} of {len(alone)} scores equal; differing: {', '.join(differing) or 'none'}"
    )


def same(first: float | None, second: float | None) -> bool:
    """Equal to float32 rounding, or both missing."""
    return first is second or (
        first is not None and second is not None and math.isclose(first, second, rel_tol=1e-4, abs_tol=1e-6)
    )


if __name__ == "__main__":
    main()
