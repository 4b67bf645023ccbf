"""Rows of a user's own files: JSON Lines, JSON arrays, CSV, TSV, parquet, text; a file, a folder of them, or a hub id.

Every row is an object of named values with its place. A text file is one row, with its text as `text`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from lume_run.common.errors import DataError, Problem
from lume_run.common.text_files import file_fault, read_utf8
from lume_run.tasks.row_files import ask_hub, jsonl_rows, parquet_rows

Rows = Iterator[tuple[str, object]]  # (place, row or Problem)
FIELD_BYTES = 2**24  # of one cell of a CSV file
TOO_MANY = "\0"  # a name for cells beyond the header, which no column has
FETCH_AGAIN = "check the file, or give another one"


def source_rows(source: str) -> Rows:
    """(place, row or Problem) of a file, of all files of a folder in the order of their names, or of a hub data set."""
    path = Path(source).expanduser()
    if path.is_dir():
        yield from folder_rows(path)
    elif path.exists() or path.is_symlink():
        yield from file_rows(path)
    else:
        yield from hub_rows(source)


def file_rows(path: Path) -> Rows:
    """The rows of one file, read as its ending says."""
    read = READERS.get(path.suffix.lower())
    if fault := file_fault(path):
        yield str(path), Problem(where=str(path), what=fault, remedy=FETCH_AGAIN)
    elif read is None:
        what, remedy = f"'{path.suffix}' is no ending that is read", f"one of {', '.join(READERS)}"
        yield str(path), Problem(where=str(path), what=what, remedy=remedy)
    else:
        try:
            yield from read(path)
        except DataError as error:
            for problem in error.problems:
                yield problem.where, problem


def folder_rows(folder: Path) -> Rows:
    """The rows of all files of the first kind that a folder (or `data/` in it) has, in the order of `READERS`."""
    for place in (folder, folder / "data"):
        for ending in READERS:
            if files := sorted(place.glob(f"[!.]*{ending}")):  # without what systems hide beside them
                for file in files:
                    yield from file_rows(file)
                return
    what = f"holds no files of the kinds that are read ({', '.join(READERS)})"
    yield str(folder), Problem(where=str(folder), what=what, remedy="name the folder in which they stand")


def hub_rows(source: str) -> Rows:
    """The rows of `OWNER/NAME`, `OWNER/NAME:CONFIG` or `OWNER/NAME:CONFIG:SPLIT` (without a split: train)."""
    from datasets import load_dataset

    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    part = split or "train"
    local = f"nothing here is called {source}; task.forget=FILE_OR_FOLDER"
    rows = ask_hub(name, lambda: load_dataset(name, config or None, split=part), local=local)
    for number, row in enumerate(rows, 1):
        yield f"hub {source}:row {number}", dict(row)


def _csv_rows(path: Path) -> Rows:
    """Rows under a header; a file whose header has no comma but semicolons or tabs is split at those."""
    text = read_utf8(path, remedy=FETCH_AGAIN)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(FIELD_BYTES)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey=TOO_MANY, strict=True)
    whole = 0  # lines of the header and the rows that were read
    try:
        whole = reader.line_num if reader.fieldnames else 0
        for where, row in _cell_rows(reader, path):
            whole = reader.line_num
            yield where, row
    except csv.Error as error:  # a quote that stays open, say
        where = f"{path}:{whole + 1}"
        yield where, Problem(where=where, what=f"not CSV: {error}", remedy="quote cells that hold quotes or breaks")


def _cell_rows(reader: csv.DictReader[str], path: Path) -> Rows:
    """Rows whose cells belong to a column each; raises csv.Error."""
    names = list(reader.fieldnames or ())
    if repeated := [name for name in names if names.count(name) > 1]:
        what = f"its header names the column '{repeated[0]}' more than once"
        yield f"{path}:1", Problem(where=f"{path}:1", what=what, remedy="give each column a name of its own")
        return
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if TOO_MANY in row or None in row.values():
            what = f"not as many cells as the header has ({len(names)})"
            yield where, Problem(where=where, what=what, remedy="quote cells that hold the separator")
        else:
            yield where, dict(row)


def _parquet_rows(path: Path) -> Rows:
    return parquet_rows(path, ())


def _text_rows(path: Path) -> Rows:
    text = read_utf8(path, remedy=FETCH_AGAIN)
    yield str(path), {"text": text, "document": path.stem}


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": jsonl_rows,
    ".json": jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
    ".md": _text_rows,
}
