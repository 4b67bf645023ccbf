"""Whole runs under attack, in this process: what is kept, shared and reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.shared import shape

from lume_run.attacks.base import Rewrite, Situation, Strength
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import TEXTS, Ask, Question, Response, Split
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.evaluation.metrics.bootstrap import Bootstrap
from lume_run.evaluation.metrics.semeval import lume_scores
from lume_run.methods.base import Losses, Signals
from lume_run.methods.likelihood import FineTune
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline

pytestmark = pytest.mark.slow

SMALL = (
    *("task.num_documents=2", *shape(32, 2, 64), "model.shape.layers=1", "evaluator.max_new_tokens=16"),
    *("trainer.train.epochs=2", "trainer.unlearn.epochs=1", "logger=none", "evaluator.resamples=20"),
)
RELEARN = "attack.attacks.relearn.optimization"
SHORT = (f"{RELEARN}.steps=[1,3]", f"{RELEARN}.learning_rates=[1e-3]")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shelf")


def run(folder: Path, shelf: Path, *overrides: str, attacks: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run with overrides, and attacks that no YAML file names if some are given; the report."""
    settings, data = require_settings(compose([*SMALL, f"output_dir={shelf}", *overrides], [conf_dir()]))
    if attacks is not None:
        settings = replace(settings, attack=replace(settings.attack, attacks=attacks))
    run_pipeline(settings, folder, identity=run_identity(data), command=["test"])
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def rows_of(report: dict[str, Any], **wanted: str) -> list[dict[str, Any]]:
    return [row for row in report["attacks"]["rows"] if all(row[key] == value for key, value in wanted.items())]


def test_relearning_end_to_end(shelf, tmp_path):
    report = run(tmp_path / "run", shelf, "attack=relearn", *SHORT)
    attacks = report["attacks"]
    assert (attacks["subject"], attacks["control"]) == ("unlearned", "retrained")
    assert [row["strength"]["label"] for row in rows_of(report, score="forget.bios.knowledge")] == [
        "steps=1,lr=0.001",
        "steps=3,lr=0.001",
    ]
    scores = report["scores"]
    for row in attacks["rows"]:
        assert row.get("before") == scores[f"unlearned.{row['score']}"]
        assert row.get("target") == scores[f"target.{row['score']}"]
        assert row.get("control_before") == scores[f"retrained.{row['score']}"]
    worst = attacks["worst"]
    about_forgetting = {row["score"] for row in attacks["rows"] if "recovered" in row}
    assert {name for name in worst if name.endswith(".r")} == {f"attack.relearn.{name}.r" for name in about_forgetting}
    assert {f"unlearned.{name}" for name in worst} <= scores.keys()
    for subject in ("unlearned", "retrained"):
        for step in (1, 3):
            name = f"{subject}+relearn(steps={step},lr=0.001)"
            assert read_jsonl(tmp_path / "run" / "attacks" / f"responses.{name}.jsonl", Response)
            assert (tmp_path / "run" / "attacks" / f"scores.{name}.json").exists()
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "## Attacks" in text
    assert "| relearn | steps=3,lr=0.001 | forget.bios.knowledge |" in text
    assert "| score | [relearn](attacks/texts.relearn.md) |" in text
    page = (tmp_path / "run" / "attacks" / "texts.relearn.md").read_text(encoding="utf-8")
    assert page.count("\nbefore unlearning:\n") == page.count("\nunlearned:\n") == page.count("\nattacked:\n") > 0


def test_kept_weights_are_those_of_so_many_steps(shelf, tmp_path):
    """One training of three steps kept after the first is a training of one step."""
    run(tmp_path / "both", shelf, "attack=relearn", *SHORT)
    run(tmp_path / "first", shelf, "attack=relearn", *SHORT, f"{RELEARN}.steps=[1]")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("both", "first")]
    places = [Path(manifest["artifacts"]["unlearned+relearn(lr=0.001)"]) for manifest in manifests]
    assert places[0] != places[1]
    weights = [(place / "step-1" / "model.safetensors").read_bytes() for place in places]
    assert weights[0] == weights[1]
    assert weights[0] != (places[0] / "step-3" / "model.safetensors").read_bytes()


