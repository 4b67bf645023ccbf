"""Artifacts by content: those with the same inputs are built once and shared.

An artifact is a folder. It is built in `<path>.partial` (kept when a process is killed, so that a build can resume)
under a file lock, then renamed, with a DONE.json that records its inputs, their hash, and what was written. A process
that comes second, or at the same time, finds it done. Where files were lost or changed since, it is set aside, and
built again.

Artifacts that stand outside the store, such as the unlearned model in its run's folder, are noted there: another run
that needs the same takes it over by hard links, which cost neither time nor room.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import InputError, RunError
from lume_run.common.files import content_hash, damage_of, explain_full_disk, record_files, write_json
from lume_run.common.text_files import file_fault

RANKS_LOCK = "ranks.lock"  # in the folder that ranks write to: each rank holds it, shared, as long as it lives
WAIT_SECONDS = 60.0  # for ranks of a killed driver; they end at once unless a disk or a GPU blocks them

DONE_FILE = "DONE.json"
RECORD_BYTES = 2**26  # longer records are none that were written here
INPUTS_FILE = "MADE_FROM.json"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder to be built, its inputs, and how to build it.

    `inputs` must name everything the content depends on. `build(folder)` fills the folder, which may hold files of an
    interrupted build. Where several processes can `share` the work, each of them runs `build`, and then one process
    `gather`s their files. `note_file` of an artifact outside the store says where the last one of these inputs stands.
    `tokens()` estimates how many a model sees, by what is done with them (pipeline/memory/cost.py).
    """

    stage: str
    name: str
    path: Path
    inputs: Mapping[str, Any]
    build: Callable[[Path], None]
    note: str = ""
    share: bool = False
    gather: Callable[[Path], object] | None = None
    note_file: Path | None = None
    tokens: Callable[[], Mapping[str, float]] | None = None

    @property
    def key(self) -> str:
        """The hash of the inputs."""
        return content_hash(self.inputs)

    @property
    def is_done(self) -> bool:
        """Whether the folder exists, was built from the same inputs, and is whole."""
        return self._is_of_these_inputs and not self.damage()

    @property
    def is_cached(self) -> bool:
        """Whether it is done, here or in another run's folder."""
        return self.is_done or self.twin() is not None

    def twin(self, *, thorough: bool = False) -> Path | None:
        """Another finished, whole folder of the same inputs that is noted; None without one."""
        noted = read_done_record(self.note_file).get("path") if self.note_file is not None else None
        if self.note_file is None or not isinstance(noted, str):
            return None
        folder = self.note_file.parent / noted
        record = read_done_record(folder / DONE_FILE)
        files = record.get("files", {})
        if record.get("key") != self.key or any(".." in Path(name).parts or Path(name).is_absolute() for name in files):
            return None
        is_whole = not damage_of(folder, files, thorough=thorough)
        return folder if is_whole and folder.resolve() != self.path.resolve() else None

    @property
    def _is_of_these_inputs(self) -> bool:
        return bool(read_done_record(self.path / DONE_FILE).get("key") == self.key)

    def damage(self, *, thorough: bool = False) -> str:
        """What became of a file of the finished folder; empty where all are whole. `thorough`: every byte is read."""
        return damage_of(self.path, read_done_record(self.path / DONE_FILE).get("files", {}), thorough=thorough)

    @property
    def seconds(self) -> float:
        """How long the build took [s]."""
        return float(json.loads((self.path / DONE_FILE).read_text(encoding="utf-8"))["seconds"])

    def make(self, spawn: Callable[[Artifact, Path], None] | None = None, *, verify: bool = False) -> Path:
        """Build it unless it is done; wait for a process that does already.

        `spawn` has several processes build it. `verify` reads every byte of what is done.
        """
        if self.is_done and not verify:
            return self.path
        places = [self.path, *([self.note_file] if self.note_file else [])]
        with ExitStack() as locks:
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(_locked(place))
            damage = self.damage(thorough=verify) if self._is_of_these_inputs else ""
            if damage:
                self._set_aside(damage)
            if not self._is_of_these_inputs:
                twin = self.twin(thorough=verify or bool(damage))
                with explain_full_disk(self.path):
                    self._build(spawn if self.share else None, twin)
            if self.note_file is not None:
                write_json(self.note_file, {"path": os.path.relpath(self.path, self.note_file.parent)})
        return self.path

    def _set_aside(self, damage: str) -> None:
        """Rename the damaged folder: nothing is deleted that somebody may want to look at."""
        places = (self.path.with_name(f"{self.path.name}.damaged-{number}") for number in count(1))
        place = next(place for place in places if not os.path.lexists(place))
        self.path.rename(place)
        console.print(f"  [yellow]{escape(f'{self.path} is damaged: {damage}; set aside as {place.name}')}[/]")

    def _build(self, spawn: Callable[[Artifact, Path], None] | None, twin: Path | None) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        if read_done_record(partial / DONE_FILE).get("key") != self.key:  # else only the renaming is left to do
            if twin is not None:
                link_artifact(twin, partial)
            else:
                self._fill(partial, spawn)
        if "key" in read_done_record(self.path / DONE_FILE):  # built from other inputs: the newer one takes its place
            shutil.rmtree(self.path)
        elif os.path.lexists(self.path):
            self._set_aside(f"it has no {DONE_FILE} that can be read")
        partial.replace(self.path)

    def _fill(self, partial: Path, spawn: Callable[[Artifact, Path], None] | None) -> None:
        if (partial / RANKS_LOCK).exists():
            wait_for_ranks(partial)
        left = read_done_record(partial / INPUTS_FILE)
        if partial.exists() and left.get("key") != self.key:  # of other inputs
            shutil.rmtree(partial)
            left = {}
        partial.mkdir(exist_ok=True)
        spent, began = float(left.get("seconds", 0.0)), time.monotonic()
        record = {"key": self.key, "made_from": dict(self.inputs)}
        write_json(partial / INPUTS_FILE, {"seconds": spent, **record})
        try:
            if spawn is None:
                self.build(partial)
            else:
                spawn(self, partial)
            if self.gather is not None:
                self.gather(partial)
        finally:
            write_json(partial / INPUTS_FILE, {"seconds": spent + time.monotonic() - began, **record})
        (partial / RANKS_LOCK).unlink(missing_ok=True)
        files = record_files(partial, without={INPUTS_FILE, DONE_FILE})
        write_json(partial / INPUTS_FILE, {**read_done_record(partial / INPUTS_FILE), "files": files})
        (partial / INPUTS_FILE).replace(partial / DONE_FILE)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Nobody else builds what belongs to this place; says so where it has to wait."""
    lock = FileLock(f"{place}.lock")
    if os.path.lexists(lock.lock_file) and (fault := file_fault(Path(lock.lock_file))):
        raise InputError(f"{lock.lock_file} {fault}\n  - move it away: it is where processes say that they build")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        console.print(f"  waiting for another process that builds {place}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def link_artifact(artifact: Path, place: Path) -> None:
    """Have the files of a finished artifact in another place too: by hard links, or copied to another file system."""
    if place.exists():
        shutil.rmtree(place)
    for name in (*files_written(artifact), DONE_FILE):
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(artifact / name, target)


def link_or_copy(file: str | Path, target: str | Path) -> None:
    """Have a file in another place too, by a hard link, or copied to another file system."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)


def files_written(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of a finished artifact with size and digest, as they were written; none where it is not finished."""
    return dict(read_done_record(folder / DONE_FILE).get("files", {}))


def read_done_record(path: Path) -> dict[str, Any]:
    """A record, {} where the file is none: not there, no regular file, other than was written."""
    if file_fault(path, limit=RECORD_BYTES):
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict) or not isinstance(files := value.get("files", {}), dict):
        return {}
    sizes = [entry.get("bytes") if isinstance(entry, dict) else None for entry in files.values()]
    return value if all(isinstance(size, int) for size in sizes) else {}


def wait_for_ranks(folder: Path) -> None:
    """Wait until no rank of an earlier start writes to `folder`; RunError where that takes too long."""
    deadline = time.monotonic() + WAIT_SECONDS
    with (folder / RANKS_LOCK).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"Processes of an earlier start still write to {folder}. Look for `lume_run.pipeline.rank` "
                        "with ps, end them, and start again."
                    ) from None
                time.sleep(0.1)
