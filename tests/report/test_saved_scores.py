"""A finished run is shown without being scored, as long as nothing that its scores are made of has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from helpers.artifacts import answers

from lume_run.attacks.base import ReturnedText, Strength
from lume_run.attacks.results import AttackedScore, AttackResults
from lume_run.common.jsonl import write_jsonl
from lume_run.common.records import Score
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.pipeline import driver
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline
from lume_run.report import saved_scores
from lume_run.report.results import Report
from lume_run.report.saved_scores import SAVED_FILE, RunScores, read_scores, save_scores

pytestmark = pytest.mark.slow  # a whole report, with its picture, in each

Start = Callable[..., tuple[Report, bool]]


@pytest.fixture
def start(tmp_path, monkeypatch) -> Start:
    """Score two models' responses, 100 resamples, in one folder; the report, and whether anything was scored for it."""
    write_jsonl(tmp_path / "rows.jsonl", answers(right=5))
    scored: list[Any] = []
    original = driver.score_models

    def score_models(*arguments: Any) -> Any:
        scored.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(driver, "score_models", score_models)

    def started(*overrides: str, folder: str = "run") -> tuple[Report, bool]:
        scored.clear()
        common = ("stages=[score]", f"responses={tmp_path / 'rows.jsonl'}", f"output_dir={tmp_path}", "logger=none")
        composed = compose([*common, "evaluator.resamples=100", *overrides], [conf_dir()])
        settings, data = require_settings(composed)
        report = run_pipeline(settings, tmp_path / folder, identity=run_identity(data), command=["test"])
        return report, bool(scored)

    return started


def test_the_same_again_is_shown_and_not_scored(start, tmp_path, capsys):
    first, was_scored = start()
    assert was_scored
    printed = capsys.readouterr()
    files = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").glob("*[!t].*")}
    again, was_scored = start()
    assert not was_scored
    assert capsys.readouterr() == printed
    assert again.scores == first.scores
    assert [score.resampled for score in again.scores["model"].values()] == [
        score.resampled for score in first.scores["model"].values()
    ]
    assert any(score.resampled for score in again.scores["model"].values())
    for name in ("report.json", "report.md", "report.png", "scores.model.json", "responses.model.jsonl"):
        if name in files:  # without matplotlib there is no plot
            path = tmp_path / "run" / name
            assert (path.read_bytes(), path.stat().st_mtime_ns) == files[name], name


@pytest.mark.parametrize("override", ["evaluator.resamples=50", "evaluator.strict=true", "evaluator=memorisation"])
def test_another_evaluator_in_the_same_folder_is_noticed(override, start):
    start()
    assert start(override)[1]
    assert not start(override)[1]
    assert start()[1]


def test_other_answers_are_noticed(start, tmp_path):
    start()
    write_jsonl(tmp_path / "rows.jsonl", answers(right=4))
    report, was_scored = start()
    assert was_scored
    assert report.value("model", "mmlu.accuracy") == 0.5


def test_verify_scores_anew(start):
    start()
    assert start("verify=true")[1]
    assert not start()[1]


def test_other_code_and_other_packages_are_noticed(start, monkeypatch):
    start()
    monkeypatch.setattr(saved_scores, "code_digest", lambda: "another version")
    assert start()[1]
    assert not start()[1]
    monkeypatch.setattr(saved_scores, "COMPUTING_PACKAGES", ("numpy",))
    assert start()[1]


def test_the_code_of_every_module_counts():
    assert len(saved_scores.code_digest()) == 64
    assert saved_scores.code_digest() == saved_scores.code_digest.__wrapped__()


def test_a_folder_by_another_name_has_a_report_of_its_name(start, tmp_path):
    start()
    (tmp_path / "run").rename(tmp_path / "moved")
    report, was_scored = start(folder="moved")
    assert (report.name, was_scored) == ("moved", True)


@pytest.mark.parametrize("name", ["report.json", "report.md", "scores.model.json", "responses.model.jsonl"])
@pytest.mark.parametrize("damage", ["lost", "other bytes"])
def test_a_damaged_file_is_made_anew(name, damage, start, tmp_path):
    start()
    path = tmp_path / "run" / name
    before = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(before[:-2] + b"?\n")
    assert start()[1]
    assert path.read_bytes() == before
    assert not start()[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: "",
        lambda saved: "[" * 100_000,
        lambda saved: "null",
        lambda saved: json.dumps(saved)[:-9],
        lambda saved: json.dumps({**saved, "key": "0" * 16}),
        lambda saved: json.dumps({**saved, "files": None}),
        lambda saved: json.dumps({**saved, "files": {"report.md": 3}}),
        lambda saved: json.dumps(saved).replace('"n": 8', '"n": 9', 1),  # its content is not what was written
        lambda saved: json.dumps({key: value for key, value in saved.items() if key != "content"}),
    ],
)
def test_what_is_saved_is_whole_or_of_no_use(change, start, tmp_path):
    first, _ = start()
    path = tmp_path / "run" / SAVED_FILE
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(change(saved), encoding="utf-8")
    report, was_scored = start()
    assert was_scored
    assert report.scores == first.scores
    assert json.loads(path.read_text(encoding="utf-8")) == saved


def test_code_of_others_and_judges_are_asked_at_every_start(start, tmp_path):
    for override in ("allow_external=[somebody]", f"+evaluator.suites={{x: {CLOSER_LOOK.format(tmp_path)}}}"):
        start(override)
        assert start(override)[1]
        assert not (tmp_path / "run" / SAVED_FILE).exists()


CLOSER_LOOK = "{{_target_: lume_run.evaluation.suites.closer_look.CloserLook, embedder: nobody/embeds}}"


def test_attacks_come_back_as_they_were(tmp_path):
    of_model = Score(
        name="forget.knowledge", value=0.1 + 0.2, n=3, low=0.1, high=0.5, documents=3, resampled=(0.1, 1e-300)
    )
    missing = Score(name="forget.knowledge", value=None, n=0, reason="no rows")
    row = AttackedScore(
        attack="relearn",
        strength=Strength(label="steps=10", amount=10.0, series="lr"),
        score="forget.knowledge",
        target=of_model,
        before=missing,
        after=of_model,
        control_before=None,
        control_after=None,
        recovered=replace(of_model, name="attack.relearn.forget.knowledge.recovered"),
    )
    worst = {"robustness.forget.knowledge": replace(of_model, name="robustness.forget.knowledge")}
    text = ReturnedText(
        attack="relearn",
        strength="steps=10",
        id="a",
        document="a",
        subtask="bios",
        kind="question",
        attribute="",
        prompt="p",
        expected="e",
        target="t",
        before=None,
        after="…",
    )
    rows = (row, replace(row, after=missing))
    attacks = AttackResults(subject="unlearned", control="", rows=rows, worst=worst, texts=(text,))
    scores = {"unlearned": {"forget.knowledge": of_model}, "target": {"forget.knowledge": missing}}
    official = {"unlearned": {"aggregate": 0.5, "terms": [0.5, 1.0]}}
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "scores.x.json").write_text("{}", encoding="utf-8")
    save_scores(tmp_path, "key", RunScores(scores=scores, official=official, attacks=attacks))
    again = read_scores(tmp_path, "key")
    assert again == RunScores(scores=scores, official=official, attacks=attacks)
    assert again.attacks.rows[0].after.resampled == of_model.resampled
    (tmp_path / "attacks" / "scores.x.json").unlink()
    assert read_scores(tmp_path, "key") is None
