"""What artifacts of a run have in common: the hash of their inputs, and their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from lume_run.attacks.base import Rewriting, is_scored
from lume_run.common.files import content_hash
from lume_run.common.records import Question
from lume_run.common.store import Artifact
from lume_run.config.model_settings import ModelSettings
from lume_run.config.resolve import without_unset
from lume_run.config.targets import class_name
from lume_run.methods.baselines import Context, with_context
from lume_run.models.hub import model_identity
from lume_run.pipeline.run import Run

ARTIFACT_FORMAT = 2  # raise it when a change makes stored artifacts wrong


@dataclass(frozen=True, kw_only=True)
class Reinforced:
    """The model beside another whose logits it lowers, by so much: its folder, and what identifies it."""

    path: str
    key: str
    alpha: float


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model that is trained further or evaluated: its folder or id, what identifies it, the context it answers in.

    Or the `reinforced` model that is run beside it.

    Under an attack it is asked about the forget documents `held_out` alone (empty: all), and what `rewrite` makes of
    the questions. Of requests apart it is asked what is `about` the documents of its own (empty: everything).
    """

    path: str
    key: str
    context: Context | None = None
    reinforced: Reinforced | None = None
    held_out: frozenset[str] = frozenset()
    rewrite: Rewriting | None = None
    about: frozenset[str] = frozenset()

    @classmethod
    def of(cls, artifact: Artifact, part: str = "") -> EvaluatedModel:
        """The model that an artifact is, or a folder within it."""
        return cls(path=str(artifact.path / part), key=artifact.key)

    @classmethod
    def at(cls, path: str, settings: ModelSettings) -> EvaluatedModel:
        """The model of a folder or hub id."""
        return cls(path=path, key=model_identity(path, settings))

    def questions_in_context(self, questions: Sequence[Question]) -> Sequence[Question]:
        """The questions that this model is asked, with its context before them."""
        asked = [question for question in questions if is_scored(question.example, self.held_out)]
        asked = [question for question in asked if not self.about or question.example.document in self.about]
        asked = list(self.rewrite(asked)) if self.rewrite else asked
        return with_context(asked, self.context) if self.context is not None else asked


def data_for_hash(node: Any) -> Any:
    """A method or setting as JSON-able data with its class name, for hashing.

    Classes of lume_run go by their own names, so that one may move to another module and artifacts stay valid.
    """
    if is_dataclass(node) and not isinstance(node, type):
        values = without_unset({name: getattr(node, name) for name in node.__dataclass_fields__})
        fields = {name: data_for_hash(value) for name, value in values.items()}
        return {"class": class_name(f"{type(node).__module__}.{type(node).__qualname__}"), **fields}
    return node


def store_artifact(
    run: Run,
    stage: str,
    kind: str,
    inputs: dict[str, Any],
    build: Callable[[Path], None],
    *,
    name: str = "",
    note: str = "",
    share: bool = False,
    gather: Callable[[Path], object] | None = None,
    tokens: Callable[[], Mapping[str, float]] | None = None,
) -> Artifact:
    """An artifact in the shared store, named by the hash of its inputs."""
    title = name or kind
    inputs = {"kind": kind, "format": ARTIFACT_FORMAT, **inputs}
    return Artifact(
        stage=stage,
        name=title if run.request is None else f"{title}, request {run.request.number}",
        path=run.settings.store / kind / content_hash(inputs),
        inputs=inputs,
        build=build,
        note=note,
        share=share,
        gather=gather,
        tokens=tokens,
    )


def unlearned_artifact(
    run: Run,
    inputs: dict[str, Any],
    build: Callable[[Path], None],
    note: str,
    *,
    share: bool = False,
    tokens: Callable[[], Mapping[str, float]] | None = None,
) -> Artifact:
    """The unlearned model, in the run's own folder; runs that differ in attacks or evaluators alone make it once.

    Models between requests, and all of requests apart, stand beside it, in folders by the number of the request.
    """
    inputs = {"kind": "unlearned", "format": ARTIFACT_FORMAT, "seed": run.settings.seed, **inputs}
    with_adapter = run.settings.model.lora.save  # changes no weight, and so is none of the inputs
    noted = content_hash({**inputs, "adapter": with_adapter})
    between = run.request is not None and (run.request.apart or not run.request.is_last)
    place = "unlearned" if run.settings.mix is None else "unmixed"  # what is evaluated stands in `unlearned`
    return Artifact(
        stage="unlearn",
        name=f"request {run.request.number}" if between and run.request else "unlearned",
        path=run.folder / (f"requests/{run.request.number}" if between and run.request else place),
        inputs=inputs,
        build=build,
        note=note,
        share=share,
        note_file=run.settings.store / "unlearned" / f"{noted}.json",
        tokens=tokens,
    )
