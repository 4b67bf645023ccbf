"""Reads the files that W&B writes beside a run: which rows they hold, so that a run that resumes sends none twice.

A `.wandb` file is a log of protobuf records in the block format of LevelDB: blocks of 32 KiB, each record in one or
more chunks of (checksum, length, kind), none of which crosses a block. A kill may leave the last one cut, and `wandb
sync` then takes no later file of the run: `truncate_torn_record` removes such a rest.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = b":W&B"
HEADER_BYTES, BLOCK_BYTES = 7, 32 * 2**10
CHUNK = struct.Struct("<IHB")
FULL, FIRST, LAST = 1, 2, 4
STEP_KEY = "_step"


def read_records(path: Path) -> Iterator[Any]:
    """Every whole record of a `.wandb` file, in order."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for _, whole in _pieces(path.read_bytes()):
        record = Record()
        record.ParseFromString(whole)
        yield record


def _pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each whole record ends, and its bytes."""
    if not data.startswith(MAGIC):
        return
    at, whole = HEADER_BYTES, b""
    while at + CHUNK.size <= len(data):
        room = BLOCK_BYTES - at % BLOCK_BYTES
        if room < CHUNK.size:  # too small for a chunk: padding
            at += room
            continue
        _, length, kind = CHUNK.unpack_from(data, at)
        start, at = at + CHUNK.size, at + CHUNK.size + length
        if kind == 0 or at > len(data):  # nothing written, or cut off
            return
        whole = data[start:at] if kind in (FULL, FIRST) else whole + data[start:at]
        if kind in (FULL, LAST):
            yield at, whole


def truncate_torn_record(home: Path, run: str) -> None:
    """Cut off what a kill left of a last record, in the files of all earlier starts of a run."""
    for path in wandb_files(home, run):
        data = path.read_bytes()
        end = max((at for at, _ in _pieces(data)), default=HEADER_BYTES)
        if end < len(data):
            os.truncate(path, end)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged, by name; names of parts of a value are joined by dots."""
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in read_records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def wandb_files(home: Path, run: str) -> list[Path]:
    """The `.wandb` files of all starts of the run with this id, by name."""
    return sorted(home.glob(f"*run-*-{run}/run-{run}.wandb"))


def last_logged_step(home: Path, run: str) -> int:
    """The highest place of all rows of a run in W&B's folder, 0 where there is none."""
    return max((int(row.get(STEP_KEY, 0)) for path in wandb_files(home, run) for row in read_history(path)), default=0)
