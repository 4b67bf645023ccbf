"""Files and their content: hashes, whether they are still as written, JSON in one step, and a disk that is full."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lume_run.common.errors import LumeError, RunError

HUB_PATIENCE_SECONDS = 5.0  # how long the Hugging Face hub may take to answer before it counts as unreachable
ERROR_FILE = "error.json"  # in the folder of a job that ended in an error
LIVE = "live.jsonl"  # what training logs, a line a step, as it goes
CHEAP_BYTES = 2**26  # files up to this size are read at every look, which takes 0.1 s at most
MAX_HASHED_BYTES = 64 * 2**20  # larger files are compared by size and time, not by reading gigabytes
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL_MESSAGES = re.compile(  # of libraries that write without Python's own files: safetensors, tokenizers, torch
    rf"No space left|quota exceeded|File too large|os error ({'|'.join(map(str, DISK_FULL_ERRNOS))})\b"
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
        if status.st_size <= MAX_HASHED_BYTES:
            seen[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        else:
            seen[name] = f"{status.st_size}:{status.st_mtime_ns}"
    return content_hash(seen)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a whole file in one step, in UTF-8: readers see the old one or the new one.

    It is written beside `path` under a name that nobody can foresee and that must not exist, so that no link which
    somebody planted in a shared folder is followed; a link at `path` itself is replaced.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step."""
    replace_file(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def record_files(folder: Path, *, without: Collection[str] = (), digests: bool = True) -> dict[str, dict[str, Any]]:
    """Size [bytes] and digest of every file of a folder by its path in there, but those named.

    Without `digests` sizes alone: of gigabytes they would take minutes.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: {"bytes": path.stat().st_size, **({"sha256": digest_of(path)} if digests else {})}
        for name, path in paths.items()
        if name not in without
    }


def damage_of(folder: Path, records: Mapping[str, Any], *, thorough: bool = False) -> str:
    """What became of the first file that is not as `records` say; empty where all are.

    Sizes are compared always, digests of files up to CHEAP_BYTES, or with `thorough` of all.
    """
    for name, record in records.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is lost"
        size = path.stat().st_size
        if size != record["bytes"]:
            return f"{name} has {size:,} bytes, not the {record['bytes']:,} that were written"
        digest = record.get("sha256")
        if digest and (thorough or size <= CHEAP_BYTES) and digest_of(path) != digest:
            return f"{name} has other contents than were written"
    return ""


def digest_of(path: Path) -> str:
    """The SHA-256 digest of a file; one that has not changed since is read once a process."""
    status = path.stat()
    return _digest_of_version(path, status.st_size, status.st_mtime_ns, status.st_ino)


@cache
def _digest_of_version(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def full_disk_error(error: BaseException, folder: Path) -> RunError | None:
    """The message for an error with a full disk anywhere in its chain; None for other errors."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    for link in links:
        if getattr(link, "errno", None) in DISK_FULL_ERRNOS or DISK_FULL_MESSAGES.search(str(link)):
            if run_error := next((error for error in links if isinstance(error, RunError)), None):
                return run_error  # the run failed with this one, and then the disk was too full to write it down
            existing = next(path for path in (folder, *folder.parents) if path.exists())
            free = shutil.disk_usage(existing).free / 2**20
            reason = next(iter(str(link).split("\n")), "")
            return RunError(
                f"The disk is full: {reason}\n  {folder} could not be written; {free:,.0f} MiB are free there.\n"
                "  - make room and start the same command again: it resumes from what was finished\n"
                "  - or take less: trainer.keep_checkpoints=1 (room for two is needed while the next is written)\n"
                "  - or put everything elsewhere: output_dir=FOLDER"
            )
    return None


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises into a RunError that names the folder and says what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, LumeError) or (explained := full_disk_error(error, folder)) is None:
            raise
        raise explained from error
