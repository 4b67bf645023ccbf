"""Artifacts by content: what depends on the same things is made once and shared.

An artifact is a folder. It is built in `<path>.partial` (kept across kills, so that a builder can
go on where it stopped) under a file lock, then renamed, with a DONE.json that records the hash of
everything it was made from. Whoever comes second, or at the same time, finds it done.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lume_run.agent import RANKS, wait_for_ranks
from lume_run.errors import LumeError, RunError
from lume_run.runtime import console

DONE = "DONE.json"
MADE_FROM = "MADE_FROM.json"
LIVE = "live.jsonl"  # what training logs, a line a step, as it goes
HASHED_WHOLE_BYTES = 64 * 2**20  # larger files are told apart by size and time, not by reading gigabytes
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_TOLD = re.compile(  # by libraries that write without Python's own files: safetensors, tokenizers, torch
    rf"No space left|quota exceeded|File too large|os error ({'|'.join(map(str, NO_ROOM))})\b"
    r"|PytorchStreamWriter failed|inline_container\.cc.*unexpected pos|iostream error"
)


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


def full_disk(error: BaseException, folder: Path) -> RunError | None:
    """What to tell of an error that came of a disk without room, wherever in its chain that stands; None of others."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    for link in links:
        if getattr(link, "errno", None) in NO_ROOM or NO_ROOM_TOLD.search(str(link)):
            if told := next((own for own in links if isinstance(own, RunError)), None):
                return told  # and what was written on the way out failed too
            place = next(own for own in (folder, *folder.parents) if own.exists())
            free = shutil.disk_usage(place).free / 2**20
            said = next(iter(str(link).split("\n")), "")
            return RunError(
                f"The disk is full: {said}\n  {folder} could not be written; {free:,.0f} MiB are free there.\n"
                "  - make room and start the same command again: it goes on from what was finished\n"
                "  - or take less: trainer.keep_checkpoints=1 (room for two is needed while the next is written)\n"
                "  - or put everything elsewhere: output_dir=FOLDER"
            )
    return None


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises into a RunError that names the folder and says what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, LumeError) or (told := full_disk(error, folder)) is None:
            raise
        raise told from error


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
                with naming_full_disk(self.path):
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
        if (partial / RANKS).exists():
            wait_for_ranks(partial)
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
        (partial / RANKS).unlink(missing_ok=True)
        (partial / MADE_FROM).replace(partial / DONE)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
