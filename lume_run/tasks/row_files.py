"""Rows of JSON lines and parquet files, judged one by one: a problem names its file and line, and none is skipped."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from lume_run.common.errors import DataError, Problem, RunError
from lume_run.common.files import HUB_PATIENCE_SECONDS
from lume_run.common.text_files import read_utf8, utf8_lines

VISIBLE = re.compile("[^\\s\u00ad\u200b-\u200f\u2060\ufeff]")  # neither white space nor a mark without width
NOT_READ = "text that is not UTF-8, or a value out of range"
NOT_TEXT = object()  # a cell of a table that is no text although its column is
MOST_ROWS = 1_000_000  # of a parquet file, a small one of which may hold any number
SHOWN_KEYS = 8  # of an object in a message
MOST_PROBLEMS = 50  # a swapped or truncated file has thousands; nobody reads them


def refuse(problems: Sequence[Problem]) -> NoReturn:
    """Raise DataError with the first problems and, past `MOST_PROBLEMS`, how many more each file has."""
    shown, rest = list(problems[:MOST_PROBLEMS]), problems[MOST_PROBLEMS:]
    if rest:
        files = Counter(problem.where.rpartition(":")[0] or problem.where for problem in rest)
        counts = ", ".join(f"{count} in {name}" for name, count in files.items())
        shown.append(Problem(where="not shown", what=f"{len(rest)} more problems ({counts}), {len(problems)} in all"))
    raise DataError(shown)


def unavailable_dataset_error(hub_id: str, error: Exception, *, local: str) -> RunError:
    """The error for a hub data set that is unavailable; `local` says how to read a copy."""
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return RunError(
        f"The data set {hub_id} could not be fetched from the hub and is not in the cache "
        f"({type(error).__name__}: {reason}).\n"
        f"  -> {local} reads a local copy and needs no hub;\n"
        "     a gated or private data set needs HF_TOKEN, an earlier download is looked for under HF_HOME."
    )


def hub_failure(hub_id: str, patience: float = HUB_PATIENCE_SECONDS) -> Exception | None:
    """Why the hub does not tell of a data set within `patience` [s]; None where it does.

    The loaders would wait without limit for a first answer, or try again for a minute.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(hub_id, timeout=patience)
    except Exception as error:  # the client's errors share no base: OSError, ValueError and httpx's own
        return error
    return None


def ask_hub(hub_id: str, ask: Callable[[], Any], *, local: str) -> Any:
    """What the hub, or the cache where that is out of reach, says of a data set; RunError that says what to do."""
    unreachable = hub_failure(hub_id)
    try:
        with nullcontext() if unreachable is None else offline():
            return ask()
    except Exception as error:
        cause = unreachable or error
        raise unavailable_dataset_error(hub_id, cause, local=local) from cause


