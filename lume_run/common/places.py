"""Whether files can be written somewhere, found out before anything is made there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

LEAST_ROOM_BYTES = 2**20  # of configs and logs alone; what weights need is seen when they are written
ROOM_FOR_NAMES = 120  # bytes that a name in a run folder may take, with the path to it


def as_given(text: str) -> Path:
    """A path as it was typed, with the home folder in place of `~`; `~name` stays where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def cache_folder() -> Path:
    """Where what can be made again is kept for the user's next commands; may not exist, or not be writable."""
    return Path(os.environ.get("XDG_CACHE_HOME") or as_given("~/.cache")) / "lume-run"


def place_fault(folder: Path) -> str:
    """Why nothing could be written into a folder that may not exist yet; empty where it can.

    Nothing is left behind: a nameless file is made in the nearest folder that there is.
    """
    if "\0" in str(folder):
        return "there is a null character in it"
    try:
        nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            return f"{nearest} is in the way: it is no folder"
        if fault := _length_fault(folder, nearest):
            return fault
        with tempfile.TemporaryFile(dir=nearest):
            room = shutil.disk_usage(nearest).free
            return "" if room >= LEAST_ROOM_BYTES else f"No space left: {room:,} bytes are free there"
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            return "a name in it is too long"
        reason = getattr(error, "strerror", None) or str(error)
        return f"nothing can be written below {folder}: {reason}"


def _length_fault(folder: Path, nearest: Path) -> str:
    """A name or a path of more bytes than the file system takes."""
    longest_name, longest_path = (os.pathconf(nearest, name) for name in ("PC_NAME_MAX", "PC_PATH_MAX"))
    for part in folder.parts:
        if len(os.fsencode(part)) > longest_name:
            return f"the name {part[:20]}... is too long: {len(os.fsencode(part))} bytes, at most {longest_name}"
    length = len(os.fsencode(folder)) + ROOM_FOR_NAMES
    return (
        f"the path is too long: {length} bytes with the names of files, at most {longest_path}"
        if length > longest_path
        else ""
    )
