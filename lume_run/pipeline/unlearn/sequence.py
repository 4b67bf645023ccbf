"""Requests one after another: a model unlearned for each, from the model after the one before or from the target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lume_run.common.errors import ConfigError
from lume_run.common.store import Artifact
from lume_run.methods.baselines import AS_IT_ANSWERS
from lume_run.pipeline.artifacts import EvaluatedModel
from lume_run.pipeline.checks.rows import unretained_problems
from lume_run.pipeline.run import Run
from lume_run.pipeline.unlearn.mix import mixed_artifact, mixed_model
from lume_run.pipeline.unlearn.prepare import shared_reference
from lume_run.pipeline.unlearn.stopping import request_artifacts
from lume_run.tasks.requests import forget_requests


@dataclass(frozen=True, slots=True)
class Chain:
    """The artifacts of all requests in order, and the model after each request."""

    artifacts: list[Artifact] = field(default_factory=list)
    models: list[EvaluatedModel] = field(default_factory=list)


def request_chain(run: Run, target: EvaluatedModel, base: Artifact | None) -> Chain:
    """Unlearn the requests of a run: one after another, or without a sequence all at once."""
    sequence = run.settings.sequence
    if sequence.requests is None:
        artifacts, model = request_artifacts(run, target, base)
        if (share := run.settings.mix) is not None:
            artifacts.append(mixed_artifact(run, target, model, share))
            model = mixed_model(artifacts[-1])
        return Chain(artifacts, [model])
    if sequence.apart:
        return _models_apart(run, target, base)
    chain = Chain()
    growing = sequence.growing or isinstance(run.settings.method, AS_IT_ANSWERS)  # of all that was asked for
    for request in forget_requests(run.data, sequence.requests, growing=growing):
        start = target if growing or not chain.models else chain.models[-1]
        reference = target if sequence.reference == "first" else start
        artifacts, model = request_artifacts(run.of_request(request), start, base, reference)
        before = {artifact.path for artifact in chain.artifacts}
        chain.artifacts.extend(artifact for artifact in artifacts if artifact.path not in before)
        chain.models.append(model)
    return chain


def _models_apart(run: Run, target: EvaluatedModel, base: Artifact | None) -> Chain:
    """A model for each request, from the target, that is asked about the documents of the request alone.

    What a loss compares with is computed once for the rows of all. ConfigError for requests without rows to keep, where
    the method reads some.
    """
    requests = forget_requests(run.data, run.settings.sequence.requests or "auto", apart=True)
    if problems := list(unretained_problems(run.settings.method, requests, run.data)):
        raise ConfigError(problems)
    parts = [run.of_request(request) for request in requests]
    shared = shared_reference(run, parts, target)
    chain = Chain([shared] if shared else [])
    for part in parts:
        artifacts, model = request_artifacts(part, target, base, shared=shared)
        chain.artifacts.extend(artifact for artifact in artifacts if artifact is not shared)
        assert part.request is not None
        chain.models.append(replace(model, about=part.request.documents))
    return chain
