"""The driver: shows what is due, makes it in order, and closes with the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.files import content_hash, explain_full_disk, write_json
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Response, Score
from lume_run.common.store import Artifact
from lume_run.config.settings import Settings
from lume_run.evaluation.saved_responses import read_responses
from lume_run.evaluation.scoring import cost_summary, gate, read_harness_scores, score_models, unavailable_judges
from lume_run.launch.preemption import signal_handlers, stop_if_requested
from lume_run.launch.spawn import spawn
from lume_run.pipeline.manifest import run_manifest
from lume_run.pipeline.memory.launch_mode import choose_world
from lume_run.pipeline.memory.remedies import explain_out_of_memory
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run
from lume_run.report.write import Report, print_report, write_report
from lume_run.tracking.tracker import Tracker, track_run

RunResults = tuple[dict[str, list[Response]], dict[str, float], str, dict[str, list[Score]]]  # see `score_and_report`
MEMORISED_SCORE = 0.9  # below this, a target has too little to forget


def run_pipeline(settings: Settings, folder: Path, *, identity: Mapping[str, Any], command: Sequence[str]) -> Report:
    """Run everything that is due in `folder` and return the report; what is done already is kept."""
    with explain_full_disk(folder), signal_handlers():
        return _run_pipeline(settings, folder, identity, command)


def _run_pipeline(settings: Settings, folder: Path, identity: Mapping[str, Any], command: Sequence[str]) -> Report:
    folder.mkdir(parents=True, exist_ok=True)
    record = run_manifest(list(command), content_hash(identity), settings.seed)
    write_json(folder / "manifest.json", record)
    with track_run(settings, folder, identity, record) as tracker:
        made = _make_artifacts(settings, folder, record, tracker)
        report = score_and_report(settings, folder, record, *made)
        tracker.finish(report, made[0])
    return report


def _make_artifacts(settings: Settings, folder: Path, record: dict[str, Any], tracker: Tracker) -> RunResults:
    """Make what is due, and write into `record` how that went."""
    if settings.stages == ["score"]:
        return {"model": read_responses(Path(str(settings.responses)))}, {}, "", {}
    run = Run(settings, folder)
    world = choose_world(run)
    run = replace(run, world=world)
    steps = plan(run)
    for reason in unavailable_judges(settings) if steps.responses else ():
        console.print(f"  [yellow]{escape(reason)}[/]", soft_wrap=True)
    console.print(f"[bold]{escape(folder.name)}[/]  {escape(run.data.source)}", soft_wrap=True)
    if world.needs_torchrun or settings.launch.name == "auto":
        console.print(f"[bold]launch[/] {world} ({world.why})", soft_wrap=True)
    seconds: dict[str, float] = {}
    for artifact in steps.artifacts:
        state = "[green]cached[/]" if artifact.is_done else ""
        console.print(f"[bold]{artifact.stage}[/] {artifact.name}  {artifact.note}  {state}", soft_wrap=True)
        tracker.follow(artifact)
        with explain_out_of_memory(run, artifact.stage, artifact.name):
            artifact.make(partial(spawn, world, folder) if world.needs_torchrun else None)
        stop_if_requested("making " + artifact.name)
        seconds[artifact.stage] = seconds.get(artifact.stage, 0.0) + artifact.seconds  # also when made before
    responses = {name: read_jsonl(made.path / "responses.jsonl", Response) for name, made in steps.responses.items()}
    record["training"] = training_outcomes(steps.artifacts)
    record["artifacts"] = {
        made.name: str(made.path / "model" if made.name == "unlearned" else made.path) for made in steps.artifacts
    }
    record["costs"] = {
        name: cost_summary(run.asked, responses[name], made.path) for name, made in steps.responses.items()
    }
    write_json(folder / "manifest.json", record)
    measured = {name: read_harness_scores(own) for name, own in steps.measured.items()}
    return responses, seconds, run.data.source, measured


def training_outcomes(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """How each optimisation went, by the name of what it made."""
    found = {made.name: made.path / "outcome.json" for made in artifacts}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.exists()}


def ending_warnings(training: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Optimisations that ended before their last step, and why."""
    return tuple(
        f"{name} {word.upper()}: {own[word]}, after {own['steps']} of {own['planned_steps']} steps"
        for name, own in training.items()
        for word in ("diverged", "stopped")
        if own[word]
    )


def memorisation_warnings(target: Mapping[str, Score]) -> tuple[str, ...]:
    """What to tell about a target that did not learn its documents: nothing can be seen to be forgotten then."""
    weak = [
        f"{name} {value:.2f}"
        for name in ("forget.knowledge", "retain.knowledge", "forget.regurgitation", "retain.regurgitation")
        if name in target and (value := target[name].value) is not None and value < MEMORISED_SCORE
    ]
    told = f"the target did not memorise its documents ({', '.join(weak)}): raise trainer.train.epochs"
    return (told,) if weak else ()


def score_and_report(
    settings: Settings,
    folder: Path,
    record: Mapping[str, Any],
    responses: Mapping[str, Sequence[Response]],
    seconds: Mapping[str, float],
    source: str,
    measured: Mapping[str, Sequence[Score]] | None = None,
) -> Report:
    """Score the responses (no model needed), write the report, show it."""
    scores, official = score_models(settings, folder, responses, measured or {})
    judged = "unlearned" if "unlearned" in scores else next(iter(scores), "")
    accuracies = {name: own["mmlu.accuracy"].value for name, own in scores.items() if "mmlu.accuracy" in own}
    passed, rule = gate(accuracies.get(judged), accuracies.get("target"), settings.model.mmlu_gate)
    report = Report(
        name=folder.name,
        scores=scores,
        gate=passed,
        gate_rule=rule,
        seconds=seconds,
        manifest=record,
        source=source or str(settings.responses),
        strict=official or None,
        costs=record.get("costs", {}),
        warnings=(
            *ending_warnings(record.get("training", {})),
            *(() if settings.model.is_target else memorisation_warnings(scores.get("target", {}))),
        ),
    )
    write_report(report, folder)
    print_report(report, folder, console)
    return report


# ------------------------------------------------------------------------------------------------- dry run
