"""Artifacts of the unlearn stage, one recipe for each kind of method.

A loss is minimised by `lume_run.training`; the baselines that are not losses are made here from the same pieces.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lume_run.common.files import digest_of
from lume_run.common.store import Artifact
from lume_run.config.settings import OptimizationSettings
from lume_run.methods.base import Method
from lume_run.methods.baselines import (
    InContext,
    Member,
    MergeAdapters,
    NoOp,
    Retrain,
    TaskVector,
    WhosHarryPotter,
    context_of,
)
from lume_run.methods.objective import Objective, keeps_frozen
from lume_run.pipeline.artifacts import (
    EvaluatedModel,
    Reinforced,
    data_for_hash,
    store_artifact,
    unlearned_artifact,
)
from lume_run.pipeline.memory.cost import unlearning_tokens
from lume_run.pipeline.run import Run
from lume_run.pipeline.train import (
    fine_tuned_artifact,
    lora_identity,
    phase_identity,
    retrained_artifact,
    run_training,
    steps_of,
    training_job,
)
from lume_run.pipeline.unlearn.prepare import Prepared, examples_for, prepare, rows_hash
from lume_run.training.job import TrainingJob


def unlearning_artifacts(
    run: Run,
    target: EvaluatedModel,
    base: Artifact | None,
    reference: EvaluatedModel | None = None,
    shared: Artifact | None = None,
) -> tuple[list[Artifact], EvaluatedModel]:
    """The artifacts of the run's method in order, and the unlearned model.

    `reference` is the frozen model of losses that have one, where that is not the target; `shared` are its log-probs,
    where other requests have them too.
    """
    method, reference = run.settings.method, reference or target
    match method:
        case NoOp():
            return [], target
        case InContext():
            return [], replace(target, context=context_of(method, run.data, run.refusals, run.settings.seed))
        case WhosHarryPotter():
            reinforced = reinforced_artifact(run, target)
            beside = Reinforced(path=str(reinforced.path), key=reinforced.key, alpha=method.alpha)
            return [reinforced], replace(target, reinforced=beside)
        case Retrain():
            retrained = retrained_artifact(run, base)
            return [retrained], EvaluatedModel.of(retrained)
        case TaskVector():
            artifacts = task_vector_artifacts(run, method, target)
        case MergeAdapters():
            artifacts = merged_adapter_artifacts(run, method, target, reference)
        case _:
            artifacts = loss_artifacts(run, method, target, reference, shared)
    return artifacts, EvaluatedModel.of(artifacts[-1], "model")


def reference_note(method: Method, *, adapters: bool, first: bool = False) -> str:
    """Where a method's reference comes from, for users; `first`: from the target, whatever request it is."""
    needs = method.needs
    live = "the model with its adapters off" if adapters and not first else "one frozen copy of the target"
    cached = [f"cached log-probs{' of the first target' if first else ''}"] if needs.reference_logps else []
    return " and ".join([*cached, *([live] if keeps_frozen(method, needs) else [])]) or "none"


def unlearning_job(
    run: Run, method: Method, target: EvaluatedModel, phase: OptimizationSettings, prepared: Prepared
) -> TrainingJob:
    """The optimisation of a loss from the target on."""
    from lume_run.training.reference import ReferenceCache

    model = run.settings.model
    return training_job(
        run,
        title=method.name,
        start=target.path,
        reference=prepared.model.path if prepared.model.key != target.key else None,
        phase=phase,
        method=method,
        adapters=model.lora.enabled,
        examples=examples_for(run, method, prepared),
        cache=ReferenceCache.load(prepared.reference.path) if prepared.reference else None,
        trainable=model.trainable,
    )


def unlearning_inputs(
    run: Run, method: Method, target: EvaluatedModel, phase: OptimizationSettings, prepared: Prepared
) -> dict[str, Any]:
    """What decides the weights that come of it, for hashing."""
    model, needs = run.settings.model, method.needs
    compares = bool(needs.reference_logps) or keeps_frozen(method, needs)
    return {
        "target": target.key,
        "rows": rows_hash(run.examples(method.needs)),
        "method": data_for_hash(method),
        "phase": phase_identity(phase, method.needs),
        "lora": lora_identity(model),
        "trainable": model.trainable,
        "checkpoint_every": run.settings.trainer.checkpoint_every,  # where a diverged run falls back to
        "numerics": run.numerics,
        **prepared.identity,
        **_text_identity(method),
        **({"reference": prepared.model.key} if compares and prepared.model.key != target.key else {}),
    }


def _text_identity(method: Method) -> dict[str, str]:
    """What is in the text on which a method is to stay near the model before."""
    path = method.stop_when.disruption_text if isinstance(method, Objective) else None
    return {} if path is None else {"disruption_text": digest_of(Path(path))}


