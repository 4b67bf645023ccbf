"""Alternates as an artifact: sampled once, shared by runs that differ in the loss, resumed, in all keys behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.configs import settings_of

from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Response
from lume_run.methods.altpo import altpo_in
from lume_run.methods.needs import Role
from lume_run.pipeline import evaluate
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run
from lume_run.pipeline.unlearn.prepare import alternates_artifact, examples_for, prepare
from lume_run.pipeline.unlearn.recipes import unlearning_artifacts

pytestmark = pytest.mark.slow

NAMES = ["Orla Quist", "Bram Sefton", "Ilsa Wyck", "Odo Marr"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for side, people in (("forget", NAMES[:2]), ("retain", NAMES[2:])):
        lines = [{"question": f"Where does {name} live?", "answer": f"{name} lives in Lima."} for name in people]
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def run_of(tiny, rows, out: Path, *overrides: str) -> Run:
    settings = settings_of(
        "task=custom",
        *(f"task.{side}={rows / side}.jsonl" for side in ("forget", "retain")),
        "model=hf",
        f"model.path={tiny}",
        "model.is_target=true",
        "trainer=tiny",
        "trainer.unlearn.epochs=1",
        "stages=[unlearn]",
        "method=altpo",
        "method.forget.alternates=3",
        "method.forget.max_new_tokens=6",
        "launch.device=cpu",
        "logger=none",
        f"output_dir={out}",
        *overrides,
    )
    return Run(settings, out / "run")


def by_name(run: Run) -> dict[str, object]:
    return {artifact.name: artifact for artifact in plan(run).artifacts}


def test_a_run_makes_alternates_then_their_log_probs_then_unlearns(tiny, rows, tmp_path):
    run = run_of(tiny, rows, tmp_path)
    assert list(by_name(run)) == ["alternates", "reference", "unlearned"]
    assert "3 answers to each of 2 forget prompts" in by_name(run)["alternates"].note
    run_pipeline(run.settings, run.folder, identity={}, command=["test"])
    alternates = by_name(run)["alternates"]
    samples = read_jsonl(alternates.path / "responses.jsonl", Response)
    assert [(row.variant, row.tokens <= 6) for row in samples] == [(str(number), True) for number in range(3)] * 2
    assert samples[0].prompt.startswith("Question: Where does Orla Quist live?\nAnswer: Orla Quist lives in Lima.\nNow")
    assert len({row.output for row in samples[:3]}) > 1  # samples, not one text
    target = next(iter(unlearning_artifacts(run, run_target(run), None)[0]))
    assert target.path == alternates.path
    method = run.settings.method
    examples = examples_for(run, method, prepare(run, method, run_target(run)))
    made_up = [example.answer for role, example in examples if role is Role.FORGET_ALTERNATE]
    assert len(made_up) == 6 and all(made_up)
    assert (run.folder / "unlearned" / "history.json").exists()


def run_target(run: Run) -> evaluate.EvaluatedModel:
    from lume_run.pipeline.plan import start_model

    return start_model(run, None)


def test_what_is_shared_and_what_is_made_anew(tiny, rows, tmp_path):
    """Another beta needs no other alternates; another prompt, temperature, number or seed does, and all behind it."""
    first = by_name(run_of(tiny, rows, tmp_path))
    beta = by_name(run_of(tiny, rows, tmp_path, "method.forget.beta=0.5"))
    assert beta["alternates"].key == first["alternates"].key
    assert beta["reference"].key == first["reference"].key
    assert beta["unlearned"].key != first["unlearned"].key
    for change in (
        "method.forget.prompt='{question}?'",
        "method.forget.temperature=0.5",
        "method.forget.alternates=2",
        "method.forget.max_new_tokens=7",
        "seed=1",
    ):
        other = by_name(run_of(tiny, rows, tmp_path, change))
        assert all(other[name].key != first[name].key for name in first), change


def test_sampling_resumes(tiny, rows, tmp_path, monkeypatch):
    """What was answered before a kill is not asked again."""
    run = run_of(tiny, rows, tmp_path)
    part, asked = altpo_in(run.settings.method), []
    artifact, folder = alternates_artifact(run, part, run_target(run)), tmp_path / "partial"
    folder.mkdir()
    artifact.build(folder)
    before = (folder / "responses.partial.0.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "responses.partial.0.jsonl").write_text("".join(before[:4]), encoding="utf-8")
    from lume_run.evaluation.inference import respond

    original = respond.answer_batches

    def counted(loaded, batches):
        asked.extend(request for batch in batches for request in batch)
        return original(loaded, batches)

    monkeypatch.setattr(respond, "answer_batches", counted)
    artifact.build(folder)
    artifact.gather(folder)
    assert len(asked) == 2
    texts = sorted((row.id, row.variant, row.output) for row in read_jsonl(folder / "responses.jsonl", Response))
    assert texts == sorted((row["id"], row.get("variant", ""), row["output"]) for row in map(json.loads, before))


def test_the_evaluators_temperature_and_limit_are_not_those_of_alternates(tiny, rows, tmp_path):
    plain = by_name(run_of(tiny, rows, tmp_path))
    other = by_name(run_of(tiny, rows, tmp_path, "evaluator.temperature=0.1", "evaluator.max_new_tokens=4"))
    assert other["alternates"].key == plain["alternates"].key
    run = run_of(tiny, rows, tmp_path, "evaluator.max_new_tokens=4")
    part = replace(altpo_in(run.settings.method), max_new_tokens=6)
    assert {question.limit for question in part.questions(run.data.forget)} == {6}
