"""Artifacts of the evaluate stage: the responses of a model to the run's questions, and the scores of harnesses.

Answering may be killed at any moment, and resumes from the records already written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lume_run.common.console import console
from lume_run.common.errors import RunError
from lume_run.common.files import content_hash
from lume_run.common.jsonl import to_json, write_jsonl
from lume_run.common.records import TEXTS, Ask, Question
from lume_run.common.store import Artifact
from lume_run.evaluation.questions import harnesses
from lume_run.evaluation.suites.base import Harnessed
from lume_run.models.load import borrow_model, config_of, context_limit
from lume_run.models.rows.text_format import turn_ends
from lume_run.models.tokenizer import load_tokenizer
from lume_run.pipeline.artifacts import EvaluatedModel, Reinforced, data_for_hash, store_artifact
from lume_run.pipeline.memory.cost import answering_tokens
from lume_run.pipeline.run import Run

if TYPE_CHECKING:
    from torch import nn

    from lume_run.evaluation.inference.loaded_model import LoadedModel
    from lume_run.evaluation.inference.vllm import Engine

NOTHING_ASKED = "0 prompts: no suite asks what it could put differently"
RECORDS = 4  # version of the response records: raise it when responses hold more than they did


def answer_questions(
    run: Run, questions: Sequence[Question], name: str, asked: EvaluatedModel, folder: Path, *, into: str | None = None
) -> None:
    """Have a model, called `name` in the report, answer this process's share of the questions.

    `into` is where the model from before unlearning lies, which is held beside it where its states are put into that.
    """
    from lume_run.evaluation.inference.respond import respond_share

    placement, path = run.placement, asked.path
    if placement.share is None:  # another process answers for this node
        return
    if placement.rooms is not None or run.device_type != "cpu":
        console.print(f"  {placement}", soft_wrap=True)
    rank, world = placement.share
    title = f"evaluate {name}"
    if run.settings.evaluator.backend == "vllm":
        texts = [question for question in questions if question.ask in TEXTS]
        generate_with_engine(run, texts, title, path, folder, rank=rank, world=world)
        questions = [question for question in questions if question.ask not in TEXTS]
    if questions:
        model = evaluated_network(run, path)
        if asked.reinforced is not None:
            model = join_models(run, model, asked.reinforced)
        loaded = loaded_model(run, path, model, context_limit(model.config, run.settings.model), questions)
        patched = [question for question in questions if question.ask is Ask.PATCH]
        others = [question for question in questions if question.ask is not Ask.PATCH]
        if others:
            respond_share(loaded, others, folder, title, rank=rank, world=world)
        if patched:
            assert into is not None
            loaded = replace(loaded, into=model if into == path else evaluated_network(run, into))
            respond_share(loaded, patched, folder, f"{title}, patched", rank=rank, world=world)


def evaluated_network(run: Run, path: str) -> nn.Module:
    """The model at a path, placed as this run evaluates models."""
    rooms, quantised = run.placement.rooms, run.evaluates_quantised
    model: nn.Module = borrow_model(path, run.settings.model, run.device, rooms=rooms, quantised=quantised).eval()
    return model


def join_models(run: Run, target: nn.Module, reinforced: Reinforced) -> nn.Module:
    """The target beside a reinforced model; RunError where one cache cannot serve both."""
    from lume_run.evaluation.inference.joined import JoinedModel
    from lume_run.evaluation.inference.loaded_model import is_decoded_here

    joined = JoinedModel(target, evaluated_network(run, reinforced.path), reinforced.alpha).eval()
    if not is_decoded_here(joined):
        raise RunError(
            "method=whp runs two models token by token, and transformers' own loop generates the texts of this one, "
            "for its state or its generation config; take another method, or remove penalties from its "
            "generation_config.json."
        )
    return joined


def generate_with_engine(
    run: Run, questions: Sequence[Question], title: str, path: str, folder: Path, *, rank: int, world: int
) -> None:
    """Have an engine generate this process's share of the texts, and end it."""
    from lume_run.evaluation.inference.requests import BATCH_ROWS
    from lume_run.evaluation.inference.respond import key_of, read_partial_responses, respond_share
    from lume_run.evaluation.inference.vllm import start_engine

    model_settings = run.settings.model
    if set(read_partial_responses(folder)).issuperset(map(key_of, questions)):  # also where there are none
        return
    config = config_of(path, model_settings)
    longest, devices = context_limit(config, model_settings), max(1, run.placement.gpus)
    seed = run.settings.seed
    with start_engine(path, model_settings, run.device, max_length=longest, seed=seed, devices=devices) as engine:
        loaded = loaded_model(run, path, engine, longest, questions)
        loaded = replace(loaded, batch_tokens=BATCH_ROWS * longest)  # it packs rows itself
        respond_share(loaded, questions, folder, title, rank=rank, world=world)


