"""Artifacts by content: what depends on the same things is made once and shared.

An artifact is a folder. It is built in `<path>.partial` (kept across kills, so that a builder can
go on where it stopped) under a file lock, then renamed, with a DONE.json that records the hash of
everything it was made from. Whoever comes second, or at the same time, finds it done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lume_run.runtime import console

DONE = "DONE.json"
MADE_FROM = "MADE_FROM.json"
HASHED_WHOLE_BYTES = 64 * 2**20  # larger files are told apart by size and time, not by reading gigabytes


def content_hash(value: Any) -> str:
    """16 hex digits over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(path: str, *, deep: bool = False) -> str:
    """What identifies a model: the content of a local folder, or the name of a hub id.

    With `deep` that of the folders within counts too: a sentence embedder has parts of itself there.
    """
    folder = Path(path)
    if not folder.is_dir():
        return f"hub:{path}"
    seen: dict[str, str] = {}
    for file in sorted(entry for entry in (folder.rglob("*") if deep else folder.iterdir()) if entry.is_file()):
        status, name = file.stat(), file.relative_to(folder).as_posix()
        if status.st_size <= HASHED_WHOLE_BYTES:
            seen[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        else:
            seen[name] = f"{status.st_size}:{status.st_mtime_ns}"
    return content_hash(seen)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder to be, what it is made from, and how.

    `made_from` must name everything the content depends on. `build(folder)` fills the folder and may
    find there what an interrupted build left. Where several processes can `share` the work, each of them runs `build`,
    and then one process `gather`s what they left.
    """

    stage: str
    name: str
    path: Path
    made_from: Mapping[str, Any]
    build: Callable[[Path], None]
    note: str = ""
    share: bool = False
    gather: Callable[[Path], object] | None = None

    @property
    def key(self) -> str:
        """The hash of what it is made from."""
        return content_hash(self.made_from)

    @property
    def done(self) -> bool:
        """Whether the folder exists and was made from the same things."""
        return bool(_read(self.path / DONE).get("key") == self.key)

    @property
    def seconds(self) -> float:
        """How long making it took [s]."""
        return float(json.loads((self.path / DONE).read_text(encoding="utf-8"))["seconds"])

    def make(self, spawn: Callable[[Artifact, Path], None] | None = None) -> Path:
        """Build it unless it is done; wait for whoever builds it already. `spawn` has several processes build it."""
        if self.done:
            return self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.path}.lock")
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            console.print(f"  waiting for another process that is making {self.path}")
            lock.acquire()
        try:
            if not self.done:
                self._build(spawn if self.share else None)
        finally:
            lock.release()
        return self.path

    def _build(self, spawn: Callable[[Artifact, Path], None] | None) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        if _read(partial / DONE).get("key") != self.key:  # else only the renaming is left to do
            self._fill(partial, spawn)
        if self.path.exists():  # made from other things: the newer one takes its place
            shutil.rmtree(self.path)
        partial.replace(self.path)

    def _fill(self, partial: Path, spawn: Callable[[Artifact, Path], None] | None) -> None:
        left = _read(partial / MADE_FROM)
        if partial.exists() and left.get("key") != self.key:  # something else was being made here
            shutil.rmtree(partial)
            left = {}
        partial.mkdir(exist_ok=True)
        spent, began = float(left.get("seconds", 0.0)), time.monotonic()
        record = {"key": self.key, "made_from": dict(self.made_from)}
        write_json(partial / MADE_FROM, {"seconds": spent, **record})
        try:
            if spawn is None:
                self.build(partial)
            else:
                spawn(self, partial)
            if self.gather is not None:
                self.gather(partial)
        finally:
            write_json(partial / MADE_FROM, {"seconds": spent + time.monotonic() - began, **record})
        (partial / MADE_FROM).replace(partial / DONE)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
