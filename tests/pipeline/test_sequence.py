"""Requests one after another as artifacts: where each starts, what it compares with, what is asked after it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.configs import settings_of
from helpers.shared import shape

from lume_run.common.errors import ConfigError
from lume_run.common.files import content_hash
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Response
from lume_run.common.store import Artifact
from lume_run.config.resolve import run_identity
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.dry_run import group_requests
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run
from lume_run.tasks.requests import forget_requests

pytestmark = pytest.mark.slow

SMALL = (
    "task.num_documents=3",
    *shape(32, 2, 48),
    "trainer.train.epochs=2",
    "trainer.unlearn.epochs=4",
    "evaluator.max_new_tokens=4",
    "evaluator.resamples=10",
    "launch.device=cpu",
    "logger=none",
)


def run_of(out: Path, *overrides: str) -> Run:
    return Run(settings_of(*SMALL, *overrides, f"output_dir={out}"), out / "run")


def carried_out(run: Run) -> dict:
    run_pipeline(run.settings, run.folder, identity={}, command=["test"])
    report: dict = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    return report


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Run:
    run = run_of(tmp_path_factory.mktemp("chain"), "method=npo_gd", "sequence=in_turn", "sequence.requests=3")
    carried_out(run)
    return run


def test_each_request_is_an_artifact_of_its_number(chain):
    names = [artifact.name for artifact in plan(chain).artifacts if artifact.stage == "unlearn"]
    assert [name for name in names if not name.startswith("reference")] == ["request 1", "request 2", "unlearned"]
    folders = [chain.folder / name for name in ("requests/1", "requests/2", "unlearned")]
    assert all((folder / "DONE.json").exists() for folder in folders)
    assert len({weights(folder / "model") for folder in folders}) == 3
    assert all(artifact.is_cached for artifact in plan(chain).artifacts)


def test_the_report_tells_them_apart(chain):
    report = json.loads((chain.folder / "report.json").read_text(encoding="utf-8"))
    assert report["sequence"]["requests"] == 3
    times = {(row["after"], row["documents_of"]) for row in report["sequence"]["rows"]}
    assert {(done, number) for done in range(4) for number in (1, 2, 3)} <= times
    assert {(done, None) for done in range(4)} <= times
    assert "unlearned.sequence.forget.bios.knowledge.earlier" in report["scores"]
    assert "## Requests" in (chain.folder / "report.md").read_text(encoding="utf-8")


def test_a_request_is_a_run_of_its_rows_from_the_model_before(chain, tmp_path, monkeypatch):
    """The second request by hand: the same settings and rows, from the first request's model, give the same weights."""
    second = forget_requests(chain.data, 3)[1]
    part = chain.of_request(second)
    assert {example.document for example in part.data.forget} == second.documents
    start = str(chain.folder / "requests/1/model")
    alone = run_of(tmp_path, "method=npo_gd", f"model.path={start}", "model.is_target=true", "stages=[unlearn]")
    monkeypatch.setitem(
        vars(alone), "_plain_data", replace(chain.data, forget=part.data.forget, retain=part.data.retain)
    )
    for artifact in plan(alone).artifacts:
        artifact.make()
    assert weights(alone.folder / "unlearned/model") == weights(chain.folder / "requests/2/model")


def inputs_of(run: Run) -> dict[str, dict]:
    return {artifact.name: dict(artifact.inputs) for artifact in plan(run).artifacts if artifact.stage == "unlearn"}


def test_the_reference_is_the_model_before_or_the_first(tmp_path):
    common = ("sequence=in_turn", "sequence.requests=2", "method=npo_gd")
    previous, first = (run_of(tmp_path, *common, f"sequence.reference={name}") for name in ("previous", "first"))
    target = next(artifact for artifact in plan(previous).artifacts if artifact.name == "target")
    of_previous, of_first = inputs_of(previous), inputs_of(first)
    assert of_previous["reference, request 2"]["target"] == of_previous["unlearned"]["target"] != target.key
    assert of_first["reference, request 2"]["target"] == of_first["unlearned"]["reference"] == target.key
    assert of_first["unlearned"]["target"] == of_previous["unlearned"]["target"]
    assert of_first["request 1"] == of_previous["request 1"]  # there they are the same


def test_a_method_without_a_reference_makes_the_same_models_with_either(tmp_path):
    common = ("sequence=in_turn", "sequence.requests=2", "method=me_gd")
    previous, first = (
        inputs_of(run_of(tmp_path, *common, f"sequence.reference={name}")) for name in ("previous", "first")
    )
    assert previous == first


