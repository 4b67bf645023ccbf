"""A model between the one before and the one after unlearning, on the straight line between their weights.

target + mix x (unlearned - target): unlearning with control (arXiv:2406.09179) moves every method back along this line
until all have kept as much, and compares then what they forgot.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lume_run.common.files import content_hash
from lume_run.common.store import Artifact
from lume_run.pipeline.artifacts import ARTIFACT_FORMAT, EvaluatedModel
from lume_run.pipeline.run import Run

OF_TRAINING = ("outcome.json", "history.json")  # how the unlearning went, which reports read beside the model


def mixed_artifact(run: Run, target: EvaluatedModel, unlearned: EvaluatedModel, share: float) -> Artifact:
    """The model at `share` of the way, in the run's folder; runs that need the same make it once."""
    inputs = {
        "kind": "mixed",
        "format": ARTIFACT_FORMAT,
        "target": target.key,
        "unlearned": unlearned.key,
        "mix": share,
    }

    def build(folder: Path) -> None:
        from lume_run.models.merge import interpolate_weights

        interpolate_weights(run.settings.model, target.path, unlearned.path, share, folder / "model")
        for name in OF_TRAINING:
            places = [place / name for place in (Path(unlearned.path), Path(unlearned.path).parent)]
            if file := next((place for place in places if place.exists()), None):
                shutil.copy2(file, folder / name)

    return Artifact(
        stage="unlearn",
        name="unlearned",
        path=run.folder / "unlearned",
        inputs=inputs,
        build=build,
        note=f"{share:g} of the way from the target to the unlearned model",
        note_file=run.settings.store / "mixed" / f"{content_hash(inputs)}.json",
    )


def mixed_model(artifact: Artifact) -> EvaluatedModel:
    """The model that is evaluated in place of the unlearned one."""
    return EvaluatedModel.of(artifact, "model")