def loaded_model(
    run: Run, path: str, model: nn.Module | Engine, max_length: int, questions: Sequence[Question]
) -> LoadedModel:
    """A model as this run asks it these questions."""
    from lume_run.evaluation.inference.loaded_model import LoadedModel

    evaluator, tokenizer = run.settings.evaluator, load_tokenizer(path, run.settings.model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        max_new_tokens=evaluator.max_new_tokens,
        max_length=max_length,
        batch_tokens=evaluator.batch_tokens,
        temperature=evaluator.temperature,
        seed=run.settings.seed,
        max_total_tokens=evaluator.max_total_tokens,
        turn_ends=turn_ends(questions, tokenizer),
    )


def gather_answers(questions: Sequence[Question], folder: Path) -> None:
    """Put together what the processes that answered left in a folder."""
    from lume_run.evaluation.inference.respond import gather_responses

    gather_responses(questions, folder)


def bits_of(run: Run) -> dict[str, Any]:
    """The bits in which a model is evaluated alone, where they are not its own."""
    return {"quantize": run.settings.model.quantize} if run.evaluates_quantised else {}


def run_harness(run: Run, suite: Harnessed, path: str, folder: Path) -> None:
    """Have a suite run its own library on the model at `path`; its scores go into `folder/scores.jsonl`."""
    model = evaluated_network(run, path)
    write_jsonl(folder / "scores.jsonl", suite.measure(model, load_tokenizer(path, run.settings.model)))


def responses_artifact(
    run: Run, name: str, model: EvaluatedModel, into: EvaluatedModel | None = None, *, title: str = "{} responses"
) -> Artifact:
    """Everything one model answers, in the store under the model and the questions; `title` is the artifact's name.

    States are put `into` the model from before unlearning; without one such questions are left out.
    """
    evaluator, questions = run.settings.evaluator, model.questions_in_context(run.questions)
    questions = [question for question in questions if question.ask is not Ask.PATCH or into is not None]
    asks = {question.ask for question in questions}
    sampling = {"temperature": evaluator.temperature, "seed": run.settings.seed} if Ask.SAMPLE in asks else None
    asked = [
        [question.ask, question.variant, question.limit, to_json(question.example), *(["moments"] * question.moments)]
        for question in questions
    ]
    inputs: dict[str, Any] = {
        "model": model.key,
        "records": RECORDS,
        "questions": content_hash(asked),
        "sampling": sampling,
        "max_new_tokens": evaluator.max_new_tokens,
        "numerics": run.numerics,
        **({"backend": evaluator.backend} if evaluator.backend != "transformers" else {}),
        **bits_of(run),
        **({"reinforced": [model.reinforced.key, model.reinforced.alpha]} if model.reinforced else {}),
        **({"into": into.key} if Ask.PATCH in asks and into is not None else {}),
        **({"max_total_tokens": evaluator.max_total_tokens} if evaluator.max_total_tokens else {}),
    }
    return store_artifact(
        run,
        "evaluate",
        "responses",
        inputs,
        lambda folder: answer_questions(run, questions, name, model, folder, into=into.path if into else None),
        name=title.format(name),
        note=_prompts_note(questions, model),
        share=True,
        gather=lambda folder: gather_answers(questions, folder),
        tokens=lambda: answering_tokens(run, questions, networks=1 if model.reinforced is None else 2),
    )


def _prompts_note(questions: Sequence[Question], model: EvaluatedModel) -> str:
    beside = f", beside the reinforced model at alpha {model.reinforced.alpha:g}" if model.reinforced else ""
    return (
        f"{len(questions)} prompts{beside}" if questions else "0 prompts: no suite asks what it could put differently"
    )


def harness_artifacts(run: Run, name: str, model: EvaluatedModel) -> list[Artifact]:
    """The scores that harnesses take from one model; none of what they do not know: a context, a model beside."""
    if model.context or model.reinforced:
        return []
    artifacts = []
    for title, suite in harnesses(run.settings.evaluator).items():
        inputs = {"model": model.key, "suite": data_for_hash(suite), **suite.identity(), "numerics": run.numerics}
        inputs |= bits_of(run)

        def build(folder: Path, suite: Harnessed = suite) -> None:
            run_harness(run, suite, model.path, folder)

        artifacts.append(store_artifact(run, "evaluate", "measured", inputs, build, name=f"{name} {title}"))
    return artifacts
