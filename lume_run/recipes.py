"""How a model comes about: artifacts of fine-tuned, retrained and unlearned models, one recipe a kind of method.

A loss is optimised by `optimise.py`; the baselines that are not losses are made here from the same pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from lume_run.common.files import content_hash, fingerprint
from lume_run.common.jsonl import to_json
from lume_run.common.records import Example, Question, joined
from lume_run.common.store import Artifact
from lume_run.config.resolve import class_name
from lume_run.config.settings import Phase
from lume_run.methods.base import Method, Needs, Role
from lume_run.methods.baselines import (
    InContext,
    Member,
    MergeAdapters,
    NoOp,
    Retrain,
    TaskVector,
    context_of,
    with_context,
)
from lume_run.methods.likelihood import FineTune
from lume_run.models.merge import merge_adapters, subtract
from lume_run.models.tiny import build_tiny
from lume_run.reference import ReferenceCache
from lume_run.schedule import count_steps
from lume_run.stages import Run, build_reference
from lume_run.training import Training

FORMAT = 2  # raise it when a change makes stored artifacts wrong


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is trained further or evaluated: its folder or id, what identifies it, the context it answers in."""

    path: str
    key: str
    context: str = ""

    def asked(self, questions: Sequence[Question]) -> Sequence[Question]:
        """The questions as this model is asked them."""
        return with_context(questions, self.context) if self.context else questions


def plain(node: Any) -> Any:
    """A method or setting as JSON-able data with its class name, for hashing.

    Classes of lume_run go by their own names, so that one may move to another module and artifacts stay valid.
    """
    if is_dataclass(node) and not isinstance(node, type):
        fields = {name: plain(getattr(node, name)) for name in node.__dataclass_fields__}
        return {"class": class_name(f"{type(node).__module__}.{type(node).__qualname__}"), **fields}
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
    share: bool = False,
    gather: Callable[[Path], object] | None = None,
) -> Artifact:
    """An artifact in the shared store, named by the hash of what it is made from."""
    made_from = {"kind": kind, "format": FORMAT, **made_from}
    path = run.settings.store / kind / content_hash(made_from)
    return Artifact(
        stage=stage,
        name=name or kind,
        path=path,
        made_from=made_from,
        build=build,
        note=note,
        share=share,
        gather=gather,
    )


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
    return stored(run, "train", "base", made_from, lambda folder: build_tiny(shape, texts, seed, folder))


def train_artifact(run: Run, start: Subject) -> Artifact:
    """The target: the base model fine-tuned on forget and retain rows until memorised."""
    return _fine_tuned(run, "target", (*run.data.forget, *run.data.retain), start, run.settings.trainer.train)


def retrained_artifact(run: Run, base: Artifact | None) -> Artifact:
    """The reference that never saw the forget set: the base model fine-tuned on retain rows alone."""
    model = run.settings.model
    path = str(base.path) if base else str(model.base if model.is_target else model.path)
    start = Subject(path=path, key=base.key if base else fingerprint(path))
    return _fine_tuned(run, "retrained", run.data.retain, start, run.settings.trainer.train)


def _optimise(run: Run, training: Training, folder: Path, out: Path) -> None:
    """Train. The Trainer takes seconds to import: plans, cached runs and the driver of several ranks do without."""
    from lume_run.optimise import optimise

    optimise(run, training, folder, out)


def _fine_tuned(
    run: Run, kind: str, examples: Sequence[Example], start: Subject, phase: Phase, stage: str = "train"
) -> Artifact:
    model = run.settings.model
    lora = model.lora if model.lora.enabled and model.path is not None else None  # nothing to adapt in a random model
    made_from = {
        "from": start.key,
        "rows": content_hash([to_json(example) for example in examples]),
        "phase": asdict(phase),
        "lora": asdict(lora) if lora else None,
        "seed": run.settings.seed,
        "numerics": run.numerics,
    }
    training = Training(
        title=kind,
        start=start.path,
        phase=phase,
        method=FineTune(),
        adapters=lora is not None,
        examples=[(Role.RETAIN, example) for example in examples],
    )
    note = f"{len(examples)} rows, {steps_of(phase, len(examples))} steps at most"
    return stored(
        run, stage, kind, made_from, lambda folder: _optimise(run, training, folder, folder), note=note, share=True
    )


