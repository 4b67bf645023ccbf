"""The pipeline as a list of artifacts: what a run consists of, known without touching a weight.

Making the artifacts in order is the run. What an artifact depends on is written beside it, so that the store can share
targets, reference log-probs and responses between runs, and a restart knows what is due. How each model comes about is
in `train.py` and `unlearn.py`, what is asked of it in `evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from lume_run.attacks.base import Attacked
from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.store import Artifact
from lume_run.evaluation.questions import needs_retrained
from lume_run.methods.jensun import TokenLogProb
from lume_run.models.files.kept import ModelKeeper
from lume_run.models.layers import stream_fault
from lume_run.models.weights import meta_model, pattern_problems
from lume_run.pipeline.artifacts import EvaluatedModel
from lume_run.pipeline.attack import attempts_of
from lume_run.pipeline.checks.rows import unasked_problems
from lume_run.pipeline.evaluate import harness_artifacts, responses_artifact
from lume_run.pipeline.run import Run
from lume_run.pipeline.train import base_artifact, retrained_model, train_artifact
from lume_run.pipeline.unlearn.apart import answers_apart
from lume_run.pipeline.unlearn.sequence import Chain, request_chain

AFTER_REQUEST = "after-request-"  # and its number: a model between requests


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run consists of, in order; the responses and the harness scores of each evaluated model by its name.

    `attacked` are the responses of each model under an attack, `between` those after each request but the last with its
    harness scores.
    """

    artifacts: tuple[Artifact, ...]
    responses: dict[str, Artifact]
    harness_scores: dict[str, list[Artifact]]
    attacked: tuple[tuple[Attacked, Artifact], ...] = ()
    between: tuple[tuple[Artifact, list[Artifact]], ...] = ()


def plan(run: Run) -> Plan:
    """Every artifact of this run in order.

    Where requests are apart and one process makes everything, the target stays in memory from the first to the last.
    Raises ConfigError where the method needs weights or layers that the model lacks, RunError for stages that cannot
    follow each other.
    """
    if problems := model_problems(run):
        raise ConfigError(problems)
    steps = _whole_plan(run)
    if not run.settings.sequence.apart or run.world.needs_torchrun:
        return steps
    trained = (str(artifact.path) for artifact in steps.artifacts if artifact.name == "target")
    keeper = ModelKeeper(next(trained, str(run.settings.model.path)))
    kept = tuple(replace(artifact, build=keeper.around(artifact.build)) for artifact in steps.artifacts)
    return replace(steps, artifacts=kept)


def _whole_plan(run: Run) -> Plan:
    stages = run.settings.stages
    base = base_artifact(run)
    artifacts: list[Artifact] = [base] if base else []
    models: dict[str, EvaluatedModel] = {}
    requests = Chain()
    if stages == ["evaluate"]:
        assert base is None  # checks.py refuses to evaluate alone without a model.path
        models |= {"model": start_model(run, base), **models_before(run)}
    else:
        trained = None if run.settings.model.is_target else target_artifact(run, base)
        artifacts += [trained] if trained else []
        models["target"] = EvaluatedModel.of(trained) if trained else start_model(run, base)
    if "unlearn" in stages:
        requests = request_chain(run, models["target"], base)
        artifacts += requests.artifacts
        if not run.settings.sequence.apart:
            models["unlearned"] = requests.models[-1]
    if "evaluate" not in stages:
        return Plan(artifacts=tuple(artifacts), responses={}, harness_scores={})
    if problems := list(unasked_problems(run.settings, run.data, run.questions_by_suite)):
        raise ConfigError(problems)
    references, artifacts_of_references = reference_models(run, base, alone="model" in models)
    artifacts += [artifact for artifact in artifacts_of_references if artifact.path not in paths_of(artifacts)]
    if run.settings.sequence.apart:
        return _plan_apart(run, artifacts, models | references, requests.models)
    return evaluation_plan(run, artifacts, models | references, requests.models[:-1])


def _plan_apart(
    run: Run, artifacts: Sequence[Artifact], models: Mapping[str, EvaluatedModel], unlearned: Sequence[EvaluatedModel]
) -> Plan:
    """The plan behind `artifacts` where each request has a model of its own, whose answers are put together."""
    whole = evaluation_plan(run, artifacts, models, [])
    answers = answers_apart(run, unlearned, models["target"])
    return replace(
        whole, artifacts=(*whole.artifacts, *answers), responses={**whole.responses, "unlearned": answers[-1]}
    )


