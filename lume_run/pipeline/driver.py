"""The driver: shows what is due, makes it in order, and closes with the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from lume_run.attacks.base import Attacked
from lume_run.attacks.results import score_attacks
from lume_run.attacks.texts import returned_texts
from lume_run.common.console import console
from lume_run.common.errors import RunError
from lume_run.common.files import content_hash, digest_of, explain_full_disk, fingerprint, write_json
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Response, Score
from lume_run.common.secrets import without_secrets
from lume_run.common.store import Artifact
from lume_run.config.settings import Settings
from lume_run.evaluation.saved_responses import read_responses
from lume_run.evaluation.scoring import (
    cost_summary,
    gate,
    read_harness_scores,
    retrained_responses,
    score_model,
    score_models,
    unavailable_judges,
)
from lume_run.launch.preemption import signal_handlers, stop_if_requested
from lume_run.launch.spawn import spawn
from lume_run.models.load import config_of
from lume_run.pipeline.memory.launch_mode import choose_world
from lume_run.pipeline.memory.remedies import explain_out_of_memory
from lume_run.pipeline.plan import Plan, plan
from lume_run.pipeline.run import Run
from lume_run.report.card import write_card
from lume_run.report.manifest import earlier_hardware, hardware, run_manifest
from lume_run.report.saved_scores import RunScores, read_scores, save_scores, scores_key
from lume_run.report.sequence.scores import score_requests
from lume_run.report.warnings import ending_warnings, memorisation_warnings, script_warnings
from lume_run.report.write import Report, print_report, write_report
from lume_run.tasks.requests import ForgetRequest, forget_requests
from lume_run.tracking.tracker import Tracker, track_run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """What the stages made: responses and harness scores by model, seconds by stage, and where the data came from.

    `attacked` are responses of models under attack, `between` (with harness scores) after each of `requests` but one.
    `read` are the digests of what all was read from, by name.
    """

    responses: Mapping[str, Sequence[Response]]
    attacked: Sequence[tuple[Attacked, Sequence[Response]]] = ()
    between: Sequence[tuple[Sequence[Response], Sequence[Score]]] = ()
    requests: Sequence[ForgetRequest] = ()
    harness_scores: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    read: Mapping[str, str] = field(default_factory=dict)


def run_pipeline(settings: Settings, folder: Path, *, identity: Mapping[str, Any], command: Sequence[str]) -> Report:
    """Run everything that is due in `folder` and return the report; what is done already is kept."""
    with explain_full_disk(folder), signal_handlers():
        folder.mkdir(parents=True, exist_ok=True)
        read = read_results(settings) if settings.stages == ["score"] else None
        record = run_manifest(list(command), content_hash(identity), settings.seed, earlier_hardware(folder))
        record = without_secrets(record)
        write_json(folder / "manifest.json", record)
        with track_run(settings, folder, identity, record) as tracker:
            results = read or _make_artifacts(settings, folder, record, tracker)
            report = score_and_report(settings, folder, record, results)
            tracker.finish(report, results.responses)
        return report


def read_results(settings: Settings) -> RunResults:
    """The responses that a run without a model scores."""
    path = Path(str(settings.responses))
    read = {"responses": digest_of(path) if path.is_file() else fingerprint(str(path))}
    return RunResults(responses={"model": read_responses(path)}, read=read)


def _make_artifacts(settings: Settings, folder: Path, record: dict[str, Any], tracker: Tracker) -> RunResults:
    """Make what is due, and write into `record` how that went."""
    run = Run(settings, folder)
    run = replace(run, world=choose_world(run))
    steps = plan(run)
    require_reference(settings)
    for reason in unavailable_judges(settings) if steps.responses else ():
        console.print(f"  [yellow]{escape(reason)}[/]", soft_wrap=True)
    console.print(f"[bold]{escape(folder.name)}[/]  {escape(run.data.source)}", soft_wrap=True)
    if run.world.needs_torchrun or settings.launch.name == "auto":
        console.print(f"[bold]launch[/] {run.world} ({run.world.why})", soft_wrap=True)
    if not all(artifact.is_cached for artifact in steps.artifacts):
        record["hardware"] = hardware()
    seconds: dict[str, float] = {}
    for artifact in steps.artifacts:
        _make(run, artifact, tracker)
        seconds[artifact.stage] = seconds.get(artifact.stage, 0.0) + artifact.seconds  # also when made before
    results = results_of(run, steps, seconds)
    record["training"] = training_outcomes([artifact for artifact in steps.artifacts if artifact.stage != "attack"])
    record["attacks"] = training_outcomes([artifact for artifact in steps.artifacts if artifact.stage == "attack"])
    record["artifacts"] = {
        artifact.name: str(artifact.path / "model" if artifact.path.is_relative_to(folder) else artifact.path)
        for artifact in steps.artifacts
    }
    record["costs"] = {
        name: cost_summary(run.questions_by_suite, results.responses[name], artifact.path)
        for name, artifact in steps.responses.items()
    }
    write_json(folder / "manifest.json", record)
    return results


def results_of(run: Run, steps: Plan, seconds: Mapping[str, float]) -> RunResults:
    """What the artifacts hold, when all of them are there."""
    responses = {name: responses_in(artifact) for name, artifact in steps.responses.items()}
    sequence = run.settings.sequence
    count = None if sequence.apart else sequence.requests
    return RunResults(
        responses=responses,
        attacked=[(of, responses_in(artifact)) for of, artifact in steps.attacked],
        between=[(responses_in(artifact), read_harness_scores(measured)) for artifact, measured in steps.between],
        requests=forget_requests(run.data, count) if count is not None and "unlearned" in responses else (),
        harness_scores={name: read_harness_scores(measured) for name, measured in steps.harness_scores.items()},
        seconds=seconds,
        source=run.data.source + (f"; in {run.text_format}" if run.text_format.chat is not None else ""),
        read=digests_of(steps),
    )


def digests_of(steps: Plan) -> dict[str, str]:
    """What the files of answers and of harness scores hold, by what they are and of which model."""
    responses = {f"responses {name}": artifact for name, artifact in steps.responses.items()}
    responses |= {f"responses {of.name}": artifact for of, artifact in steps.attacked}
    responses |= {f"responses {artifact.name}": artifact for artifact, _ in steps.between}
    digests = {name: digest_of(artifact.path / "responses.jsonl") for name, artifact in responses.items()}
    for artifacts in (*steps.harness_scores.values(), *(measured for _, measured in steps.between)):
        digests |= {f"measured {of.name}": digest_of(of.path / "scores.jsonl") for of in artifacts}
    return digests


def responses_in(artifact: Artifact) -> list[Response]:
    """What a model answered, from its artifact."""
    return read_jsonl(artifact.path / "responses.jsonl", Response)


def require_reference(settings: Settings) -> None:
    """RunError before anything is made where the retrained model cannot be reached."""
    if settings.evaluator.retrained_model is not None:
        try:
            config_of(settings.evaluator.retrained_model, settings.model)
        except RunError as error:
            raise type(error)(str(error).replace("model.path=", "evaluator.retrained_model=")) from error


def _make(run: Run, artifact: Artifact, tracker: Tracker) -> None:
    """Make one artifact, here or by several ranks, and say so."""
    state = "[green]cached[/]" if artifact.is_cached else ""
    console.print(f"[bold]{artifact.stage}[/] {artifact.name}  {artifact.note}  {state}", soft_wrap=True)
    tracker.follow(artifact)
    with explain_out_of_memory(run, artifact.stage, artifact.name):
        ranks = partial(spawn, run.world, run.folder) if run.world.needs_torchrun else None
        artifact.make(ranks, verify=run.settings.verify)
    stop_if_requested("making " + artifact.name)


def training_outcomes(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """How each optimisation went, by the name of its artifact."""
    paths = {artifact.name: artifact.path / "outcome.json" for artifact in artifacts}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def score_and_report(settings: Settings, folder: Path, record: Mapping[str, Any], results: RunResults) -> Report:
    """Score the responses (no model needed), write the report, show it; what is finished already is only shown."""
    key = saved_key(settings, folder, record, results)
    saved = read_scores(folder, key)
    scored = saved or score_all(settings, folder, results)
    report = report_of(settings, folder, record, results, scored)
    if saved is None:
        write_report(report, folder)
        write_card(report, settings, folder / "unlearned")
        if key is not None:
            save_scores(folder, key, scored)
    print_report(report, folder, console)
    return report


def saved_key(settings: Settings, folder: Path, record: Mapping[str, Any], results: RunResults) -> str | None:
    """What scores and report depend on; None where they are made at every start."""
    of_record = [record.get(name) for name in ("config_hash", "seed", "versions", "training", "attacks", "costs")]
    return scores_key(settings, results.read, [folder.name, dict(results.seconds), results.source, *of_record])


def score_all(settings: Settings, folder: Path, results: RunResults) -> RunScores:
    """Scores of all models and of those under attack; they and the responses are written into the folder."""
    models = score_models(settings, folder, results.responses, results.harness_scores)
    attacks = score_attacks(settings, folder, results.responses, results.attacked)
    if attacks is not None:
        attacks = replace(attacks, texts=tuple(returned_texts(attacks, results.responses, results.attacked)))
    others = retrained_responses(settings, results.responses), results.responses.get("target")
    between = [
        replace(score_model(settings, f"after {done} requests", rows, *others), measured=measured)
        for done, (rows, measured) in enumerate(results.between, 1)
    ]
    chain = [models.get("target"), *between, models.get("unlearned")]
    return RunScores(
        scores={name: model.by_name for name, model in models.items()},
        official={name: model.official for name, model in models.items() if model.official is not None},
        attacks=attacks,
        sequence=score_requests(results.requests, [model for model in chain if model is not None]),
    )


def report_of(
    settings: Settings, folder: Path, record: Mapping[str, Any], results: RunResults, scored: RunScores
) -> Report:
    """All that a run showed, with what there is to warn of."""
    scores = scored.scores
    judged = "unlearned" if "unlearned" in scores else next(iter(scores), "")
    accuracies = {name: values["mmlu.accuracy"].value for name, values in scores.items() if "mmlu.accuracy" in values}
    passed, rule = gate(accuracies.get(judged), accuracies.get("target"), settings.model.mmlu_gate)
    return Report(
        name=folder.name,
        scores=scores,
        gate=passed,
        gate_rule=rule,
        seconds=results.seconds,
        manifest=record,
        source=results.source or str(settings.responses),
        strict=scored.official or None,
        costs=record.get("costs", {}),
        attacks=scored.attacks,
        sequence=scored.sequence,
        warnings=(
            *ending_warnings(record.get("training", {})),
            *ending_warnings(record.get("attacks", {})),
            *(() if settings.model.is_target else memorisation_warnings(scores.get("target", {}))),
            *script_warnings(results.responses.get(judged, ())),
        ),
    )
