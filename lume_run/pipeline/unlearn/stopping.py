"""MUSE's stopping rule: of the model after each epoch, the first that knows no more than a retrained one.

The paper (Shi et al., arXiv:2407.06460) stops at the first epoch, of ten at most, whose knowledge of the
retain set is below that of the retrained model; its released script compares the knowledge of the forget set. All
epochs are trained and kept, then asked, as the script does; the last is taken where no epoch qualifies.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.files import content_hash, write_json
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Kind, Question, Response
from lume_run.common.store import Artifact, link_or_copy
from lume_run.evaluation.metrics.muse import knowledge_memorisation
from lume_run.evaluation.suites.muse import MUSE_VARIANT
from lume_run.methods.objective import Objective
from lume_run.pipeline.artifacts import EvaluatedModel, store_artifact, unlearned_artifact
from lume_run.pipeline.evaluate import responses_artifact
from lume_run.pipeline.memory.cost import unlearning_tokens
from lume_run.pipeline.run import Run
from lume_run.pipeline.train import retrained_model, run_training, steps_of
from lume_run.pipeline.unlearn.prepare import prepare
from lume_run.pipeline.unlearn.recipes import unlearning_artifacts, unlearning_inputs, unlearning_job
from lume_run.training.job import snapshot_folder

KNOWLEDGE_RULE = "method.stop_when.knowledge"


def request_artifacts(
    run: Run,
    target: EvaluatedModel,
    base: Artifact | None,
    reference: EvaluatedModel | None = None,
    shared: Artifact | None = None,
) -> tuple[list[Artifact], EvaluatedModel]:
    """The artifacts of the run's method in order, and the unlearned model; see `unlearning_artifacts`.

    ConfigError where the rule of `method.stop_when.knowledge` has nothing to ask or to compare with.
    """
    method = run.settings.method
    if not isinstance(method, Objective) or method.stop_when.knowledge is None:
        return unlearning_artifacts(run, target, base, reference, shared)
    if problems := rule_problems(run):
        raise ConfigError(problems)
    phase, prepared = run.settings.trainer.unlearn, prepare(run, method, reference or target, shared)
    steps = epoch_steps(run)
    inputs = unlearning_inputs(run, method, target, phase, prepared) | {"steps": steps, "seed": run.settings.seed}

    def build(folder: Path) -> None:
        job = unlearning_job(run, method, target, phase, prepared)
        run_training(run, "unlearn", replace(job, snapshots=tuple(sorted(set(steps)))), folder, folder)

    note = f"the model after each of {len(steps)} epochs ({', '.join(map(str, steps))} steps)"
    tokens = partial(unlearning_tokens, run, method.needs, phase)
    epochs = store_artifact(run, "unlearn", "epochs", inputs, build, note=note, share=True, tokens=tokens)
    asks = partial(knowledge_questions, method.stop_when.knowledge)
    retrained, before = retrained_model(run, base)
    models = [
        EvaluatedModel(path=str(snapshot_folder(epochs.path, step)), key=content_hash([epochs.key, step]), rewrite=asks)
        for step in steps
    ]
    answers = [responses_artifact(run, f"epoch {number}", model) for number, model in enumerate(models, 1)]
    of_retrained = responses_artifact(run, "retrained", replace(retrained, rewrite=asks), title="{} knowledge")
    chosen = chosen_artifact(run, epochs, steps, answers, of_retrained)
    artifacts = [*prepared.artifacts, epochs, *before, of_retrained, *answers, chosen]
    return artifacts, EvaluatedModel.of(chosen, "model")


def rule_problems(run: Run) -> list[Problem]:
    """Whether there are questions to ask, a model to compare with, and epochs."""
    model, evaluator = run.settings.model, run.settings.evaluator
    problems = []
    if not knowledge_questions(run.settings.method.stop_when.knowledge, run.questions):
        what = "the rule asks what evaluator=muse asks about knowledge, and there is no such question"
        problems.append(
            Problem(where=KNOWLEDGE_RULE, what=what, remedy="evaluator=muse with task=muse_raw or task=muse")
        )
    if evaluator.retrained_model is None and model.is_target and not model.base:
        what = "the rule compares with a retrained model, and a released target cannot be retrained without its base"
        remedy = "evaluator.retrained_model=FOLDER_OR_ID, or model.base=FOLDER_OR_ID"
        problems.append(Problem(where=KNOWLEDGE_RULE, what=what, remedy=remedy))
    if run.settings.trainer.unlearn.chunk_size is not None:
        what = "with chunk_size there is no epoch over all rows to stop after"
        problems.append(Problem(where=KNOWLEDGE_RULE, what=what, remedy="trainer.unlearn.chunk_size=null"))
    return problems


def knowledge_questions(side: str | None, questions: Sequence[Question]) -> list[Question]:
    """MUSE's questions about what the texts of a side say."""
    return [
        question
        for question in questions
        if question.variant == MUSE_VARIANT and question.example.kind is Kind.QUESTION
        if question.example.split == side
    ]


def epoch_steps(run: Run) -> list[int]:
    """The steps after which 1, 2, ... epochs over the forget rows are done; two may end with the same step."""
    phase, rows = run.settings.trainer.unlearn, len(run.data.forget)
    retain = any(not role.is_forget for role in run.settings.method.needs.rows)
    epochs = range(1, ceil(phase.epochs) + 1)
    return [steps_of(replace(phase, epochs=min(n, phase.epochs)), rows, retain=retain) for n in epochs]


def chosen_artifact(
    run: Run, epochs: Artifact, steps: Sequence[int], answers: Sequence[Artifact], of_retrained: Artifact
) -> Artifact:
    """The unlearned model: that of the epoch which the rule takes."""
    side = run.settings.method.stop_when.knowledge

    def build(folder: Path) -> None:
        values, bound = [knowledge(artifact) for artifact in answers], knowledge(of_retrained)
        number = first_epoch(values, bound, strictly=side == "retain")
        place = number or len(steps)
        known = f"knowledge of {side} {values[place - 1]:.4g}, retrained {bound:.4g}"
        reason = f"{known}: {KNOWLEDGE_RULE}={side} took epoch {place} of {len(steps)}"
        outcome = json.loads((epochs.path / "outcome.json").read_text(encoding="utf-8"))
        outcome |= {"steps": steps[place - 1], "stopped": reason if number else f"{reason}, as none qualifies"}
        write_json(folder / "outcome.json", outcome | {"knowledge": values, "retrained_knowledge": bound})
        shutil.copy2(epochs.path / "history.json", folder / "history.json")
        shutil.rmtree(folder / "model", ignore_errors=True)
        shutil.copytree(snapshot_folder(epochs.path, steps[place - 1]), folder / "model", copy_function=link_or_copy)

    inputs = {"epochs": epochs.key, "answers": [artifact.key for artifact in (*answers, of_retrained)], "side": side}
    note = (
        f"the first epoch whose knowledge of {side} is {'below' if side == 'retain' else 'not above'} the retrained's"
    )
    return unlearned_artifact(run, inputs, build, note)


def knowledge(artifact: Artifact) -> float:
    """The mean ROUGE-L F1 of a model's answers, 0 to 1."""
    rows = read_jsonl(artifact.path / "responses.jsonl", Response)
    return statistics.fmean(knowledge_memorisation(row.expected, row.output or "") for row in rows)


def first_epoch(values: Sequence[float], bound: float, *, strictly: bool) -> int | None:
    """The first epoch, from 1, whose value is below the bound, or without `strictly` not above it; None without one."""
    return next((n for n, value in enumerate(values, 1) if value < bound or (value == bound and not strictly)), None)