def evaluation_plan(
    run: Run, artifacts: Sequence[Artifact], models: Mapping[str, EvaluatedModel], between: Sequence[EvaluatedModel]
) -> Plan:
    """The plan behind `artifacts`: attacks, and what all models answer, those `between` requests as well."""
    attempts, target = attempts_of(run, models), models.get("target")
    responses = {name: responses_artifact(run, name, model, target) for name, model in models.items()}
    harness_scores = {name: harness_artifacts(run, name, model) for name, model in models.items()}
    attacked = tuple((of, responses_artifact(run, of.name, model, target)) for of, model in attempts.models)
    evaluation = (*responses.values(), *chain.from_iterable(harness_scores.values()))
    names = [f"{AFTER_REQUEST}{number}" for number in range(1, len(between) + 1)]
    answered = [responses_artifact(run, name, model, target) for name, model in zip(names, between, strict=True)]
    measured = [harness_artifacts(run, name, model) for name, model in zip(names, between, strict=True)]
    attacks = (*attempts.artifacts, *evaluation, *(artifact for _, artifact in attacked))
    return Plan(
        artifacts=(*artifacts, *attacks, *answered, *chain.from_iterable(measured)),
        responses=responses,
        harness_scores=harness_scores,
        attacked=attacked,
        between=tuple(zip(answered, measured, strict=True)),
    )


def paths_of(artifacts: Iterable[Artifact]) -> set[Path]:
    """Where artifacts stand: two of one path are the same."""
    return {artifact.path for artifact in artifacts}


def reference_models(
    run: Run, base: Artifact | None, *, alone: bool
) -> tuple[dict[str, EvaluatedModel], list[Artifact]]:
    """Models that never saw the forget set, which scores or attacks compare with, and what is to be made for them.

    `alone`: a model is evaluated alone, of which nothing says how it was trained.
    """
    settings, model = run.settings, run.settings.model
    if settings.evaluator.retrained_model is not None or (can_retrain(run) and not alone):
        retrained, artifacts = retrained_model(run, base)
        return {"retrained": retrained}, artifacts
    path = model.base if alone or model.is_target else model.path
    if not settings.attack.attacks or settings.attack.control == "none" or (base is None and path is None):
        return {}, []
    if base is None:
        return {"base": EvaluatedModel.at(str(path), model)}, []
    return {"base": EvaluatedModel.of(base)}, []


def models_before(run: Run) -> dict[str, EvaluatedModel]:
    """The model before unlearning, where a model is evaluated alone and `attack.target` names it."""
    path, model = run.settings.attack.target, run.settings.model
    return {"target": EvaluatedModel.at(path, model)} if path is not None else {}


def start_model(run: Run, base: Artifact | None) -> EvaluatedModel:
    """The model that a run starts from: the one that it builds, or the one that `model.path` names."""
    if base is not None:
        return EvaluatedModel.of(base)
    return EvaluatedModel.at(str(run.settings.model.path), run.settings.model)


def target_artifact(run: Run, base: Artifact | None) -> Artifact:
    """The target that this run trains; RunError where it is not trained yet and training is no stage of the run."""
    target = train_artifact(run, start_model(run, base))
    if "train" not in run.settings.stages and not target.is_done:
        raise RunError(f"There is no trained target at {target.path}; add train to stages.")
    return target


def can_retrain(run: Run) -> bool:
    """Whether a model that never saw the forget set is asked for and can be trained; a released target needs a base."""
    settings, model = run.settings, run.settings.model
    controls = bool(settings.attack.attacks) and settings.attack.control == "auto" and bool(run.data.retain)
    asked = needs_retrained(settings.evaluator) or controls
    return asked and (not model.is_target or model.base is not None)


def model_problems(run: Run) -> list[Problem]:
    """Weights, layers and tokens that the settings name and the model lacks; none where its config is unavailable."""
    model, needs = run.settings.model, run.settings.method.needs
    tokens = [loss.token for loss in needs.token_losses if isinstance(loss, TokenLogProb)]
    if "unlearn" not in run.settings.stages or (model.trainable is None and needs.hidden_layer is None and not tokens):
        return []
    config = run.model_config.config
    if config is None:  # loading the model will say so
        return []
    problems = pattern_problems(model.trainable, meta_model(config)) if model.trainable is not None else []
    layers, vocabulary = config.get_text_config().num_hidden_layers, config.get_text_config().vocab_size
    if needs.hidden_layer is not None and (fault := stream_fault(config)):
        what, remedy = f"'{run.settings.method.name}' reads hidden states, and {fault}", "a method that reads logits"
        problems.append(Problem(where="method", what=what, remedy=remedy))
    elif needs.hidden_layer is not None and needs.hidden_layer >= layers:
        what = f"layer {needs.hidden_layer} is read, but the last layer is {layers - 1}"
        problems.append(Problem(where="method.forget.layer", what=what, remedy="a smaller one, or -1 for the middle"))
    if tokens and max(tokens) >= vocabulary:
        what = f"token {max(tokens)} is named, but the last token is {vocabulary - 1}"
        problems.append(Problem(where="method.forget.tokens", what=what, remedy="[], and method.forget.target=TEXT"))
    return problems