def steps_of(phase: Phase, examples: int, *, retain: bool = False) -> int:
    """Optimizer steps of a phase whose epoch has so many examples, with or without retain examples beside them."""
    return count_steps(
        examples,
        batch_size=phase.batch_size,
        epochs=phase.epochs,
        chunk_size=phase.chunk_size,
        steps_each=phase.retain_ratio + 1 if phase.alternate and retain else 1,
    )


# ------------------------------------------------------------------------------------------------- unlearning


def unlearn(run: Run, target: Subject, base: Artifact | None) -> tuple[list[Artifact], Subject]:
    """(artifacts in order, the unlearned model) of the run's method."""
    method = run.settings.method
    match method:
        case NoOp():
            return [], target
        case InContext():
            return [], replace(target, context=context_of(method, run.data, run.refusals, run.settings.seed))
        case Retrain():
            retrained = retrained_artifact(run, base)
            return [retrained], Subject(path=str(retrained.path), key=retrained.key)
        case TaskVector():
            artifacts = task_vector(run, method, target)
        case MergeAdapters():
            artifacts = merged(run, method, target)
        case _:
            artifacts = optimised(run, method, target)
    return artifacts, Subject(path=str(artifacts[-1].path / "model"), key=artifacts[-1].key)


def in_run(
    run: Run, made_from: dict[str, Any], build: Callable[[Path], None], note: str, *, share: bool = False
) -> Artifact:
    """The unlearned model, in the run's own folder."""
    made_from = {"kind": "unlearned", "format": FORMAT, "seed": run.settings.seed, **made_from}
    path = run.folder / "unlearned"
    return Artifact(
        stage="unlearn", name="unlearned", path=path, made_from=made_from, build=build, note=note, share=share
    )


def rows_hash(examples: Sequence[tuple[Role, Example]]) -> str:
    """Identifies rows in their roles, refusals included."""
    return content_hash([[int(role), to_json(example)] for role, example in examples])


def reference_artifact(run: Run, method: Method, target: Subject) -> Artifact | None:
    """The frozen target's log-probs of the rows that the method compares with; None where it needs none."""
    needs = method.needs
    examples = [(role, example) for role, example in run.examples(needs) if role in needs.reference_logps]
    if not examples:
        return None
    made_from = {
        "target": target.key,
        "rows": rows_hash(examples),
        "whole_rows": sorted(needs.whole_rows),
        "numerics": run.numerics,
    }
    return stored(
        run,
        "unlearn",
        "reference",
        made_from,
        lambda folder: build_reference(run, target.path, examples, needs, folder),
        note=f"log-probs of {len(examples)} rows under the frozen target, computed once",
    )


def reference_note(needs: Needs, *, adapters: bool) -> str:
    """Where a method's reference comes from, in words."""
    live = "the model with its adapters off" if adapters else "one frozen copy of the target"
    cached = ["cached log-probs"] if needs.reference_logps else []
    return " and ".join([*cached, *([live] if needs.live_reference else [])]) or "none"


def _training(run: Run, method: Method, target: Subject, phase: Phase, cached: Artifact | None) -> Training:
    model = run.settings.model
    return Training(
        title=method.name,
        start=target.path,
        phase=phase,
        method=method,
        adapters=model.lora.enabled,
        examples=run.examples(method.needs),
        cache=ReferenceCache.load(cached.path) if cached else None,
        trainable=model.trainable,
    )


