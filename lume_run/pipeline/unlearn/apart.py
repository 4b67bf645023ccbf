"""Requests apart: what each model answers about its own documents, put together as the answers of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lume_run.common.errors import ConfigError
from lume_run.common.files import write_json
from lume_run.common.jsonl import read_jsonl, write_jsonl
from lume_run.common.records import Response
from lume_run.common.store import Artifact
from lume_run.evaluation.saved_responses import COST, read_cost
from lume_run.pipeline.artifacts import EvaluatedModel, store_artifact
from lume_run.pipeline.checks.rows import unanswered_problems
from lume_run.pipeline.evaluate import responses_artifact
from lume_run.pipeline.run import Run


def answers_apart(run: Run, models: Sequence[EvaluatedModel], target: EvaluatedModel) -> list[Artifact]:
    """The answers of each model, and last those of all, in the order in which one model is asked.

    ConfigError where something is asked that is about none of the documents: no model would answer it.
    """
    about = {document for model in models for document in model.about}
    if problems := list(unanswered_problems(run.settings, run.questions_by_suite, about)):
        raise ConfigError(problems)
    parts = [
        responses_artifact(run, f"request {number}", model, target, title="unlearned responses, {}")
        for number, model in enumerate(models, 1)
    ]
    places = {question.example.id: place for place, question in enumerate(run.questions)}

    def build(folder: Path) -> None:
        rows: list[Response] = [row for part in parts for row in read_jsonl(part.path / "responses.jsonl", Response)]
        rows.sort(key=lambda row: places[row.id])
        write_jsonl(folder / "responses.jsonl", rows)
        total: dict[str, dict[str, float]] = {}
        for part in parts:
            for ask, counts in read_cost(part.path).items():
                so_far = total.setdefault(ask, {})
                total[ask] = {name: so_far.get(name, 0) + count for name, count in counts.items()}
        write_json(folder / COST, total)

    inputs = {"parts": [part.key for part in parts]}
    note = f"{len(parts)} models, each about its own documents"
    whole = store_artifact(run, "evaluate", "responses", inputs, build, name="unlearned responses", note=note)
    return [*parts, whole]
