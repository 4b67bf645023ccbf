"""The pipeline as a list of artifacts: train -> unlearn -> evaluate, each made from files into files.

`plan` says what a run consists of without touching a weight; making the artifacts in order is
the run. What an artifact depends on is written beside it, so the store can share targets,
reference log-probs and target responses between runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lume_run import models
from lume_run.errors import RunError
from lume_run.evaluate import questions_of
from lume_run.methods.likelihood import FineTune
from lume_run.records import Example, TaskData, to_json
from lume_run.reference import ReferenceCache, live_reference
from lume_run.respond import Question, Runner, respond
from lume_run.runtime import console, device_of, dtype_of, seed_everything
from lume_run.schedule import Schedule, write_schedule
from lume_run.settings import Phase, Settings
from lume_run.store import Artifact, content_hash, fingerprint
from lume_run.text import TokenRow, collate, encode, joined
from lume_run.trainer import (
    MarkComplete,
    Method,
    ShowProgress,
    StopWhenMemorised,
    UnlearnTrainer,
    last_checkpoint,
    training_arguments,
)

FORMAT = 1  # raise it when a change makes stored artifacts wrong


@dataclass(frozen=True)
class Run:
    """One configured run and its folder; data are loaded once, when first needed."""

    settings: Settings
    folder: Path

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
    def data_hash(self) -> str:
        """Identifies the forget and retain rows."""
        return content_hash([to_json(example) for example in (*self.data.forget, *self.data.retain)])

    @cached_property
    def questions(self) -> list[Question]:
        """Everything a model is asked."""
        trained_here = not self.settings.model.is_target
        return questions_of(self.data, self.settings.evaluator, trained_here=trained_here)

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """What moves numbers besides the model: precision, attention, device kind, row length."""
        model = self.settings.model
        dtype = str(dtype_of(model.dtype, self.device)).removeprefix("torch.")
        return {
            "dtype": dtype,
            "device": self.device.type,
            "attention": model.attention,
            "max_length": model.max_length,
        }

    def stored(
        self, stage: str, kind: str, made_from: dict[str, Any], build: Callable[[Path], None], note: str = ""
    ) -> Artifact:
        """An artifact in the shared store, named by the hash of what it is made from."""
        made_from = {"kind": kind, "format": FORMAT, **made_from}
        path = self.settings.store / kind / content_hash(made_from)
        return Artifact(stage=stage, name=kind, path=path, made_from=made_from, build=build, note=note)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run consists of, in order. `subjects` are the evaluated models by name, `responses` their records."""

    artifacts: tuple[Artifact, ...]
    responses: dict[str, Artifact]


def plain(node: Any) -> Any:
    """A method or setting as JSON-able data with its class name, for hashing."""
    if is_dataclass(node) and not isinstance(node, type):
        fields = {name: plain(getattr(node, name)) for name in node.__dataclass_fields__}
        return {"class": f"{type(node).__module__}.{type(node).__qualname__}", **fields}
    return node


# ---------------------------------------------------------------------------------------------- planning


def plan(run: Run) -> Plan:
    """Every artifact of this run in order. Raises RunError for stages that cannot follow each other."""
    stages = run.settings.stages
    base = base_artifact(run)
    artifacts: list[Artifact] = [base] if base else []
    start = str(base.path) if base else str(run.settings.model.path)
    start_id = base.key if base else fingerprint(start)
    subjects: dict[str, tuple[str, str]] = {}
    if stages == ["evaluate"]:
        if base is not None:
            raise RunError(
                "stages=[evaluate] scores an existing model: give model.path=FOLDER (a Hugging Face folder or id)."
            )
        subjects["model"] = (start, start_id)
    else:
        target = None if run.settings.model.is_target else train_artifact(run, start, start_id)
        if target is not None:
            if "train" not in stages and not target.done:
                raise RunError(f"There is no trained target at {target.path}; add train to stages.")
            artifacts.append(target)
        subjects["target"] = (str(target.path), target.key) if target else (start, start_id)
    if "unlearn" in stages:
        cached, unlearned = unlearn_artifacts(run, *subjects["target"])
        artifacts += [*([cached] if cached else []), unlearned]
        subjects["unlearned"] = (str(unlearned.path / "model"), unlearned.key)
    responses: dict[str, Artifact] = {}
    if "evaluate" in stages:
        if run.settings.evaluator.retrained and "model" not in subjects:
            retrained = retrained_artifact(run, base)
            artifacts.append(retrained)
            subjects["retrained"] = (str(retrained.path), retrained.key)
        responses = {name: responses_artifact(run, name, *subject) for name, subject in subjects.items()}
        artifacts += responses.values()
    return Plan(artifacts=tuple(artifacts), responses=responses)


