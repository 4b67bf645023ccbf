"""Artifacts of the train stage: the base model, the target, and the model retrained without the forget set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lume_run.common.files import content_hash
from lume_run.common.jsonl import to_json
from lume_run.common.records import Example
from lume_run.common.store import Artifact
from lume_run.config.model_settings import ModelSettings
from lume_run.config.resolve import without_unset
from lume_run.config.settings import OptimizationSettings
from lume_run.methods.likelihood import FineTune
from lume_run.methods.needs import Needs, Role
from lume_run.models.tiny import build_tiny
from lume_run.pipeline.artifacts import EvaluatedModel, store_artifact
from lume_run.pipeline.memory.budget import with_phase
from lume_run.pipeline.memory.cost import fine_tuning_tokens
from lume_run.pipeline.memory.launch_mode import estimator_of
from lume_run.pipeline.memory.sizes import phase_of
from lume_run.pipeline.run import Run
from lume_run.tasks.builtin.generator import documents_of_no_side
from lume_run.training.job import TrainingJob
from lume_run.training.schedule import count_steps


def base_artifact(run: Run) -> Artifact | None:
    """The untrained tiny model, where no path names a model.

    Its tokenizer is trained on documents of the built-in generator that are on no side of any task. One trained on
    forget and retain texts would tell them from others, of a model that never saw them too: it splits what it was
    trained on into fewer tokens.
    """
    model, seed = run.settings.model, run.settings.seed
    if model.path is not None or model.shape is None:
        return None
    shape, texts = model.shape, documents_of_no_side()
    inputs = {"shape": asdict(shape), "texts": content_hash(texts), "seed": seed}
    return store_artifact(run, "train", "base", inputs, lambda folder: build_tiny(shape, texts, seed, folder))


def train_artifact(run: Run, start: EvaluatedModel) -> Artifact:
    """The target: the base model fine-tuned on forget and retain rows until memorised."""
    rows = (*run.data.forget, *run.data.retain, *run.data.learned)
    return fine_tuned_artifact(run, "target", rows, start, run.settings.trainer.train)


def retrained_artifact(run: Run, base: Artifact | None) -> Artifact:
    """The reference that never saw the forget set: the base model fine-tuned on retain rows alone."""
    model = run.settings.model
    path = str(model.base if model.is_target else model.path)
    start = EvaluatedModel.of(base) if base else EvaluatedModel.at(path, model)
    rows = (*run.data.retain, *run.data.learned)
    return fine_tuned_artifact(run, "retrained", rows, start, run.settings.trainer.train)


def retrained_model(run: Run, base: Artifact | None) -> tuple[EvaluatedModel, list[Artifact]]:
    """The model that never saw the forget set, given or retrained, and what is to be made for it."""
    path = run.settings.evaluator.retrained_model
    if path is not None:
        return EvaluatedModel.at(path, run.settings.model), []
    artifact = retrained_artifact(run, base)
    return EvaluatedModel.of(artifact), [artifact]


def training_job(run: Run, **fields: Any) -> TrainingJob:
    """A training job with this run's settings, seed, device and processes; `fields` are its other fields."""
    settings = run.settings
    return TrainingJob(
        model=settings.model,
        trainer=settings.trainer,
        seed=settings.seed,
        device=run.device,
        world=run.world,
        **fields,
    )


def run_training(run: Run, stage: str, job: TrainingJob, folder: Path, out: Path) -> None:
    """Train. The Trainer takes seconds to import: plans, cached runs and the driver of several ranks do without it."""
    from lume_run.training.optimise import optimise

    optimise(with_budget(run, stage, job), folder, out)


def with_budget(run: Run, stage: str, job: TrainingJob) -> TrainingJob:
    """The job with what `auto` means on this run's devices: tokens of a forward, gradient checkpointing."""
    settings = replace(run.settings, model=job.model)
    if stage == "unlearn":  # a member of several to merge, or fine-tuning, has a method and a phase of its own
        settings = with_phase(replace(settings, method=job.method), stage, **vars(job.phase))
    estimator = estimator_of(run, stage, settings)
    if estimator is None:
        return job
    resolved = estimator.resolved(run.world)
    tokens = phase_of(resolved, stage).settings.micro_batch_tokens
    checkpointing = resolved.model.gradient_checkpointing
    return replace(
        job,
        phase=replace(job.phase, micro_batch_tokens=tokens),
        model=replace(job.model, gradient_checkpointing=checkpointing),
    )


def phase_identity(phase: OptimizationSettings, needs: Needs) -> dict[str, Any]:
    """What of a phase changes the weights that come of it: for most losses not how steps are cut into forwards."""
    identity = without_unset(asdict(phase))
    if not needs.depends_on_micro_batches:
        for name in ("micro_batch_tokens", "micro_batch_size"):
            identity.pop(name)
    return identity


def fine_tuned_artifact(
    run: Run,
    kind: str,
    examples: Sequence[Example],
    start: EvaluatedModel,
    phase: OptimizationSettings,
    stage: str = "train",
) -> Artifact:
    """A model fine-tuned on these examples, in the store."""
    model = run.settings.model
    lora = model.lora if model.lora.enabled and model.path is not None else None  # nothing to adapt in a random model
    inputs = {
        "from": start.key,
        "rows": content_hash([to_json(example) for example in examples]),
        "phase": phase_identity(phase, FineTune().needs),
        "lora": lora_identity(model) if lora else None,
        "seed": run.settings.seed,
        "numerics": run.numerics,
    }

    def build(folder: Path) -> None:
        job = training_job(
            run,
            title=kind,
            start=start.path,
            phase=phase,
            method=FineTune(),
            adapters=lora is not None,
            examples=[(Role.RETAIN, example) for example in examples],
        )
        run_training(run, stage, job, folder, folder)

    note = f"{len(examples)} rows, {steps_of(phase, len(examples))} steps at most"
    tokens = partial(fine_tuning_tokens, run, examples, phase, adapters=lora is not None)
    return store_artifact(run, stage, kind, inputs, build, note=note, share=True, tokens=tokens)


def lora_identity(model: ModelSettings) -> dict[str, Any] | None:
    """What of the adapters changes the weights that are trained: their shape, and the bits of what is below them."""
    if not model.lora.enabled:
        return None
    identity = asdict(model.lora)
    identity.pop("save")
    return identity | ({"quantize": model.quantize} if model.quantize != "none" else {})


def steps_of(phase: OptimizationSettings, examples: int, *, retain: bool = False) -> int:
    """Optimizer steps of a phase whose epoch has so many examples, with or without retain examples beside them."""
    return count_steps(
        examples,
        batch_size=phase.batch_size,
        epochs=phase.epochs,
        chunk_size=phase.chunk_size,
        steps_each=phase.retain_ratio + 1 if phase.alternate and retain else 1,
    )
