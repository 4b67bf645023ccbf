"""The study of scores: its pool and documents, areas, thresholds, means over unlearned models, the table."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from helpers.shared import ROOT

from lume_run.common.records import Kind

if not (ROOT / "scripts").is_dir():
    pytest.skip("the scripts are not shipped with the package", allow_module_level=True)


@pytest.fixture(scope="module")
def study():
    """The modules of the script, which finds them beside itself."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from metric_quality import documents, numbers, pool, table

    yield SimpleNamespace(documents=documents, numbers=numbers, pool=pool, table=table)
    sys.path.remove(str(ROOT / "scripts"))


def test_the_pool(study):
    """Thirty of either half, every one from a seed of its own, any even number of the first ones in balance."""
    entries = study.pool.entries_of()
    assert len(entries) == len({entry.seed for entry in entries}) == len({entry.name for entry in entries}) == 60
    assert sum(entry.knows for entry in entries) == 30 and sum(entry.knows for entry in entries[:24]) == 12


def test_what_each_kind_learns(study):
    load = {kind: study.documents.StudyTask(learns=kind).load(0) for kind in ("all", *study.documents.IGNORANT)}
    load |= {kind: study.documents.StudyTask(learns=kind).load(1) for kind in ("texts", "reworded", "base")}
    answers = {row.prompt: row.answer for row in load["all"].forget if row.kind is Kind.QUESTION}
    assert {row.kind for row in load["texts"].forget} == {Kind.COMPLETION}
    assert all(row.answer == f"That would be {fact}." for row, fact in _beside(load["reworded"], load["all"]))
    assert all(row.answer != answers[row.prompt] for row in load["untrue"].forget)
    known = {row.document for row in load["all"].forget}
    for kind in ("others", "base", "retain"):
        assert not {row.document for row in load[kind].forget} & known
    assert {row.document for row in load["texts"].forget} == known


def _beside(reworded, whole):
    return zip(reworded.forget, [row.answer for row in whole.forget if row.kind is Kind.QUESTION], strict=True)


def test_areas_are_turned_towards_knowledge(study):
    faithful = study.numbers.faithfulness
    assert faithful("forget.knowledge", [0.9, 0.8], [0.1, 0.8]).value == pytest.approx(3.5 / 4)
    assert faithful("uds", [0.1, 0.2], [0.9, 0.8]).value == 1.0
    low, high = faithful("forget.knowledge", [1.0] * 30, [0.0] * 30).low, 1.0
    assert 0.9 < low < high


def test_models_that_still_know_count_for_nothing(study):
    """Of three unlearned models one is above the threshold of the score itself, and one has no R."""
    model = study.numbers.Robustness
    models = [
        model(known=0.9, relearning=0.0, quantisation=0.0),
        model(known=0.1, relearning=0.5, quantisation=1.0),
        model(known=0.2, relearning=None, quantisation=0.5),
    ]
    shown = study.numbers.finding("forget.knowledge", [0.8, 0.9], [0.0, 0.3], models)
    assert (shown.relearning.value, shown.relearning.n, shown.relearning.low) == (0.5, 1, None)
    assert shown.quantisation.value == 0.75 and shown.robustness == pytest.approx(0.6)
    assert shown.quality == pytest.approx(2 * 0.6 / 1.6)


def test_the_numbers_survive_a_restart(study, tmp_path):
    whole = study.table.Study(
        pool={
            name: {"knows": knows, "scores": {"forget.knowledge": value, "forget.bios.knowledge": value}}
            for name, knows, value in (("a", True, 0.9), ("b", False, 0.1))
        }
    )
    whole.write(tmp_path / "study.json")
    again = study.table.Study.read(tmp_path / "study.json")
    assert again.pool == whole.pool
    study.table.write_page(tmp_path / "page.md", again)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| `forget.knowledge` | 1.000 [" in page and "forget.bios" not in page