def _note(run: Run, method: Method, phase: OptimizationSettings) -> str:
    sides = {role.is_forget for role in method.needs.rows}
    retain = f" + {phase.batch_size * phase.retain_ratio} retain" if False in sides else ""
    first = run.settings.sequence.keeps_first
    reference = reference_note(method, adapters=run.settings.model.lora.enabled, first=first)
    steps = steps_of(phase, len(run.data.forget), retain=bool(retain))
    sharp = "" if phase.sharpness is None else f"; forget rows twice a step, at sharpness {phase.sharpness:g}"
    return f"{steps} steps of {phase.batch_size} forget{retain} examples{sharp}; reference: {reference}"


def loss_artifacts(
    run: Run, method: Method, target: EvaluatedModel, reference: EvaluatedModel, shared: Artifact | None = None
) -> list[Artifact]:
    """A loss, minimised from the target on."""
    phase, prepared = run.settings.trainer.unlearn, prepare(run, method, reference, shared)
    alone = run.request is not None and run.request.apart and run.settings.model.lora.enabled  # an adapter is the model

    def build(folder: Path) -> None:
        job = unlearning_job(run, method, target, phase, prepared)
        job = replace(job, keep_adapters=alone, saves_adapter=run.settings.model.lora.save and not alone)
        run_training(run, "unlearn", job, folder, folder / "model")

    inputs = unlearning_inputs(run, method, target, phase, prepared) | ({"saved": "adapter"} if alone else {})
    tokens = partial(unlearning_tokens, run, method.needs, phase)
    unlearned = unlearned_artifact(run, inputs, build, _note(run, method, phase), share=True, tokens=tokens)
    return [*prepared.artifacts, unlearned]


def reinforced_artifact(run: Run, target: EvaluatedModel) -> Artifact:
    """The target fine-tuned further on the forget set."""
    phase = run.settings.trainer.unlearn
    return fine_tuned_artifact(run, "reinforced", run.data.forget, target, phase, stage="unlearn")


def task_vector_artifacts(run: Run, method: TaskVector, target: EvaluatedModel) -> list[Artifact]:
    """Fine-tune the target further on the forget set, then subtract what that changed."""
    reinforced = reinforced_artifact(run, target)

    def build(folder: Path) -> None:
        from lume_run.models.merge import subtract_task_vector

        subtract_task_vector(run.settings.model, target.path, str(reinforced.path), method.alpha, folder / "model")

    inputs = {"target": target.key, "reinforced": reinforced.key, "alpha": method.alpha}
    note = f"target - {method.alpha:g} x (reinforced - target)"
    return [reinforced, unlearned_artifact(run, inputs, build, note)]


def merged_adapter_artifacts(
    run: Run, method: MergeAdapters, target: EvaluatedModel, reference: EvaluatedModel
) -> list[Artifact]:
    """Adapters unlearned one by one from the same target, then merged into it."""
    artifacts: list[Artifact] = []
    members: list[Artifact] = []
    for number, member in enumerate(method.members, 1):
        prepared = prepare(run, member.method, reference)
        before = {artifact.path for artifact in artifacts}
        artifacts += [artifact for artifact in prepared.artifacts if artifact.path not in before]
        members.append(_adapter(run, member, number, target, prepared))
        artifacts.append(members[-1])

    def build(folder: Path) -> None:
        from lume_run.models.merge import merge_adapters

        folders = [str(member.path / "adapter") for member in members]
        merge_adapters(
            run.settings.model,
            target.path,
            folders,
            method,
            folder / "model",
            device=run.device,
            seed=run.settings.seed,
        )

    inputs = {"target": target.key, "members": [member.key for member in members], "merge": merge_identity(method)}
    note = f"{len(members)} adapters merged by {method.combination}"
    return [*artifacts, unlearned_artifact(run, inputs, build, note)]


def merge_identity(method: MergeAdapters) -> dict[str, Any]:
    """How adapters are merged, for hashing."""
    return {"combination": method.combination, "density": method.density, "weights": list(method.weights)}


def _adapter(run: Run, member: Member, number: int, target: EvaluatedModel, prepared: Prepared) -> Artifact:
    common = run.settings.trainer.unlearn
    phase = replace(
        common,
        learning_rate=member.learning_rate or common.learning_rate,
        epochs=member.epochs or common.epochs,
        batch_size=member.batch_size or common.batch_size,
    )
    method = member.method

    def build(folder: Path) -> None:
        training = unlearning_job(run, method, target, phase, prepared)
        run_training(run, "unlearn", replace(training, keep_adapters=True), folder, folder / "adapter")

    inputs = {"seed": run.settings.seed, **unlearning_inputs(run, method, target, phase, prepared)}
    note = f"{method.name}: {_note(run, method, phase)}"
    tokens, name = partial(unlearning_tokens, run, method.needs, phase), f"adapter {number}"
    return store_artifact(run, "unlearn", "adapter", inputs, build, name=name, note=note, share=True, tokens=tokens)
