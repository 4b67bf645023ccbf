"""Files that tests of configs need: a folder in LUME's layout, a user's own configuration folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def rows(tmp_path) -> Path:
    """A folder in LUME's layout (checks look at file names only)."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("forget.jsonl", "retain.jsonl"):
        (folder / name).touch()
    return folder


@pytest.fixture
def write_yaml(tmp_path):
    """Writes YAML files into a user's own configuration folder."""

    def write(path: str, text: str) -> Path:
        file = tmp_path / "users" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return tmp_path / "users"

    return write