def base_artifact(run: Run) -> Artifact | None:
    """The untrained tiny model, when no path names a model."""
    model, seed = run.settings.model, run.settings.seed
    if model.path is not None or model.shape is None:
        return None
    shape, data = model.shape, run.data
    texts = [
        joined("", example.prompt) + joined(example.prompt, example.answer) for example in (*data.forget, *data.retain)
    ]
    made_from = {"shape": asdict(shape), "texts": content_hash(texts), "seed": seed}
    return run.stored("train", "base", made_from, lambda folder: models.build_tiny(shape, texts, seed, folder))


def train_artifact(run: Run, start: str, start_id: str) -> Artifact:
    """The target: the base model fine-tuned on forget and retain rows until memorised."""
    return _fine_tuned(run, "target", (*run.data.forget, *run.data.retain), start, start_id)


def retrained_artifact(run: Run, base: Artifact | None) -> Artifact:
    """The reference that never saw the forget set: the base model fine-tuned on retain rows alone."""
    model = run.settings.model
    start = str(base.path) if base else str(model.base if model.is_target else model.path)
    return _fine_tuned(run, "retrained", run.data.retain, start, base.key if base else fingerprint(start))


def _fine_tuned(run: Run, kind: str, examples: Sequence[Example], start: str, start_id: str) -> Artifact:
    phase, model = run.settings.trainer.train, run.settings.model
    lora = model.lora if model.lora.enabled and model.path is not None else None  # nothing to adapt in a random model
    made_from = {
        "from": start_id,
        "rows": content_hash([to_json(example) for example in examples]),
        "phase": asdict(phase),
        "lora": asdict(lora) if lora else None,
        "seed": run.settings.seed,
        "numerics": run.numerics,
    }

    def build(folder: Path) -> None:
        optimise(
            run,
            Training(title=kind, phase=phase, method=FineTune(), adapters=lora is not None),
            start,
            examples_forget=(),
            examples_retain=examples,
            folder=folder,
            out=folder,
        )

    return run.stored(
        "train", kind, made_from, build, f"{len(examples)} rows, {steps_of(phase, len(examples))} steps at most"
    )


