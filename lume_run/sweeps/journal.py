"""The journal file of a study: mended where a kill left it, refused where it is none, before Optuna reads it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lume_run.common.errors import DataError, Problem
from lume_run.common.text import first_line
from lume_run.common.text_files import file_fault

LOCK_SUFFIX = ".lock"  # of Optuna's own lock beside the journal


def refuse_journal(path: Path, what: str) -> NoReturn:
    """DataError that says how to begin anew."""
    remedy = "move it away: what it proposed is proposed anew, and runs that are there are not made again"
    raise DataError([Problem(where=str(path), what=what, remedy=remedy)])


def mend_journal(path: Path) -> None:
    """Drop a last line that is cut and the lock of a process that was killed; DataError for what is no file.

    The caller holds the lock of the study, so that nobody else writes.
    """
    with suppress(OSError):
        path.with_name(path.name + LOCK_SUFFIX).unlink()
    if not os.path.lexists(path):
        return
    if fault := file_fault(path):
        refuse_journal(path, fault)
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def journal_damage(error: Exception) -> str:
    """What is wrong with a journal, by what Optuna raised."""
    return f"is no journal of a study, or damaged ({type(error).__name__}: {first_line(str(error))[:120]})"
