"""Whether the files of a finished folder are still those that were written: their sizes and SHA-256 digests."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

CHEAP_BYTES = 2**26  # files up to this size are read at every look, which takes 0.1 s at most


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
