"""What can be said of a user's files before their rows are examples: whether they can be read, and go together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.tasks.custom.files import READERS, files_of_form
from lume_run.tasks.custom.rows import OwnRow

SHOWN_DOCUMENTS = 8  # of those that there are


def source_fault(source: str) -> str:
    """Why a file cannot be read, as its name says; empty for a folder, a hub id, and a file of a known ending."""
    path = Path(source).expanduser()
    if "://" in source:
        return f"{source} is an address, and nothing is fetched from there; download the file"
    if not path.exists() and not files_of_form(source):
        is_path = source.startswith(("/", ".", "~")) or path.suffix.lower() in READERS
        too_long = f"{source} has more parts than a hub id, OWNER/NAME:CONFIG:SPLIT" if source.count(":") > 2 else ""
        return f"{source} does not exist" if is_path else too_long
    if not path.is_dir() and path.suffix.lower() not in READERS:
        return f"{source} has an ending that is not read"
    return ""


def shared_row_problems(rows: dict[str, list[OwnRow]]) -> list[Problem]:
    """Rows that stand on two sides: to forget and to keep the same is no experiment."""
    homes: dict[tuple[str, str], tuple[str, str]] = {}
    problems = []
    for side, members in rows.items():
        for row in members:
            words = " ".join(row.prompt.split()), " ".join(row.answer.split())  # white space makes no other row
            home, place = homes.setdefault(words, (side, row.where))
            if home != side:
                what = f"the same row already stands at {place} (task.{home})"
                problems.append(Problem(where=row.where, what=what, remedy="leave it on one side"))
    return problems


def nested_rows(parsed: Iterable[tuple[str, object]], names: Sequence[str]) -> Iterator[tuple[str, object]]:
    """(place, row) of the lists of these names that each row holds; without names the rows as they are."""
    for where, row in parsed:
        if not names or not isinstance(row, Mapping):
            yield where, row
            continue
        for name in names:
            entries = row.get(name)
            if isinstance(entries, list):
                yield from ((f"{where}, {name} {number}", entry) for number, entry in enumerate(entries, 1))
            else:
                what, remedy = f'field "{name}" is no list of rows', "task.columns.rows=[...] names other columns"
                yield where, Problem(where=where, what=what, remedy=remedy)


def unknown_documents(rows: Iterable[OwnRow], names: Sequence[str]) -> list[Problem]:
    """Documents to forget of which no row is."""
    known = dict.fromkeys(row.document_name for row in rows)
    shown = ", ".join(list(known)[:SHOWN_DOCUMENTS]) + (", ..." if len(known) > SHOWN_DOCUMENTS else "")
    return [
        Problem(where="task.documents", what=f"no row of task.forget is about '{name}'", remedy=f"there are {shown}")
        for name in names
        if name not in known
    ]


def request_problems(requests: Sequence[Sequence[OwnRow]]) -> list[Problem]:
    """Documents of which two requests have rows: what is forgotten with the first is not there for the second."""
    homes: dict[str, tuple[int, str]] = {}
    problems: dict[str, Problem] = {}
    for number, part in enumerate(requests, 1):
        for row in part:
            home, place = homes.setdefault(row.document_name, (number, row.where))
            if home != number:
                subject = f"the document '{row.document}' has rows" if row.document else "the same row stands"
                what = f"{subject} in request {home} too, at {place}"
                remedy = "leave all rows of a document in one file of task.forget"
                problems.setdefault(row.document_name, Problem(where=row.where, what=what, remedy=remedy))
    return list(problems.values())
