"""What all stages share: the configured run with its data, and the passes of a fixed model over its rows.

Questioning may be killed at any moment and goes on from the records already written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lume_run.common.console import console
from lume_run.common.devices import device_of, dtype_of
from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.files import fingerprint
from lume_run.common.jsonl import write_jsonl
from lume_run.common.records import Ask, Example, Question, TaskData
from lume_run.config.settings import Settings
from lume_run.evaluation.inference.logprobs import NO_GRADIENT
from lume_run.evaluation.inference.requests import BATCH_ROWS
from lume_run.evaluation.inference.respond import answered, key_of, respond_share
from lume_run.evaluation.inference.runner import Runner
from lume_run.evaluation.inference.vllm import Engine, running
from lume_run.evaluation.questions import merged, questions_of
from lume_run.evaluation.suites.base import Harnessed
from lume_run.methods.base import Needs, Role
from lume_run.methods.objective import Objective
from lume_run.methods.refusals import REFUSALS, read_refusals
from lume_run.models.load import config_of, limit_of, load_model, load_tokenizer
from lume_run.models.placement import Placement, placement_of
from lume_run.models.tiny import olmo_config
from lume_run.parallel import World
from lume_run.reference import ReferenceCache
from lume_run.rows import examples_of, token_rows


@dataclass(frozen=True)
class Run:
    """One configured run and its folder; data are loaded once, when first needed."""

    settings: Settings
    folder: Path
    world: World = World()

    @cached_property
    def data(self) -> TaskData:
        """All examples of the task."""
        loaded: TaskData = self.settings.task.load(self.settings.seed)
        return loaded

    @cached_property
    def device(self) -> torch.device:
        """Where stages run."""
        return device_of(self.settings.launch.device)

    @cached_property
    def asked(self) -> dict[str, list[Question]]:
        """What each suite asks a model."""
        trained_here = not self.settings.model.is_target
        return questions_of(self.data, self.settings.evaluator, trained_here=trained_here)

    @cached_property
    def questions(self) -> list[Question]:
        """Everything a model is asked, once. ConfigError where the model could not answer as it lies."""
        found = merged(self.asked)
        if self.placement.offloads and any(question.ask is Ask.GRADIENT for question in found):
            raise ConfigError([Problem(where="evaluator.placement", what=f"{self.placement}", remedy=NO_GRADIENT)])
        return found

    @cached_property
    def placement(self) -> Placement:
        """Where an evaluated model lies; all models of a run are of one shape."""
        dtype = dtype_of(self.settings.model.dtype, self.device)
        return placement_of(self.settings.evaluator, self.model_config[0], self.device, dtype)

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """What moves numbers besides the model: precision, attention, device kind, row length, another's tokenizer."""
        model = self.settings.model
        dtype = str(dtype_of(model.dtype, self.device)).removeprefix("torch.")
        tokenizer = model.tokenizer or model.base  # the base's where none is beside the model
        return {
            "dtype": dtype,
            "device": self.device.type,
            "attention": model.attention,
            "max_length": model.max_length,
            "tokenizer": fingerprint(tokenizer) if tokenizer else None,
        }

    @cached_property
    def model_config(self) -> tuple[Any, str, str]:
        """(transformers config, where it is from, why not the model's own): OLMo of `model.shape` where it is not."""
        model = self.settings.model
        failure = ""
        if model.path is not None:
            try:
                return config_of(model.path, trust_remote_code=model.trust_remote_code), "its config", ""
            except RunError as error:
                failure = str(error)
        return (olmo_config(model.shape) if model.shape else None), "from model.shape", failure

    @cached_property
    def refusals(self) -> tuple[str, ...]:
        """What IDK answers are picked from."""
        method = self.settings.method
        own = method.idk_file if isinstance(method, Objective) else None
        return read_refusals(Path(own)) if own else REFUSALS

    def examples(self, needs: Needs) -> list[tuple[Role, Example]]:
        """The forget and retain examples in the roles a method reads."""
        data, seed = self.data, self.settings.seed
        return examples_of(needs.rows, data.forget, data.retain, refusals=self.refusals, seed=seed)


def build_reference(
    run: Run, target: str, examples: Sequence[tuple[Role, Example]], needs: Needs, folder: Path
) -> None:
    """Score these rows with the frozen target once."""
    settings = run.settings.model
    tokenizer = load_tokenizer(target, settings)
    model = load_model(target, settings, run.device)
    rows = token_rows(examples, tokenizer, needs=needs, max_tokens=limit_of(model.config, settings))
    ReferenceCache.compute(
        model, rows, pad_id=int(tokenizer.pad_token_id), batch_tokens=run.settings.evaluator.batch_tokens, folder=folder
    )


def answer(run: Run, questions: Sequence[Question], subject: str, path: str, folder: Path) -> None:
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
        generate(run, texts, title, path, folder, rank=rank, world=world)
        questions = [question for question in questions if question.ask not in (Ask.GENERATE, Ask.SAMPLE)]
    if questions:
        model = load_model(path, settings, run.device, rooms=place.rooms).eval()
        runner = runner_of(run, path, model, limit_of(model.config, settings))
        respond_share(runner, questions, folder, title, rank=rank, world=world)


def generate(
    run: Run, questions: Sequence[Question], title: str, path: str, folder: Path, *, rank: int, world: int
) -> None:
    """Have an engine generate this process's share of the texts, and end it."""
    settings = run.settings.model
    if set(answered(folder)).issuperset(map(key_of, questions)):  # also where there are none
        return
    config = config_of(path, trust_remote_code=settings.trust_remote_code)
    longest, devices = limit_of(config, settings), max(1, run.placement.gpus)
    seed = run.settings.seed
    with running(path, settings, run.device, max_length=longest, seed=seed, devices=devices) as engine:
        runner = runner_of(run, path, engine, longest)
        runner = replace(runner, batch_tokens=BATCH_ROWS * longest)  # it packs rows itself
        respond_share(runner, questions, folder, title, rank=rank, world=world)


def runner_of(run: Run, path: str, model: nn.Module | Engine, max_length: int) -> Runner:
    """A model as this run evaluates it."""
    evaluator = run.settings.evaluator
    return Runner(
        model=model,
        tokenizer=load_tokenizer(path, run.settings.model),
        max_new_tokens=evaluator.max_new_tokens,
        max_length=max_length,
        batch_tokens=evaluator.batch_tokens,
        temperature=evaluator.temperature,
        seed=run.settings.seed,
    )


def measure(run: Run, suite: Harnessed, path: str, folder: Path) -> None:
    """Have a suite run its own library on the model at `path`; its scores go into `folder/scores.jsonl`."""
    model = load_model(path, run.settings.model, run.device, rooms=run.placement.rooms).eval()
    write_jsonl(folder / "scores.jsonl", suite.measure(model, load_tokenizer(path, run.settings.model)))
