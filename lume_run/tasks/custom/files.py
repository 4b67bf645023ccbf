"""Rows of a user's own files: JSON Lines, JSON arrays, CSV, TSV, parquet, text; a file, a folder of them, or a hub id.

Every row is an object of named values with its place. A text file is one row, with its text as `text`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lume_run.common.errors import DataError, Problem, RunError
from lume_run.common.text_files import file_fault, read_utf8
from lume_run.tasks.row_files import ask_hub, jsonl_rows, parquet_rows

Rows = Iterator[tuple[str, object]]  # (place, row or Problem)
FIELD_BYTES = 2**24  # of one cell of a CSV file
TOO_MANY = "\0"  # a name for cells beyond the header, which no column has
FETCH_AGAIN = "check the file, or give another one"
SHARD = re.compile(r"([\w.]+)-\d{5}-of-\d{5}(?:-\w+)?\.\w+")  # as the hub exports a split
NOTES = {
    "readme.md",
    "license.txt",
    "license.md",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
}  # of a data set
SAVED = "state.json"  # in what `save_to_disk` of datasets wrote
SHOWN_FILES = 4  # of those that a folder has beside what is read


def source_rows(source: str) -> Rows:
    """(place, row or Problem) of a file, of all files of a folder in the order of their names, or of a hub data set.

    `FOLDER/train-*.parquet` are the files of that form.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        yield from folder_rows(path)
    elif path.exists() or path.is_symlink():
        yield from file_rows(path)
    elif files := files_of_form(source):
        for file in files:
            yield from file_rows(file)
    else:
        yield from hub_rows(source)


def files_of_form(source: str) -> list[Path]:
    """The files that `FOLDER/NAME` with stars stands for, in the order of their names; none of another source."""
    path = Path(source).expanduser()
    return sorted(path.parent.glob(path.name)) if "*" in path.name and path.parent.is_dir() else []


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
    """The rows of all files of the first kind that a folder (or `data/` in it) has; texts where it has no others."""
    if (folder / SAVED).exists():
        yield from _saved_rows(folder)
        return
    files = files_read(folder)
    if not files:
        what = f"holds no files of the kinds that are read ({', '.join(READERS)})"
        inside = ", ".join(sorted(place.name for place in folder.glob("[!.]*/"))[:SHOWN_FILES])
        remedy = f"name the folder in which they stand{f'; in it are {inside}' if inside else ''}"
        yield str(folder), Problem(where=str(folder), what=what, remedy=remedy)
    elif len(splits := sorted({match[1] for file in files if (match := SHARD.fullmatch(file.name))})) > 1:
        what = f"holds several splits ({', '.join(splits)}), which would be read as one"
        remedy = f"name the files of one: '{files[0].parent}/{splits[-1]}-*{files[0].suffix}'"
        yield str(folder), Problem(where=str(folder), what=what, remedy=remedy)
    else:
        for file in files:
            yield from file_rows(file)


def files_read(folder: Path) -> list[Path]:
    """The files of a folder that are read: those of its first kind in the order of `READERS`, tables before texts.

    What a data set says of itself (README.md, dataset_info.json) is no row, where there is anything else.
    """
    for notes in (NOTES, set()):
        for endings in (TABLE_ENDINGS, TEXT_ENDINGS):
            for place in (folder, folder / "data"):
                for ending in endings:
                    of_kind = [file for file in _visible_in(place) if file.suffix.lower() == ending]
                    if files := [file for file in of_kind if file.name.lower() not in notes]:
                        return files
    return []


def files_left(source: str) -> str:
    """What of a folder is not read, in words: other kinds of files, folders below; "" where all is."""
    folder = Path(source).expanduser()
    if not folder.is_dir() or (folder / SAVED).exists() or not (files := files_read(folder)):
        return ""
    left = [place for place in _visible_in(files[0].parent) if place not in files and place.name.lower() not in NOTES]
    names = [f"{place.name}/" if place.is_dir() else place.name for place in left]
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return f"not read: {', '.join(names[:SHOWN_FILES])}{more}" if names else ""


