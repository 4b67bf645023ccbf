"""Scores over requests: the arithmetic by hand, the tables, the plot, what W&B gets, what a finished run keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.artifacts import text_row
from helpers.configs import settings_of

from lume_run.common.records import Kind, Score, Split
from lume_run.evaluation.scoring import score_model
from lume_run.report.saved_scores import RunScores, read_scores, save_scores
from lume_run.report.sequence.plot import write_sequence_plot
from lume_run.report.sequence.scores import WHAT_IS_KEPT, SequenceResults, score_requests, sequence_json
from lume_run.report.sequence.tables import sequence_lines, sequence_section
from lume_run.tasks.requests import ForgetRequest
from lume_run.tracking.closing import sequence_series

KNOWLEDGE = "forget.bios.knowledge"
KNOWN = [  # after 0, 1, 2 and 3 requests: whether documents 1, 2 and 3 are still known
    (1, 1, 1),
    (0, 1, 1),
    (1, 0, 0),
    (1, 0, 0),
]
REQUESTS = [
    ForgetRequest(number=number, count=3, documents=frozenset({f"{Split.FORGET}{number}"})) for number in (1, 2, 3)
]


def answers(known: tuple[int, ...], kept: bool = True) -> list:
    rows = [
        text_row(Split.FORGET, Kind.QUESTION, number, "one two" if knows else "nothing")
        for number, knows in enumerate(known, 1)
    ]
    rows += [text_row(Split.RETAIN, Kind.QUESTION, number, "one two" if kept else "no") for number in range(3)]
    return [replace(row, expected="one two") for row in rows]


@pytest.fixture(scope="module")
def results() -> SequenceResults:
    models = [answers(known, kept=done < 3) for done, known in enumerate(KNOWN)]
    settings = settings_of("logger=none", "evaluator.resamples=20")
    scored = score_requests(REQUESTS, [score_model(settings, "test", rows, None) for rows in models])
    assert scored is not None
    return scored


def test_every_time_and_request_has_its_score(results):
    for done, known in enumerate(KNOWN):
        assert [results.value(KNOWLEDGE, done, number) for number in (1, 2, 3)] == list(map(float, known))
    kept = [results.value("retain.bios.knowledge", done, WHAT_IS_KEPT) for done in range(4)]
    assert kept == [1.0, 1.0, 1.0, 0.0]


def test_means_over_requests_by_hand(results):
    values = {
        kind: results.summary[f"sequence.{KNOWLEDGE}.{kind}"].value
        for kind in ("current", "earlier", "returned", "to_come")
    }
    assert values["current"] == 0.0  # m(1,1), m(2,2), m(3,3)
    assert values["earlier"] == pytest.approx(2 / 3)  # m(2,1) = 1, m(3,1) = 1, m(3,2) = 0
    assert values["returned"] == pytest.approx(1 / 2)  # 1 - 0 of the first, 0 - 0 of the second
    assert values["to_come"] == pytest.approx(2 / 3)  # m(1,2) = 1, m(1,3) = 1, m(2,3) = 0
    assert results.summary["sequence.retain.bios.knowledge.area"].value == pytest.approx(2 / 3)
    assert results.summary["sequence.retain.bios.knowledge.area"].low is not None


def test_without_a_sequence_there_is_nothing():
    model = score_model(settings_of("logger=none"), "test", answers((1, 1, 1)), None)
    assert score_requests((), [model]) is None
    assert sequence_section(None) == "" and sequence_lines(None) == []


def test_the_section_has_a_table_a_score(results):
    text = sequence_section(results, plotted=True)
    assert "| after request | documents of 1 | documents of 2 | documents of 3 | current | earlier | to_come |" in text
    begin = text.index(f"`{KNOWLEDGE}`")
    lines = text[begin:].split("\n")[4:8]
    assert [line.split(" | ")[0] for line in lines] == ["| 0", "| 1", "| 2", "| 3"]
    assert lines[3].endswith("| 0.000 | 0.500 |  |")
    assert "`forget.knowledge`" not in text  # one task: the mean over tasks says the same
    assert "requests.png" in text and "requests.png" not in sequence_section(results)
    (line,) = [line for line in sequence_lines(results) if KNOWLEDGE in line]
    assert line == f"3 requests, {KNOWLEDGE}: current 0.000, earlier 0.667, to come 0.667, returned 0.500"


def test_curves_for_trackers_and_json(results):
    series = sequence_series(results)
    assert series["sequence/forget/bios/knowledge"][2] == {"step": 2, "current": 0.0, "earlier": 1.0, "to_come": 0.0}
    assert series["sequence/retain/bios/knowledge"][3] == {"step": 3, "kept": 0.0}
    record = sequence_json(results)
    assert record["requests"] == 3
    row = {"score": KNOWLEDGE, "after": 2, "documents_of": 1}
    assert [entry["value"] for entry in record["rows"] if row.items() <= entry.items()] == [1.0]


def test_the_plot(results, tmp_path):
    pytest.importorskip("matplotlib")
    assert write_sequence_plot(results, tmp_path / "requests.png")
    assert (tmp_path / "requests.png").read_bytes().startswith(b"\x89PNG")
    assert not write_sequence_plot(None, tmp_path / "none.png")
    nothing = SequenceResults(count=2, scores={}, summary={})
    assert not write_sequence_plot(nothing, tmp_path / "none.png")


def test_a_finished_run_keeps_them(results, tmp_path: Path):
    scores = {"unlearned": {"a": Score(name="a", value=1.0, n=1)}}
    save_scores(tmp_path, "key", RunScores(scores=scores, official={}, sequence=results))
    saved = read_scores(tmp_path, "key")
    assert saved is not None and saved.sequence == results