@dataclass(frozen=True, kw_only=True)
class Capitals:
    """Ask about forget documents in capitals."""

    def rewrites(self, situation: Situation) -> list[Rewrite]:
        return [Rewrite(strength=Strength(label="capitals", amount=1), rewrite=in_capitals)]


def in_capitals(questions: Sequence[Question]) -> list[Question]:
    asked = [question for question in questions if question.example.split is Split.FORGET and question.ask in TEXTS]
    examples = [replace(question.example, prompt=question.example.prompt.upper()) for question in asked]
    return [replace(question, example=example) for question, example in zip(asked, examples, strict=True)]


def test_a_prompt_attack_makes_no_model(shelf, tmp_path):
    report = run(tmp_path / "run", shelf, attacks={"capitals": Capitals()})
    responses = read_jsonl(tmp_path / "run" / "attacks" / "responses.unlearned+capitals(capitals).jsonl", Response)
    assert responses
    assert all(row.prompt == row.prompt.upper() and row.split is Split.FORGET for row in responses)
    (row,) = rows_of(report, score="forget.bios.knowledge")
    assert row["after"] is not None
    assert "relearning" not in row
    assert not any("capitals" in name and "responses" not in name for name in report["training"])


def test_prompts_end_to_end(shelf, tmp_path):
    """Over all forms of a question the most disclosing answer counts, that to the plain one too."""
    report = run(tmp_path / "run", shelf, "attack=[prefill,few_shot,forms,hints]", "attack.control=base")
    attacks = report["attacks"]
    name = "forget.bios.regurgitation"
    strengths = {(row["attack"], row["strength"]["label"]) for row in attacks["rows"]}
    assert {
        ("prefill", "sure"),
        ("few_shot", "5_forget"),
        ("forms", "multiple_choice"),
        ("hints", "share_0.5"),
    } < strengths
    assert {row["score"] for row in rows_of(report, attack="prefill")} == {"forget.bios.knowledge", "forget.knowledge"}
    (worst,) = rows_of(report, attack="any_prompt", score=name)
    others = [row for row in rows_of(report, score=name) if row["attack"] == "few_shot"]
    assert worst["after"] >= max([worst["before"], *(row["after"] for row in others)])
    assert worst["before"] == report["scores"][f"unlearned.{name}"]
    folder = tmp_path / "run" / "attacks"
    asked = {row.prompt for row in read_jsonl(folder / "responses.unlearned+prefill(sure).jsonl", Response)}
    assert asked and all(prompt.endswith(" Sure, here is the answer:") for prompt in asked)
    assert {row["control_after"] is not None for row in rows_of(report, attack="any_prompt")} == {True}


@dataclass(frozen=True, kw_only=True)
class BreaksDown(FineTune):
    """Fine-tuning whose loss is no number from its third step on."""

    def __call__(self, s: Signals) -> Losses:
        losses = super().__call__(s)
        return losses if s.last.get("step", 0) < 2 else replace(losses, total=losses.total * float("nan"))


def test_an_attack_that_diverges_is_a_result(shelf, tmp_path, monkeypatch):
    """The last weights kept take the place of the later ones; a report says so, and the run counts as done."""
    monkeypatch.setattr("lume_run.pipeline.attack.FineTune", BreaksDown)
    report = run(tmp_path / "run", shelf, "attack=relearn", *SHORT, f"{RELEARN}.steps=[1,2,5]", "seed=1")
    outcome = report["attacks"]["training"]["unlearned+relearn(lr=0.001)"]
    assert (outcome["steps"], outcome["planned_steps"]) == (2, 5)
    assert "nan" in outcome["diverged"]
    assert any("unlearned+relearn(lr=0.001) DIVERGED" in line for line in report["warnings"])
    place = Path(
        json.loads((tmp_path / "run" / "manifest.json").read_text())["artifacts"]["unlearned+relearn(lr=0.001)"]
    )
    kept = {step: (place / f"step-{step}" / "model.safetensors").read_bytes() for step in (1, 2, 5)}
    assert kept[5] == kept[2] != kept[1]
    assert not any(outcome["diverged"] for outcome in report["training"].values())
    (last,) = [row for row in rows_of(report, score="forget.bios.knowledge") if row["strength"]["amount"] == 5]
    assert last["after"] is not None


