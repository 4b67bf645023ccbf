"""Artifacts of the attack stage: models trained further or edited, and models that are asked in other words.

Attacks are made of a model that is evaluated and of its control alike, in the store like every other model, so that the
jobs of a sweep share what they have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lume_run.attacks.base import (
    Attacked,
    Edit,
    EditingAttack,
    PromptAttack,
    Situation,
    Training,
    TrainingAttack,
    attacked_name,
)
from lume_run.attacks.results import CONTROLS, SUBJECTS_ATTACKED
from lume_run.common.files import content_hash
from lume_run.common.jsonl import to_json
from lume_run.common.store import Artifact
from lume_run.methods.likelihood import FineTune
from lume_run.methods.needs import Role
from lume_run.pipeline.artifacts import EvaluatedModel, store_artifact
from lume_run.pipeline.memory.cost import fine_tuning_tokens
from lume_run.pipeline.run import Run
from lume_run.pipeline.train import lora_identity, phase_identity, run_training, training_job
from lume_run.training.job import snapshot_folder

Pair = tuple[Attacked, EvaluatedModel]


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """The artifacts that attacks need, in order, and every model under attack."""

    artifacts: tuple[Artifact, ...] = ()
    models: tuple[Pair, ...] = ()


def attempts_of(run: Run, models: Mapping[str, EvaluatedModel]) -> Attempts:
    """All attacks of a run on the model that it is about, and on its control."""
    subject = next((name for name in SUBJECTS_ATTACKED if name in models), None)
    control = next((name for name in CONTROLS if name in models), None)
    control = None if run.settings.attack.control == "none" else control
    artifacts: dict[Path, Artifact] = {}
    attacked: list[Pair] = []
    for name, attack in run.settings.attack.attacks.items():
        for victim in filter(None, (subject, control)):
            attempts = _attempts(run, name, attack, victim, models[victim])
            artifacts |= {artifact.path: artifact for artifact in attempts.artifacts if artifact.path not in artifacts}
            attacked += attempts.models
    return Attempts(artifacts=tuple(artifacts.values()), models=tuple(attacked))


def _attempts(run: Run, name: str, attack: Any, subject: str, model: EvaluatedModel) -> Attempts:
    """One attack on one model."""
    if isinstance(attack, TrainingAttack):
        trainings = attack.trainings(Situation.of(run.settings, run.data))
        trained = [(training, trained_artifact(run, name, subject, training, model)) for training in trainings]
        artifacts = [artifact for _, artifact in trained]
        variants = [
            (strength, snapshot(model, training, artifact, step))
            for training, artifact in trained
            for step, strength in training.strengths().items()
        ]
    elif isinstance(attack, EditingAttack):
        edited = [(edit, edited_artifact(run, name, subject, edit, model)) for edit in attack.edits()]
        artifacts = [artifact for _, artifact in edited]
        variants = [
            (edit.strength, replace(model, path=str(artifact.path / "model"), key=artifact.key))
            for edit, artifact in edited
        ]
    else:
        rewrites = attack.rewrites(Situation.of(run.settings, run.data))
        artifacts = []
        variants = [(rewrite.strength, replace(model, rewrite=rewrite.rewrite)) for rewrite in rewrites]
    attacked = [
        Attacked(
            subject=subject,
            attack=name,
            strength=strength,
            held_out=variant.held_out,
            measures=getattr(attack, "measures", ""),
            rewritten=isinstance(attack, PromptAttack),
            formulation=getattr(attack, "formulation", False),
        )
        for strength, variant in variants
    ]
    models = tuple((of, variant) for of, (_, variant) in zip(attacked, variants, strict=True))
    return Attempts(artifacts=tuple(artifacts), models=models)


def trained_artifact(run: Run, attack: str, subject: str, training: Training, model: EvaluatedModel) -> Artifact:
    """A model trained further, kept after each of the attack's steps."""
    settings = replace(run.settings.model, lora=replace(run.settings.model.lora, enabled=training.adapters))
    inputs = {
        "from": model.key,
        "rows": content_hash([to_json(example) for example in training.examples]),
        "phase": phase_identity(training.phase, FineTune().needs),
        "steps": list(training.steps),
        "lora": lora_identity(settings),
        "seed": run.settings.seed,
        "numerics": run.numerics,
    }
    name = attacked_name(subject, attack, training.series)

    def build(folder: Path) -> None:
        job = training_job(
            run,
            title=name,
            start=model.path,
            phase=training.phase,
            method=FineTune(),
            adapters=training.adapters,
            examples=[(Role.RETAIN, example) for example in training.examples],
            snapshots=training.steps,
        )
        run_training(run, "unlearn", replace(job, model=settings), folder, folder)

    steps = ", ".join(map(str, training.steps))
    note = f"{len(training.examples)} rows, kept after step {steps}"
    tokens = partial(fine_tuning_tokens, run, training.examples, training.phase, adapters=training.adapters)
    return store_artifact(run, "attack", "attacked", inputs, build, name=name, note=note, share=True, tokens=tokens)


def snapshot(model: EvaluatedModel, training: Training, artifact: Artifact, step: int) -> EvaluatedModel:
    """The attacked model after a step, in the context of the model that it was."""
    path, key = str(snapshot_folder(artifact.path, step)), content_hash([artifact.key, step])
    return replace(model, path=path, key=key, held_out=training.held_out)


def edited_artifact(run: Run, attack: str, subject: str, edit: Edit, model: EvaluatedModel) -> Artifact:
    """A model with edited weights, as an ordinary folder."""
    inputs = {"from": model.key, "edit": dict(edit.identity), "numerics": run.numerics}
    name = attacked_name(subject, attack, edit.strength.label)

    def build(folder: Path) -> None:
        from lume_run.attacks.edit import write_edited

        write_edited(run.settings.model, model.path, edit, folder / "model")

    return store_artifact(run, "attack", "edited", inputs, build, name=name, note=edit.strength.label)
