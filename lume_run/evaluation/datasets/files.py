"""Files of the data sets that suites read: plain text, and JSON lines whose bad rows are all named at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lume_run.common.errors import DataError, Problem
from lume_run.common.text_files import read_utf8
from lume_run.tasks.row_files import field_problems, jsonl_rows, refuse


def read_text(path: Path, *, remedy: str = "check the path") -> str:
    """The text of a UTF-8 file; DataError where it is absent, unreadable, blank, or not UTF-8 (naming the line)."""
    require_file(path, remedy=remedy)
    text = read_utf8(path, remedy=remedy)
    if not text.strip():
        raise DataError([Problem(where=str(path), what="the file has no text", remedy="give another file")])
    return text.replace("\r\n", "\n")


def read_jsonl_rows(
    path: Path, names: Sequence[str], problems_of: Callable[[dict[str, Any], str], Iterable[Problem]]
) -> list[dict[str, Any]]:
    """Every row of a file of objects with the text fields `names`; DataError naming every bad line.

    `problems_of(row, where)` says what else is wrong with a row whose text fields are there.
    """
    require_file(path)
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for where, row in jsonl_rows(path):
        of_row = [row] if isinstance(row, Problem) else [*field_problems(row, where, names)]
        if not of_row and isinstance(row, dict):
            of_row += problems_of(row, where)
            rows.append(row)
        problems += of_row
    if problems:
        refuse(problems)
    if not rows:
        raise DataError([Problem(where=str(path), what="the file has no rows", remedy="fetch it again")])
    return rows


def require_file(path: Path, *, remedy: str = "check the path") -> None:
    """DataError where there is no such file."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "the file does not exist"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)])