def _identity(run: Run, method: Method, target: Subject, phase: Phase) -> dict[str, Any]:
    model = run.settings.model
    return {
        "target": target.key,
        "rows": rows_hash(run.examples(method.needs)),
        "method": plain(method),
        "phase": asdict(phase),
        "lora": asdict(model.lora) if model.lora.enabled else None,
        "trainable": model.trainable,
        "checkpoint_every": run.settings.trainer.checkpoint_every,  # where a diverged run falls back to
        "numerics": run.numerics,
    }


def _note(run: Run, method: Method, phase: Phase) -> str:
    sides = {role.is_forget for role in method.needs.rows}
    retain = f" + {phase.batch_size * phase.retain_ratio} retain" if False in sides else ""
    told = reference_note(method.needs, adapters=run.settings.model.lora.enabled)
    steps = steps_of(phase, len(run.data.forget), retain=bool(retain))
    return f"{steps} steps of {phase.batch_size} forget{retain} examples; reference: {told}"


def optimised(run: Run, method: Method, target: Subject) -> list[Artifact]:
    """A loss, minimised from the target on."""
    phase, cached = run.settings.trainer.unlearn, reference_artifact(run, method, target)

    def build(folder: Path) -> None:
        _optimise(run, _training(run, method, target, phase, cached), folder, folder / "model")

    unlearned = in_run(run, _identity(run, method, target, phase), build, _note(run, method, phase), share=True)
    return [*([cached] if cached else []), unlearned]


def task_vector(run: Run, method: TaskVector, target: Subject) -> list[Artifact]:
    """Fine-tune the target further on the forget set, then subtract what that changed."""
    phase = run.settings.trainer.unlearn
    reinforced = _fine_tuned(run, "reinforced", run.data.forget, target, phase, stage="unlearn")

    def build(folder: Path) -> None:
        subtract(run, target.path, str(reinforced.path), method.alpha, folder / "model")

    made_from = {"target": target.key, "reinforced": reinforced.key, "alpha": method.alpha}
    return [reinforced, in_run(run, made_from, build, f"target - {method.alpha:g} x (reinforced - target)")]


def merged(run: Run, method: MergeAdapters, target: Subject) -> list[Artifact]:
    """Adapters unlearned one by one from the same target, then merged into it."""
    artifacts: list[Artifact] = []
    members: list[Artifact] = []
    for number, member in enumerate(method.members, 1):
        cached = reference_artifact(run, member.method, target)
        if cached is not None and cached.path not in [made.path for made in artifacts]:
            artifacts.append(cached)
        members.append(_adapter(run, member, number, target, cached))
        artifacts.append(members[-1])

    def build(folder: Path) -> None:
        merge_adapters(run, target.path, [str(made.path / "adapter") for made in members], method, folder / "model")

    made_from = {"target": target.key, "members": [made.key for made in members], "merge": merging(method)}
    return [*artifacts, in_run(run, made_from, build, f"{len(members)} adapters merged by {method.combination}")]


def merging(method: MergeAdapters) -> dict[str, Any]:
    """How adapters are merged, for hashing."""
    return {"combination": method.combination, "density": method.density, "weights": list(method.weights)}


def _adapter(run: Run, member: Member, number: int, target: Subject, cached: Artifact | None) -> Artifact:
    common = run.settings.trainer.unlearn
    phase = replace(
        common,
        learning_rate=member.learning_rate or common.learning_rate,
        epochs=member.epochs or common.epochs,
        batch_size=member.batch_size or common.batch_size,
    )
    method = member.method

    def build(folder: Path) -> None:
        training = _training(run, method, target, phase, cached)
        _optimise(run, replace(training, keep_adapters=True), folder, folder / "adapter")

    made_from = {"seed": run.settings.seed, **_identity(run, method, target, phase)}
    note = f"{method.name}: {_note(run, method, phase)}"
    return stored(run, "unlearn", "adapter", made_from, build, name=f"adapter {number}", note=note, share=True)
