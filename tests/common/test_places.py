"""Where files go and where a command starts: no room, no working directory, libraries that do not load."""

from __future__ import annotations

import os
import shutil

import pytest

from lume_run.common.console import set_library_defaults
from lume_run.common.errors import explain_start
from lume_run.common.places import LEAST_ROOM_BYTES, place_fault


def test_a_disk_without_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    assert place_fault(tmp_path / "new" / "folder") == ""
    total, used, _ = shutil.disk_usage(tmp_path)
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(total, used, LEAST_ROOM_BYTES - 1))
    assert place_fault(tmp_path / "new").startswith("No space left")
    assert not list(tmp_path.iterdir())


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as end, explain_start():
        pass
    assert end.value.code == 2
    assert "the working directory is gone\n  -> " in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ImportError("no"), MemoryError(), OSError("x.so: failed to map segment from shared object")]
)
def test_a_library_that_does_not_load(error, capsys):
    with pytest.raises(SystemExit) as end, explain_start():
        raise error
    assert end.value.code == 2
    assert f"a library could not be loaded ({type(error).__name__}" in capsys.readouterr().err


@pytest.mark.parametrize("error", [FileNotFoundError("a bug"), ImportError("no name", name="lume_run.tasks")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)), explain_start():
        raise error


@pytest.mark.parametrize(("given", "kept"), [("loud", None), ("info", "INFO"), ("DEBUG", "DEBUG")])
def test_log_levels_that_torch_does_not_know(given, kept, monkeypatch):
    monkeypatch.setenv("LOGLEVEL", given)
    set_library_defaults()
    assert os.environ.get("LOGLEVEL") == kept
