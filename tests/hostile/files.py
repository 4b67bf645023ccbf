"""What cases put into their folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .case import Prepare


def written(name: str, content: str | bytes) -> Prepare:
    """A file with this content."""

    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def both(*steps: Prepare) -> Prepare:
    """One after another."""

    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def rows(name: str, *entries: object) -> Prepare:
    """JSON lines; texts as they are."""
    return written(name, "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in entries))


def fifo(name: str) -> Prepare:
    """A named pipe that nobody writes to."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return make


def link(name: str, target: str) -> Prepare:
    """A symbolic link."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)

    return make


def directory(name: str) -> Prepare:
    """An empty folder."""
    return lambda folder: (folder / name).mkdir(parents=True)


def copied(source: Callable[[], Path], name: str, *damages: Prepare) -> Prepare:
    """A copy of a folder, then damaged; paths of damages are inside it."""

    def copy(folder: Path) -> None:
        shutil.copytree(source(), folder / name, symlinks=True)
        for damage in damages:
            damage(folder / name)

    return copy


def changed(name: str, **changes: Any) -> Prepare:
    """A JSON file with other values; those that are `...` are removed."""

    def change(folder: Path) -> None:
        content: Mapping[str, Any] = json.loads((folder / name).read_text(encoding="utf-8")) | changes
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")

    return change


def truncated(name: str, share: float) -> Prepare:
    """The first part of a file."""
    return lambda folder: os.truncate(folder / name, int(share * (folder / name).stat().st_size))


def removed(name: str) -> Prepare:
    """Without that file."""
    return lambda folder: (folder / name).unlink()