@contextmanager
def offline() -> Iterator[None]:
    """Have the hub's clients look into the cache alone."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def field_problems(row: object, where: str, names: Sequence[str]) -> Iterator[Problem]:
    """What keeps a row from being an object with these text fields."""
    if not isinstance(row, dict):
        remedy = f"write an object with the fields {', '.join(names)}"
        yield Problem(where=where, what=f"{_short(row)} is not a JSON object", remedy=remedy)
        return
    for name in names:
        value = row.get(name)
        if name not in row:
            yield Problem(where=where, what=f'field "{name}" is missing', remedy=f"rows need {', '.join(names)}")
        elif not isinstance(value, str):
            yield Problem(where=where, what=f'field "{name}" is {_short(value)}, not a string', remedy="write text")
        elif not VISIBLE.search(value):
            yield Problem(where=where, what=f'field "{name}" is blank', remedy="complete the row or delete it")
        elif "\0" in value:
            yield Problem(where=where, what=f'field "{name}" holds a zero character', remedy="repair the text")
        elif re.search("[\ud800-\udfff]", value):  # would fail much later, when results are written as UTF-8
            yield Problem(where=where, what=f'field "{name}" holds half a surrogate pair', remedy="repair the text")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def jsonl_rows(path: Path) -> Iterator[tuple[str, object]]:
    """(place, parsed value or Problem) of every line, or of every item where the file is one array."""
    array = _array_of(path)
    if isinstance(array, Problem):
        yield array.where, array
        return
    if array is not None:
        for number, item in enumerate(array, 1):
            yield f"{path}:item {number}", item
        return
    for number, line in utf8_lines(path):
        where = f"{path}:{number}"
        if isinstance(line, Problem):
            yield where, line
            continue
        try:
            yield where, parse_json(line)
        except (ValueError, RecursionError) as error:
            remedy = "write one complete JSON object per line"
            yield where, Problem(where=where, what=f"not JSON: {error or 'nested too deeply'}", remedy=remedy)


def parse_json(text: str) -> Any:
    """A text in JSON; ValueError where it is none, or an object has a key twice; RecursionError where deep."""
    return json.loads(text, object_pairs_hook=_object_of)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands more than once in one object")
    return row


def _array_of(path: Path) -> list[Any] | Problem | None:
    """The items of a file that is one JSON array; None where it is lines, the first of which may be a list."""
    first = next((line for _, line in utf8_lines(path)), None)
    if not isinstance(first, str) or not first.lstrip().startswith("["):
        return _object_over_lines(path, first) if isinstance(first, str) else None
    try:
        array: list[Any] = parse_json(read_utf8(path, remedy="check the file"))
        return array
    except DataError as error:
        return error.problems[0]
    except (ValueError, RecursionError) as error:
        if _is_json(first):
            return None
        what = f"not JSON: {error or 'nested too deeply'}"
        return Problem(where=str(path), what=what, remedy="one array of objects, or one object a line")


def _object_over_lines(path: Path, first: str) -> Problem | None:
    """What is wrong with a file that is one JSON object on several lines, which holds no rows of its own."""
    if _is_json(first) or not first.lstrip().startswith("{"):
        return None
    try:
        whole = parse_json(read_utf8(path, remedy="check the file"))
    except (DataError, ValueError, RecursionError):
        return None
    what = f"is one JSON object on several lines, with the keys {', '.join(list(whole)[:SHOWN_KEYS])}"
    return Problem(where=str(path), what=what, remedy="one array of objects, or one object a line")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parquet_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[str, object]]:
    """(place, row or Problem), rows counted from 1, with these columns (no names: all).

    pyarrow rather than pandas, which would turn null into NaN.
    """
    import pyarrow as pa  # imported here: JSON lines do without
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > MOST_ROWS:
            what = f"holds {file.metadata.num_rows:,} rows, more than the {MOST_ROWS:,} of any benchmark"
            yield str(path), Problem(where=str(path), what=what, remedy="give a part of it")
            return
        table = file.read()
    except (OSError, pa.ArrowException) as error:
        what = f"not a readable parquet file: {str(error).splitlines()[0]}"
        yield str(path), Problem(where=str(path), what=what, remedy="fetch it again")
        return
    missing = [name for name in names if name not in table.column_names]
    if missing:
        what = f"no column {', '.join(missing)}; there are {', '.join(table.column_names)}"
        yield str(path), Problem(where=str(path), what=what, remedy=f"the columns needed are {', '.join(names)}")
        return
    names = names or table.column_names
    columns = [_column_values(table.column(name)) for name in names]
    for number, values in enumerate(zip(*columns, strict=True), 1):
        where = f"{path}:row {number}"
        if any(value is NOT_TEXT for value in values):
            yield where, Problem(where=where, what=NOT_READ, remedy="write the table again")
        else:
            yield where, dict(zip(names, values, strict=True))


def _column_values(column: Any) -> list[Any]:
    """The values of a column, `NOT_TEXT` for text that is not UTF-8, and for dates and numbers beyond Python's."""
    try:
        values: list[Any] = column.to_pylist()
    except Exception:  # of text, dates, time zones: they share no base
        return [_cell_value(cell) for cell in column]
    return values


def _cell_value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except Exception:  # as above
        return NOT_TEXT