@dataclass(frozen=True, kw_only=True)
class Killed(FineTune):
    """Fine-tuning of a process that dies in its third step."""

    def __call__(self, s: Signals) -> Losses:
        if s.last.get("step", 0) >= 2:
            raise KeyboardInterrupt
        return super().__call__(s)


def test_a_killed_attack_resumes_with_what_it_kept(shelf, tmp_path, monkeypatch):
    overrides = ("attack=relearn", *SHORT, f"{RELEARN}.steps=[1,4]", "seed=2", "trainer.checkpoint_every=2")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lume_run.pipeline.attack.FineTune", Killed)
        run(tmp_path / "run", shelf, *overrides)
    (partial,) = (shelf / "store" / "attacked").glob("*.partial")
    before = (partial / "step-1" / "model.safetensors").stat()
    run(tmp_path / "run", shelf, *overrides)
    place = partial.with_suffix("")
    assert (place / "step-1" / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert not (place / "checkpoints").exists()
    run(tmp_path / "again", tmp_path / "elsewhere", *overrides)  # never killed
    for step in (1, 4):
        weights = [
            (folder / place.name / f"step-{step}" / "model.safetensors").read_bytes()
            for folder in (shelf / "store" / "attacked", tmp_path / "elsewhere" / "store" / "attacked")
        ]
        assert weights[0] == weights[1]


def test_a_model_alone_beside_the_one_before(shelf, tmp_path):
    """Any folder can be attacked; `attack.target` and `model.base` are what it is compared with."""
    run(tmp_path / "made", shelf, "seed=3")
    artifacts = json.loads((tmp_path / "made" / "manifest.json").read_text())["artifacts"]
    report = run(
        tmp_path / "alone",
        shelf,
        *("seed=3", "stages=[evaluate]", "attack=[quantise,prune]", f"model.path={artifacts['unlearned']}"),
        *(f"attack.target={artifacts['target']}", f"model.base={artifacts['base']}"),
    )
    assert (report["attacks"]["subject"], report["attacks"]["control"]) == ("model", "base")
    rows = rows_of(report, score="forget.bios.regurgitation")
    labels = [(row["attack"], row["strength"]["label"]) for row in rows]
    assert labels == [("quantise", name) for name in ("int8", "nf4", "fp4")] + [
        ("prune", name) for name in ("10%", "30%", "50%")
    ]
    assert all(row["target"] == report["scores"]["target.forget.bios.regurgitation"] for row in rows)
    name = "attack.quantise.forget.bios.regurgitation.q"
    assert name in report["attacks"]["worst"]
    assert f"model.{name}" in report["scores"]


def test_a_half_is_scored_alone(shelf, tmp_path):
    overrides = [override.replace("relearn", "relearn_half") for override in SHORT]
    report = run(tmp_path / "run", shelf, "attack=relearn_half", *overrides)
    attacked = read_jsonl(
        tmp_path / "run" / "attacks" / "responses.unlearned+relearn_half(steps=1,lr=0.001).jsonl", Response
    )
    asked = {row.document for row in attacked if row.split in (Split.FORGET, Split.MEMBER)}
    everything = read_jsonl(tmp_path / "run" / "responses.unlearned.jsonl", Response)
    assert len(asked) == 1
    assert asked < {row.document for row in everything if row.split is Split.FORGET}
    assert {row.id for row in attacked if row.split is Split.RETAIN} == {
        row.id for row in everything if row.split is Split.RETAIN
    }
    (row,) = rows_of(report, score="forget.bios.regurgitation")[:1]
    held_out = [answer for answer in everything if answer.document in asked and answer.ask is Ask.GENERATE]
    expected = lume_scores(held_out, bootstrap=Bootstrap(resamples=0))
    assert row["before"] == {score.name: score.value for score in expected}["forget.bios.regurgitation"]