def _visible_in(folder: Path) -> list[Path]:
    """What stands in a folder, without what systems hide there."""
    return sorted(place for place in folder.glob("*") if not place.name.startswith("."))


def _saved_rows(folder: Path) -> Rows:
    """The rows of a folder that `save_to_disk` of datasets wrote."""
    from datasets import load_from_disk

    try:
        rows = load_from_disk(str(folder))
    except Exception as error:  # of a damaged folder, whatever the library raises
        what = f"cannot be read as datasets saved it: {str(error).splitlines()[0] if str(error) else error!r}"
        yield str(folder), Problem(where=str(folder), what=what, remedy="save it again, or as parquet: to_parquet")
        return
    for number, row in enumerate(rows, 1):
        yield f"{folder}:row {number}", dict(row)


def hub_rows(source: str) -> Rows:
    """The rows of `OWNER/NAME`, `OWNER/NAME:CONFIG` or `OWNER/NAME:CONFIG:SPLIT` (without a split: train)."""
    from datasets import load_dataset

    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    part = split or "train"
    local = f"nothing here is called {source}; task.forget=FILE_OR_FOLDER"
    try:
        rows = ask_hub(name, lambda: load_dataset(name, config or None, split=part), local=local)
    except RunError as error:  # a path that is mistyped looks like an id: a plan says so too
        what, _, remedy = str(error).partition("\n")
        yield source, Problem(where=source, what=what, remedy=remedy.strip(" ->"))
        return
    for number, row in enumerate(rows, 1):
        yield f"hub {source}:row {number}", dict(row)


def _csv_rows(path: Path) -> Rows:
    """Rows under a header, split at what the header has most of: commas, semicolons, tabs or bars.

    Blank lines before the header, and the line `sep=;` with which Excel begins some, are passed over.
    """
    text = read_utf8(path, remedy=FETCH_AGAIN)
    before = re.match(r"(?:[ \t]*(?:\r\n|\n|\r))*(?:sep=[,;\t|](?:\r\n|\n|\r))?", text)
    passed = len(before[0].splitlines()) if before else 0
    text = text[before.end() :] if before else text
    header = re.split("[\r\n]", text, maxsplit=1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" and "\t" in header else max(",;\t|", key=header.count)
    csv.field_size_limit(FIELD_BYTES)
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        restkey=TOO_MANY,
        strict=True,
        skipinitialspace=f"{delimiter} " in header,
    )
    whole = 0  # lines of the header and the rows that were read
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        whole = reader.line_num
        for row in _cell_rows(reader, path, passed):
            whole = reader.line_num
            yield row
    except csv.Error as error:  # a quote that stays open, say
        where = f"{path}:{passed + whole + 1}"
        yield where, Problem(where=where, what=f"not CSV: {error}", remedy="quote cells that hold quotes or breaks")


def _cell_rows(reader: csv.DictReader[str], path: Path, passed: int) -> Rows:
    """Rows whose cells belong to a column each, without those that are empty; raises csv.Error."""
    names = list(reader.fieldnames or ())
    if repeated := [name for name in names if name and names.count(name) > 1]:
        where = f"{path}:{passed + 1}"
        what = f"its header names the column '{repeated[0]}' more than once"
        yield where, Problem(where=where, what=what, remedy="give each column a name of its own")
        return
    for row in reader:
        where = f"{path}:{passed + reader.line_num}"
        if TOO_MANY in row or None in row.values():
            what = f"not as many cells as the header has ({len(names)})"
            yield where, Problem(where=where, what=what, remedy="quote cells that hold the separator")
        elif any(cell.strip() for cell in row.values()):  # spreadsheets end in rows of empty cells
            yield where, {name: cell for name, cell in row.items() if name}


def _parquet_rows(path: Path) -> Rows:
    return parquet_rows(path, ())


def _text_rows(path: Path) -> Rows:
    text = read_utf8(path, remedy=FETCH_AGAIN)
    yield str(path), {"text": text, "document": path.stem}


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
    ".md": _text_rows,
}
TEXT_ENDINGS = (".txt", ".md")
TABLE_ENDINGS = tuple(ending for ending in READERS if ending not in TEXT_ENDINGS)
