"""Checkpoints that are complete or absent: written to a folder aside, flushed, marked with their world, then renamed.

A process may be killed, or a disk may fill up, at any moment: older checkpoints are deleted only when a newer one is
complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.devices import rank
from lume_run.common.errors import RunError
from lume_run.common.files import damage_of, explain_full_disk, record_files, write_json
from lume_run.common.text import first_line
from lume_run.launch.collectives import barrier
from lume_run.launch.world import World

FILE_SIZES = "FILE_SIZES.json"  # in a checkpoint's folder: the sizes of its files
COMPLETE = "COMPLETE"  # in a checkpoint's folder: the world that wrote it
WRITING = "writing"  # beside the complete ones: where the next one is written


@contextmanager
def atomic_checkpoint(folder: Path, step: int, world: World, keep: int) -> Iterator[None]:
    """Around the writing of `folder/WRITING/checkpoint-STEP`, which then joins the newest `keep` complete ones.

    All ranks together; RunError where the disk is full.
    """
    aside = folder / WRITING
    if rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    barrier()
    with explain_full_disk(folder):
        yield
        barrier()
        if rank() == 0:
            publish_checkpoint(aside / f"checkpoint-{step}", folder, world, keep)
    barrier()


def publish_checkpoint(checkpoint: Path, folder: Path, world: World, keep: int) -> None:
    """Move a finished checkpoint to its place in `folder`, and delete all but the newest `keep`."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            flush(path)
    write_json(checkpoint / FILE_SIZES, record_files(checkpoint, digests=False))
    world.write(checkpoint, COMPLETE)
    flush(checkpoint / FILE_SIZES)
    flush(checkpoint / COMPLETE)
    place = folder / checkpoint.name
    # A whole one is the same step again: a resumed run also writes its last step.
    if not (place / COMPLETE).exists() or damage_of_checkpoint(place):
        shutil.rmtree(place, ignore_errors=True)
        checkpoint.replace(place)
    for old in complete_checkpoints(folder)[keep:]:
        (old / COMPLETE).unlink()  # first, or a half-deleted one would count
        shutil.rmtree(old)


def flush(path: Path) -> None:
    """Force a file to disk: a node may go down, and some disks report only now that they are full."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, newest first."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(complete, key=step_of, reverse=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    return next(iter(complete_checkpoints(folder)), None)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def damage_of_checkpoint(checkpoint: Path) -> str:
    """What became of a file of a complete checkpoint; empty where all have the size that they were written with."""
    try:
        records = json.loads((checkpoint / FILE_SIZES).read_text(encoding="utf-8"))
        World.read(checkpoint, COMPLETE)
        return damage_of(checkpoint, records)
    except FileNotFoundError:  # of an earlier version
        return ""
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"its records cannot be read ({first_line(str(error))})"


def whole_checkpoints(folder: Path) -> Iterator[Path]:
    """The complete checkpoints whose files are whole, newest first; damaged ones are named and passed over."""
    for checkpoint in complete_checkpoints(folder):
        if damage := damage_of_checkpoint(checkpoint):
            console.print(f"  [yellow]{escape(f'{checkpoint} is damaged: {damage}; an older one is looked for')}[/]")
        else:
            yield checkpoint


def checkpoint_to_resume(folder: Path, world: World) -> Path | None:
    """The newest complete checkpoint whose files are whole; None where there is none.

    RunError where this world cannot read its optimizer states. Without ZeRO, and within one of its stages, any number
    of processes resumes from what any other number wrote.
    """
    newest = next(whole_checkpoints(folder), None)
    if newest is None:
        return None
    written = World.read(newest, COMPLETE)
    if written.stage != world.stage:
        raise RunError(
            f"The checkpoint {newest} was written by {written}, and cannot be read by {world}: its optimizer states "
            f"are stored as only {'that ZeRO stage' if written.stage else 'single and ddp'} can read them.\n"
            f"  - resume with launch={written.mode}, on any number of processes\n"
            f"  - or start from the beginning: delete {folder}"
        )
    return newest
