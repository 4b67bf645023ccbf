"""What all stages share: the configured run with its data, and the passes of a fixed model over its rows.

Questioning may be killed at any moment and goes on from the records already written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lume_run.common.console import console
from lume_run.common.files import content_hash
from lume_run.common.jsonl import to_json, write_jsonl
from lume_run.common.records import Ask, Question
from lume_run.common.store import Artifact
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.evaluation.inference.requests import BATCH_ROWS
from lume_run.evaluation.inference.respond import gather_responses, key_of, read_partial_responses, respond_share
from lume_run.evaluation.inference.vllm import Engine, start_engine
from lume_run.evaluation.questions import harnesses
from lume_run.evaluation.suites.base import Harnessed
from lume_run.models.load import config_of, context_limit, load_model, load_tokenizer
from lume_run.pipeline.artifacts import EvaluatedModel, data_for_hash, store_artifact
from lume_run.pipeline.run import Run

RECORDS = 3  # raise it when responses hold more than they did


def answer_questions(run: Run, questions: Sequence[Question], subject: str, path: str, folder: Path) -> None:
    """Put this process's share of the questions to the model at `path`."""
    settings, evaluator, place = run.settings.model, run.settings.evaluator, run.placement
    if place.share is None:  # another process answers for this node
        return
    if place.rooms is not None or run.device.type != "cpu":
        console.print(f"  {place}", soft_wrap=True)
    rank, world = place.share
    title = f"evaluate {subject}"
    if evaluator.backend == "vllm":
        texts = [question for question in questions if question.ask in (Ask.GENERATE, Ask.SAMPLE)]
        generate_with_engine(run, texts, title, path, folder, rank=rank, world=world)
        questions = [question for question in questions if question.ask not in (Ask.GENERATE, Ask.SAMPLE)]
    if questions:
        model = load_model(path, settings, run.device, rooms=place.rooms).eval()
        runner = runner_of(run, path, model, context_limit(model.config, settings))
        respond_share(runner, questions, folder, title, rank=rank, world=world)


def generate_with_engine(
    run: Run, questions: Sequence[Question], title: str, path: str, folder: Path, *, rank: int, world: int
) -> None:
    """Have an engine generate this process's share of the texts, and end it."""
    settings = run.settings.model
    if set(read_partial_responses(folder)).issuperset(map(key_of, questions)):  # also where there are none
        return
    config = config_of(path, trust_remote_code=settings.trust_remote_code)
    longest, devices = context_limit(config, settings), max(1, run.placement.gpus)
    seed = run.settings.seed
    with start_engine(path, settings, run.device, max_length=longest, seed=seed, devices=devices) as engine:
        runner = runner_of(run, path, engine, longest)
        runner = replace(runner, batch_tokens=BATCH_ROWS * longest)  # it packs rows itself
        respond_share(runner, questions, folder, title, rank=rank, world=world)


def runner_of(run: Run, path: str, model: nn.Module | Engine, max_length: int) -> LoadedModel:
    """A model as this run evaluates it."""
    evaluator = run.settings.evaluator
    return LoadedModel(
        model=model,
        tokenizer=load_tokenizer(path, run.settings.model),
        max_new_tokens=evaluator.max_new_tokens,
        max_length=max_length,
        batch_tokens=evaluator.batch_tokens,
        temperature=evaluator.temperature,
        seed=run.settings.seed,
    )


def run_harness(run: Run, suite: Harnessed, path: str, folder: Path) -> None:
    """Have a suite run its own library on the model at `path`; its scores go into `folder/scores.jsonl`."""
    model = load_model(path, run.settings.model, run.device, rooms=run.placement.rooms).eval()
    write_jsonl(folder / "scores.jsonl", suite.measure(model, load_tokenizer(path, run.settings.model)))


def responses_artifact(run: Run, name: str, subject: EvaluatedModel) -> Artifact:
    """Everything one model answers, in the store under the model and the questions."""
    evaluator, questions = run.settings.evaluator, subject.asked(run.questions)
    samples = any(question.ask is Ask.SAMPLE for question in questions)
    sampling = {"temperature": evaluator.temperature, "seed": run.settings.seed} if samples else None
    made_from: dict[str, Any] = {
        "model": subject.key,
        "records": RECORDS,
        "questions": content_hash([[one.ask, one.variant, one.limit, to_json(one.example)] for one in questions]),
        "sampling": sampling,
        "max_new_tokens": evaluator.max_new_tokens,
        "numerics": run.numerics,
        **({"backend": evaluator.backend} if evaluator.backend != "transformers" else {}),
    }
    return store_artifact(
        run,
        "evaluate",
        "responses",
        made_from,
        lambda folder: answer_questions(run, questions, name, subject.path, folder),
        name=f"{name} responses",
        note=f"{len(questions)} prompts",
        share=True,
        gather=lambda folder: gather_responses(questions, folder),
    )


def harness_artifacts(run: Run, name: str, subject: EvaluatedModel) -> list[Artifact]:
    """The scores that harnesses take from one model; none of a model that answers in a context they do not know."""
    if subject.context:
        return []
    found = []
    for title, suite in harnesses(run.settings.evaluator).items():
        made_from = {"model": subject.key, "suite": data_for_hash(suite), **suite.identity(), "numerics": run.numerics}

        def build(folder: Path, suite: Harnessed = suite) -> None:
            run_harness(run, suite, subject.path, folder)

        found.append(store_artifact(run, "evaluate", "measured", made_from, build, name=f"{name} {title}"))
    return found
