"""Faults of rows are told before the library of models is imported, where rows are files here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lume_run.common.errors import ProblemsError, RunError
from lume_run.tasks import early_checks
from lume_run.tasks.custom.task import CustomTask
from lume_run.tasks.early_checks import LIBRARY_OF_MODELS, rows_at_hand

PLAN = """
import sys
from lume_run.cli import main
try:
    main()
finally:
    print("imported", "transformers" in sys.modules)
"""


@pytest.fixture
def early(monkeypatch):
    """As before the library of models is imported."""
    monkeypatch.delitem(sys.modules, LIBRARY_OF_MODELS, raising=False)


def bad_rows(folder) -> str:
    (folder / "rows.jsonl").write_text(json.dumps({"question": "Who?", "answer": 3}) + "\n", encoding="utf-8")
    return str(folder / "rows.jsonl")


def problems_of(forget: object) -> list[str]:
    task = CustomTask(name="custom", forget=forget)
    data = {"seed": 0, "task": {"forget": forget, "retain": None, "holdout": None}}
    try:
        rows_at_hand(task, data)
    except ProblemsError as error:
        return [problem.where for problem in error.problems]
    return []


def test_a_bad_row_is_told_by_file_and_line(early, tmp_path):
    assert problems_of(bad_rows(tmp_path)) == [f"{tmp_path}/rows.jsonl:1"]
    assert problems_of([bad_rows(tmp_path)]) == [f"{tmp_path}/rows.jsonl:1"]


def test_once_the_library_is_imported_the_run_reads_the_rows(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, LIBRARY_OF_MODELS, sys)
    assert problems_of(bad_rows(tmp_path)) == []


def test_large_files_are_left_to_the_run(early, monkeypatch, tmp_path):
    rows = bad_rows(tmp_path)
    monkeypatch.setattr(early_checks, "EARLY_BYTES", (tmp_path / "rows.jsonl").stat().st_size - 1)
    assert problems_of(rows) == []
    assert problems_of(str(tmp_path)) == []  # a folder counts with all its files


def test_the_hub_is_not_asked(early, monkeypatch):
    monkeypatch.setattr(CustomTask, "load", lambda *_: pytest.fail("rows of the hub are read as the run begins"))
    assert problems_of("owner/name") == []
    task = {"data_dir": None, "name": "rwku"}
    assert rows_at_hand(CustomTask(name="custom"), {"seed": 0, "task": task}) is None


def test_what_is_unavailable_is_left_to_the_run(early, monkeypatch, tmp_path):
    def unavailable(*_: object) -> None:
        raise RunError("the network is gone")

    monkeypatch.setattr(CustomTask, "load", unavailable)
    assert problems_of(bad_rows(tmp_path)) == []


def test_the_command_tells_a_bad_row_without_the_library(tiny, tmp_path):
    words = ["task=custom", f"task.forget={bad_rows(tmp_path)}", f"model.path={tiny}", "model.is_target=true"]
    command = [sys.executable, "-c", PLAN, *words, "method=ga", "--dry-run", f"output_dir={tmp_path}/outputs"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "rows.jsonl:1" in ended.stdout + ended.stderr
    assert "imported False" in ended.stdout
