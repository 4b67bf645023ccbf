"""The pipeline as a list of artifacts: what a run consists of, known without touching a weight.

Making the artifacts in order is the run. What an artifact depends on is written beside it, so the
store can share targets, reference log-probs and responses between runs, and a restart knows what is due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from lume_run import models
from lume_run.errors import RunError
from lume_run.methods.likelihood import FineTune
from lume_run.records import Example, to_json
from lume_run.reference import ReferenceCache
from lume_run.settings import Phase
from lume_run.stages import Run, Training, answer, build_reference, optimise
from lume_run.store import Artifact, content_hash, fingerprint
from lume_run.text import joined
from lume_run.trainer import (
    Method,
)

FORMAT = 1  # raise it when a change makes stored artifacts wrong


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run consists of, in order; `responses` are the evaluated models' records by model name."""

    artifacts: tuple[Artifact, ...]
    responses: dict[str, Artifact]


def plain(node: Any) -> Any:
    """A method or setting as JSON-able data with its class name, for hashing."""
    if is_dataclass(node) and not isinstance(node, type):
        fields = {name: plain(getattr(node, name)) for name in node.__dataclass_fields__}
        return {"class": f"{type(node).__module__}.{type(node).__qualname__}", **fields}
    return node


def stored(
    run: Run,
    stage: str,
    kind: str,
    made_from: dict[str, Any],
    build: Callable[[Path], None],
    *,
    name: str = "",
    note: str = "",
) -> Artifact:
    """An artifact in the shared store, named by the hash of what it is made from."""
    made_from = {"kind": kind, "format": FORMAT, **made_from}
    path = run.settings.store / kind / content_hash(made_from)
    return Artifact(stage=stage, name=name or kind, path=path, made_from=made_from, build=build, note=note)


def plan(run: Run) -> Plan:
    """Every artifact of this run in order. Raises RunError for stages that cannot follow each other."""
    stages = run.settings.stages
    base = base_artifact(run)
    artifacts: list[Artifact] = [base] if base else []
    start = str(base.path) if base else str(run.settings.model.path)
    start_id = base.key if base else fingerprint(start)
    subjects: dict[str, tuple[str, str]] = {}
    if stages == ["evaluate"]:
        assert base is None  # checks.py refuses to evaluate alone without a model.path
        subjects["model"] = (start, start_id)
    else:
        target = None if run.settings.model.is_target else train_artifact(run, start, start_id)
        if target is not None:
            if "train" not in stages and not target.done:
                raise RunError(f"There is no trained target at {target.path}; add train to stages.")
            artifacts.append(target)
        subjects["target"] = (str(target.path), target.key) if target else (start, start_id)
    if "unlearn" in stages:
        needs_cache = run.settings.method.needs.reference_logps
        cached = reference_artifact(run, *subjects["target"]) if needs_cache else None
        unlearned = unlearn_artifact(run, *subjects["target"], cached)
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
    return stored(run, "train", "base", made_from, lambda folder: models.build_tiny(shape, texts, seed, folder))


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

    training = Training(
        title=kind, start=start, phase=phase, method=FineTune(), adapters=lora is not None, retain=examples
    )
    note = f"{len(examples)} rows, {steps_of(phase, len(examples))} steps at most"
    return stored(run, "train", kind, made_from, lambda folder: optimise(run, training, folder, folder), note=note)


def steps_of(phase: Phase, rows: int) -> int:
    """Optimizer steps of a phase whose epoch has `rows` rows."""
    return -(-max(1, round(rows * phase.epochs)) // phase.batch_size)


def reference_artifact(run: Run, target: str, target_id: str) -> Artifact:
    """The frozen target's answer log-probs on forget rows."""
    forget = content_hash([to_json(example) for example in run.data.forget])
    made_from = {"target": target_id, "rows": forget, "numerics": run.numerics}
    return stored(run, "unlearn", "reference", made_from, lambda folder: build_reference(run, target, folder))


def unlearn_artifact(run: Run, target: str, target_id: str, cached: Artifact | None) -> Artifact:
    """The unlearned model, in the run's own folder."""
    method: Method = run.settings.method
    phase, lora, batch = run.settings.trainer.unlearn, run.settings.model.lora, run.settings.trainer.unlearn.batch_size
    retain = run.data.retain if method.needs.retain_rows else ()
    made_from: dict[str, Any] = {
        "kind": "unlearned",
        "format": FORMAT,
        "target": target_id,
        "rows": run.data_hash,
        "method": plain(method),
        "phase": asdict(phase),
        "lora": asdict(lora) if lora.enabled else None,
        "seed": run.settings.seed,
        "numerics": run.numerics,
    }

    def build(folder: Path) -> None:
        training = Training(
            title=method.name,
            start=target,
            phase=phase,
            method=method,
            adapters=lora.enabled,
            forget=run.data.forget,
            retain=retain,
            cache=ReferenceCache.load(cached.path) if cached else None,
        )
        optimise(run, training, folder, folder / "model")

    rows = f"{batch} forget + {batch} retain rows" if retain else f"{batch} forget rows"
    note = f"{steps_of(phase, len(run.data.forget))} steps of {rows}"
    path = run.folder / "unlearned"
    return Artifact(stage="unlearn", name="unlearned", path=path, made_from=made_from, build=build, note=note)


def responses_artifact(run: Run, subject: str, path: str, model_id: str) -> Artifact:
    """Everything one model answers, in the store under the model and the questions."""
    evaluator = run.settings.evaluator
    made_from = {
        "model": model_id,
        "questions": content_hash([[question.ask, to_json(question.example)] for question in run.questions]),
        "max_new_tokens": evaluator.max_new_tokens,
        "numerics": run.numerics,
    }
    return stored(
        run,
        "evaluate",
        "responses",
        made_from,
        lambda folder: answer(run, subject, path, folder),
        name=f"{subject} responses",
        note=f"{len(run.questions)} prompts",
    )