def test_growing_requests_start_from_the_target(tmp_path):
    run = run_of(tmp_path, "sequence=growing", "sequence.requests=3", "method=gd")
    inputs = inputs_of(run)
    assert len({inputs[name]["target"] for name in ("request 1", "request 2", "unlearned")}) == 1
    assert len({inputs[name]["rows"] for name in ("request 1", "request 2", "unlearned")}) == 3
    at_once = inputs_of(run_of(tmp_path, "method=gd"))
    assert inputs["unlearned"] == at_once["unlearned"]  # all documents, from the target


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=kl", "sequence.reference=first"),
        ("method=kl", "sequence.reference=first", "model.lora=true"),
        ("method=rmu", "model.lora=true"),
        ("method=icu",),
        ("method=whp",),
        ("method=retrain",),
        ("method=task_vector",),
        ("method=ties", "model.lora=true"),
        ("method=none",),
        ("method=altpo", "method.forget.alternates=1", "method.forget.max_new_tokens=2"),
        ("method=npo_gd", "attack=quantise"),
    ],
    ids=" ".join,
)
def test_every_kind_of_method(overrides, tmp_path):
    run = run_of(tmp_path, "sequence=in_turn", "sequence.requests=2", "task.num_documents=2", *overrides)
    report = carried_out(run)
    values = {(row["score"], row["after"], row["documents_of"]): row["value"] for row in report["sequence"]["rows"]}
    assert all(("forget.bios.regurgitation", done, number) in values for done in range(3) for number in (1, 2))
    assert all(artifact.is_cached for artifact in plan(run).artifacts)


def test_requests_apart_are_runs_of_their_documents_alone(tmp_path):
    """Each is an adapter from the target; its answers about its own documents are those of a run of these alone."""
    rows = [{"question": f"Who is {name}{n}?", "answer": f"A {n}.", "document": name} for name in "abc" for n in "12"]
    for names in ("abc", "b"):
        lines = [json.dumps(row) + "\n" for row in rows if row["document"] in names]
        (tmp_path / f"{names}.jsonl").write_text("".join(lines), encoding="utf-8")
    small = [setting for setting in SMALL if not setting.startswith("task.")]
    schedule = [f"trainer.unlearn.{setting}" for setting in ("learning_rate=0.05", "batch_size=2", "warmup=0")]
    task = ("task=custom", "method=npo", "evaluator=memorisation", "model.lora=true", *small, *schedule)

    def run_of_file(names: str, *overrides: str) -> Run:
        given = (f"task.forget={tmp_path / names}.jsonl", f"output_dir={tmp_path / 'out'}", *overrides)
        return Run(settings_of(*task, *given), tmp_path / "out" / names)

    run = run_of_file("abc", "sequence=apart", "sequence.requests=3")
    report = carried_out(run)
    assert "sequence" not in report
    artifacts = plan(run).artifacts
    assert all(artifact.is_cached for artifact in artifacts)
    adapters = [run.folder / f"requests/{number}/model/adapter_model.safetensors" for number in (1, 2, 3)]
    assert all(adapter.exists() for adapter in adapters) and not (run.folder / "unlearned").exists()
    target = next(artifact for artifact in artifacts if artifact.name == "target").path
    alone = run_of_file("b", f"model.path={target}", "model.is_target=true", "stages=[unlearn,evaluate]")
    carried_out(alone)
    files = (run.folder / "responses.unlearned.jsonl", alone.folder / "responses.unlearned.jsonl")
    whole, part, before = (
        {row.id: row.logps for row in read_jsonl(file, Response)}
        for file in (*files, run.folder / "responses.target.jsonl")
    )
    assert len(whole) == 6 and len(part) == 2
    for name, logps in part.items():
        assert whole[name] == pytest.approx(logps, abs=1e-4) and whole[name] != pytest.approx(before[name], abs=1e-2)


def test_requests_apart_are_asked_about_documents_to_forget_alone(tmp_path):
    run = run_of(tmp_path, "method=ga", "sequence=apart")
    with pytest.raises(ConfigError, match="evaluator: lume asks what is about no document to forget"):
        plan(run)


def test_a_plan_puts_many_requests_into_one_line(tmp_path):
    names = ["target", *(f"reference, request {n}" for n in range(1, 13)), *(f"request {n}" for n in range(1, 4))]
    artifacts = [Artifact(stage="unlearn", name=name, path=tmp_path, inputs={}, build=Path.mkdir) for name in names]
    groups = group_requests(artifacts)
    assert {name: len(alike) for name, alike in groups.items()} == {
        "target": 1,
        "reference, request 1 to 12": 12,
        **{f"request {n}": 1 for n in range(1, 4)},
    }


def test_without_a_sequence_a_run_is_what_it_was():
    data = {"task": {"name": "bios"}, "sequence": {"requests": None, "reference": "previous", "growing": False}}
    assert content_hash(run_identity(data)) == content_hash(run_identity({"task": {"name": "bios"}}))
    data["sequence"]["requests"] = 2
    assert "sequence" in run_identity(data)