def steps_of(phase: Phase, rows: int) -> int:
    """Optimizer steps of a phase whose epoch has `rows` rows."""
    return -(-max(1, round(rows * phase.epochs)) // phase.batch_size)


def unlearn_artifacts(run: Run, target: str, target_id: str) -> tuple[Artifact | None, Artifact]:
    """The cached reference log-probs, where the method needs them, and the unlearned model."""
    method: Method = run.settings.method
    phase, model = run.settings.trainer.unlearn, run.settings.model
    cached = None
    made_from: dict[str, Any]
    if method.needs.reference_logps:
        made_from = {"target": target_id, "rows": run.data_hash, "numerics": run.numerics}
        cached = run.stored("unlearn", "reference", made_from, lambda folder: build_reference(run, target, folder))
    made_from = {
        "kind": "unlearned",
        "format": FORMAT,
        "target": target_id,
        "rows": run.data_hash,
        "method": plain(method),
        "phase": asdict(phase),
        "lora": asdict(model.lora) if model.lora.enabled else None,
        "seed": run.settings.seed,
        "numerics": run.numerics,
    }

    def build(folder: Path) -> None:
        optimise(
            run,
            Training(title=method.name, phase=phase, method=method, adapters=model.lora.enabled),
            target,
            examples_forget=run.data.forget,
            examples_retain=run.data.retain if method.needs.retain_rows else (),
            folder=folder,
            out=folder / "model",
            cache=ReferenceCache.load(cached.path) if cached else None,
        )

    steps = steps_of(phase, len(run.data.forget))
    note = f"{steps} steps of {phase.batch_size} forget" + (
        f" + {phase.batch_size} retain rows" if method.needs.retain_rows else " rows"
    )
    unlearned = Artifact(
        stage="unlearn", name="unlearned", path=run.folder / "unlearned", made_from=made_from, build=build, note=note
    )
    return cached, unlearned


def responses_artifact(run: Run, subject: str, path: str, model_id: str) -> Artifact:
    """Everything one model answers, in the store under the model and the questions."""
    evaluator = run.settings.evaluator
    made_from = {
        "model": model_id,
        "questions": content_hash([[question.ask, to_json(question.example)] for question in run.questions]),
        "max_new_tokens": evaluator.max_new_tokens,
        "numerics": run.numerics,
    }

    def build(folder: Path) -> None:
        model_settings = run.settings.model
        tokenizer = models.load_tokenizer(path, model_settings)
        model = models.load_model(path, model_settings, run.device)
        runner = Runner(
            model=model,
            tokenizer=tokenizer,
            max_new_tokens=evaluator.max_new_tokens,
            max_length=models.limit_of(model, model_settings),
            batch_tokens=evaluator.batch_tokens,
        )
        respond(runner, run.questions, folder, f"evaluate {subject}")

    return run.stored("evaluate", "responses", made_from, build, f"{len(run.questions)} prompts to {subject}")


# ------------------------------------------------------------------------------------------------ building


@dataclass(frozen=True, kw_only=True)
class Training:
    """One optimisation: what it is called, how it steps, what it minimises."""

    title: str
    phase: Phase
    method: Method
    adapters: bool


def token_rows(
    run: Run, tokenizer: Any, forget: Sequence[Example], retain: Sequence[Example], *, limit: int, learn: bool
) -> list[TokenRow]:
    """Rows of both sides; says how many had to be shortened."""
    rows = [
        encode(example, tokenizer, max_tokens=limit, learn_document=learn, is_forget=is_forget)
        for is_forget, side in ((True, forget), (False, retain))
        for example in side
    ]
    cut = [row for row in rows if row.truncated]
    if cut:
        console.print(
            f"  [yellow]{len(cut)} of {len(rows)} rows are longer than {limit} tokens; "
            "their prompts lose their oldest words[/]"
        )
    return rows


def build_reference(run: Run, target: str, folder: Path) -> None:
    """Score the forget rows with the frozen target once."""
    settings = run.settings.model
    tokenizer = models.load_tokenizer(target, settings)
    model = models.load_model(target, settings, run.device)
    rows = token_rows(run, tokenizer, run.data.forget, (), limit=models.limit_of(model, settings), learn=False)
    ReferenceCache.compute(
        model, rows, pad_id=int(tokenizer.pad_token_id), batch_tokens=run.settings.evaluator.batch_tokens, folder=folder
    )


def optimise(
    run: Run,
    training: Training,
    start: str,
    *,
    examples_forget: Sequence[Example],
    examples_retain: Sequence[Example],
    folder: Path,
    out: Path,
    cache: ReferenceCache | None = None,
) -> None:
    """Train `start` into the Hugging Face folder `out`, going on from the last whole checkpoint in `folder`."""
    settings, phase, seed = run.settings.model, training.phase, run.settings.seed
    tokenizer = models.load_tokenizer(start, settings)
    config = models.config_of(start, trust_remote_code=settings.trust_remote_code)
    limit = settings.max_length or getattr(config, "max_position_embeddings", None) or models.TINY_CONTEXT_TOKENS
    learn = isinstance(training.method, FineTune)
    rows = token_rows(run, tokenizer, examples_forget, examples_retain, limit=limit, learn=learn)
    schedule = write_schedule(
        rows,
        batch_size=phase.batch_size,
        micro_batch_size=phase.micro_batch_size,
        epochs=phase.epochs,
        seed=seed,
        retain_rows=training.method.needs.retain_rows,
    )
    seed_everything(seed)
    half = dtype_of(settings.dtype, run.device) is torch.bfloat16
    args = training_arguments(
        phase, run.settings.trainer, schedule, folder=folder / "checkpoints", seed=seed, device=run.device, bf16=half
    )
    model, frozen = load_for_training(run, training, start)
    pad_id, every_position = int(tokenizer.pad_token_id), training.method.needs.every_position
    trainer = UnlearnTrainer(
        model=model,
        args=args,
        method=training.method,
        schedule=schedule,
        collate=lambda micro: _attach(
            cache,
            collate(
                [rows[number] for number in micro.rows],
                pad_id=pad_id,
                totals=micro.totals,
                every_position=every_position,
            ),
        ),
        reference=live_reference(model, frozen) if training.method.needs.reference_logits else None,
        callbacks=callbacks_of(training, schedule),
    )
    resume = last_checkpoint(folder / "checkpoints")
    if resume is not None:
        console.print(f"  going on from {resume.name}")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    models.save(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out)
    _remove_checkpoints(folder / "checkpoints")


def load_for_training(run: Run, training: Training, start: str) -> tuple[nn.Module, nn.Module | None]:
    """The model to train, and the frozen copy when a live reference is needed and no adapters can be switched off.

    All weights are trained in float32 (bf16 AdamW loses updates at a learning rate of 1e-5), under
    bf16 autocast where there is bf16; frozen weights are kept in the compute dtype.
    """
    settings, seed = run.settings.model, run.settings.seed
    compute = dtype_of(settings.dtype, run.device)
    loaded = models.load_model(start, settings, run.device, dtype=compute if training.adapters else torch.float32)
    if settings.gradient_checkpointing:
        loaded.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loaded.enable_input_require_grads()
    model = models.with_adapters(loaded, settings.lora, seed) if training.adapters else loaded
    frozen = None
    if training.method.needs.reference_logits and not training.adapters:
        frozen = models.load_model(start, settings, run.device, dtype=compute).requires_grad_(False).eval()
    return model, frozen


def callbacks_of(training: Training, schedule: Schedule) -> list[Any]:
    """Progress, whole-checkpoint marks and, for fine-tuning, the memorisation stop."""
    found: list[Any] = [ShowProgress(training.title, schedule.steps), MarkComplete()]
    if isinstance(training.method, FineTune) and training.phase.stop_accuracy is not None:
        found.append(StopWhenMemorised(training.phase.stop_accuracy, schedule.steps_per_epoch))
    return found


def _attach(cache: ReferenceCache | None, batch: Any) -> Any:
    return cache.attach(batch) if cache is not None else batch


def _remove_checkpoints(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
