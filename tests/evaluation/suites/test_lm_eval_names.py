"""The harness's names are read from its files once, and from the user's cache afterwards."""

from __future__ import annotations

import importlib.util

import pytest

from lume_run.common.places import cache_folder
from lume_run.evaluation.suites.utility import lm_eval_names
from lume_run.evaluation.suites.utility.lm_eval_names import known_names

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the extra is missing: pip install 'lume-run[lm-eval]'"
)


@pytest.fixture
def reads(monkeypatch, tmp_path) -> list[str | None]:
    """A cache of its own, and each time that files of tasks are read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: list[str | None] = []

    def read(include_path: str | None, *, include_defaults: bool = True) -> list[str]:
        seen.append(include_path)
        return ["arc_easy", "mmlu"] if include_defaults else ["mine"]

    monkeypatch.setattr(lm_eval_names, "_read_names", read)
    return seen


def test_the_harness_is_read_once(reads):
    assert known_names(None) == known_names(None) == ["arc_easy", "mmlu"]
    assert reads == [None]


def test_task_files_of_a_user_are_read_each_time(reads):
    assert known_names("tasks") == known_names("tasks") == ["arc_easy", "mine", "mmlu"]
    assert reads == [None, "tasks", "tasks"]


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", "[3]"])
def test_a_damaged_cache_is_made_again(reads, content):
    known_names(None)
    (file,) = cache_folder().glob("*.json")
    file.write_text(content, encoding="utf-8")
    assert known_names(None) == known_names(None) == ["arc_easy", "mmlu"]
    assert reads == [None, None]


def test_another_version_is_read_anew(reads, monkeypatch):
    known_names(None)
    monkeypatch.setattr(lm_eval_names.Distribution, "version", property(lambda _: "99"), raising=False)
    known_names(None)
    assert reads == [None, None]


def test_without_a_place_to_keep_them_they_are_read_each_time(reads, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert known_names(None) == known_names(None) == ["arc_easy", "mmlu"]
    assert reads == [None, None]


def test_a_harness_that_is_worked_on_is_read_each_time(reads, monkeypatch):
    monkeypatch.setattr(lm_eval_names, "_is_worked_on", lambda _: True)
    known_names(None)
    known_names(None)
    assert reads == [None, None]
    assert not cache_folder().exists()
