"""The pipeline as a list of artifacts: what a run consists of, known without touching a weight.

Making the artifacts in order is the run. What an artifact depends on is written beside it, so the
store can share targets, reference log-probs and responses between runs, and a restart knows what is due.
`recipes.py` says how the unlearned model comes about.
"""

from __future__ import annotations

from dataclasses import dataclass

from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.files import fingerprint
from lume_run.common.store import Artifact
from lume_run.evaluation.questions import needs_retrained
from lume_run.models.weights import meta_model, pattern_problems
from lume_run.pipeline.artifacts import EvaluatedModel
from lume_run.pipeline.evaluate import harness_artifacts, responses_artifact
from lume_run.pipeline.run import Run
from lume_run.pipeline.train import base_artifact, retrained_artifact, train_artifact
from lume_run.pipeline.unlearn import unlearning_artifacts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run consists of, in order.

    `responses` are the evaluated models' records by model name, `measured` the scores that harnesses take from them.
    """

    artifacts: tuple[Artifact, ...]
    responses: dict[str, Artifact]
    measured: dict[str, list[Artifact]]


def plan(run: Run) -> Plan:
    """Every artifact of this run in order.

    Raises ConfigError where the method asks the model for what it has not, RunError for stages that cannot
    follow each other.
    """
    if problems := model_problems(run):
        raise ConfigError(problems)
    stages = run.settings.stages
    base = base_artifact(run)
    artifacts: list[Artifact] = [base] if base else []
    start = EvaluatedModel(
        path=str(base.path if base else run.settings.model.path),
        key=base.key if base else fingerprint(str(run.settings.model.path)),
    )
    subjects: dict[str, EvaluatedModel] = {}
    if stages == ["evaluate"]:
        assert base is None  # checks.py refuses to evaluate alone without a model.path
        subjects["model"] = start
    else:
        target = None if run.settings.model.is_target else train_artifact(run, start)
        if target is not None:
            if "train" not in stages and not target.is_done:
                raise RunError(f"There is no trained target at {target.path}; add train to stages.")
            artifacts.append(target)
        subjects["target"] = EvaluatedModel(path=str(target.path), key=target.key) if target else start
    if "unlearn" in stages:
        steps, subjects["unlearned"] = unlearning_artifacts(run, subjects["target"], base)
        artifacts += steps
    responses: dict[str, Artifact] = {}
    measured: dict[str, list[Artifact]] = {}
    if "evaluate" in stages:
        if can_retrain(run) and "model" not in subjects:
            retrained = retrained_artifact(run, base)
            artifacts += [retrained] if retrained.path not in [made.path for made in artifacts] else []
            subjects["retrained"] = EvaluatedModel(path=str(retrained.path), key=retrained.key)
        responses = {name: responses_artifact(run, name, subject) for name, subject in subjects.items()}
        measured = {name: harness_artifacts(run, name, subject) for name, subject in subjects.items()}
        artifacts += [*responses.values(), *(made for own in measured.values() for made in own)]
    return Plan(artifacts=tuple(artifacts), responses=responses, measured=measured)


def can_retrain(run: Run) -> bool:
    """Whether a model that never saw the forget set is wanted and can be made: from the base of a released target."""
    model = run.settings.model
    return needs_retrained(run.settings.evaluator) and (not model.is_target or model.base is not None)


def model_problems(run: Run) -> list[Problem]:
    """Weights and layers that the config names and the model has not; none where its config cannot be had."""
    model, needs = run.settings.model, run.settings.method.needs
    if "unlearn" not in run.settings.stages or (model.trainable is None and needs.hidden_layer is None):
        return []
    config, _, _ = run.model_config
    if config is None:  # loading the model will say so
        return []
    problems = pattern_problems(model.trainable, meta_model(config)) if model.trainable is not None else []
    if needs.hidden_layer is not None and needs.hidden_layer >= config.num_hidden_layers:
        what = f"layer {needs.hidden_layer} is read, but the last layer is {config.num_hidden_layers - 1}"
        problems.append(Problem(where="method.forget.layer", what=what, remedy="a smaller one, or -1 for the middle"))
    return problems
