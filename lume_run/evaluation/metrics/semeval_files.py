"""The files of the official SemEval-2025 Task 4 script: folders read as responses, responses written as rows.

The script writes each process's rows to `forget_<rank>.csv`, `retain_<rank>.csv` and `mia_results/*.csv`. Here every
cell is read as it was written; `semeval_official` scores what the script's own way of reading makes of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lume_run.common.errors import DataError, Problem
from lume_run.common.lazy import pandas
from lume_run.common.records import Ask, Kind, Response, Split
from lume_run.evaluation.metrics.semeval import TEXT_SPLITS, is_text_row, mean_logp_or_nan, membership_rows
from lume_run.tasks.semeval_ids import KIND_OF_SUFFIX, SUBTASK_OF_LABEL

LABEL_OF_SUBTASK = {subtask: label for label, subtask in SUBTASK_OF_LABEL.items()}
ID_SUFFIX = re.compile(r"(sc|qa)\d+$", re.IGNORECASE)
DEFAULT_SUFFIX = {Kind.COMPLETION: "sc1", Kind.QUESTION: "qa0"}


def responses_from_official(folder: Path) -> list[Response]:
    """The texts and losses of an official output folder as they were written, for the default score sheet.

    Rows that the script repeated to fill its last process appear once. The files hold mean losses without
    token counts, so a document comes back as one token.
    """
    responses: dict[Response, None] = {}
    problems: list[Problem] = []
    for split in TEXT_SPLITS:
        for where, row in _raw_rows(folder, split):
            response = _text_response(split, row)
            if response is None:
                what = f"id {row['id']!r}, task {row['task']!r}: no kind or no task"
                remedy = "ids end in sc or qa and a number, tasks are Task1 to Task3"
                problems.append(Problem(where=where, what=what, remedy=remedy))
            else:
                responses[response] = None
    for split in (Split.MEMBER, Split.NONMEMBER) if (folder / "mia_results").is_dir() else ():
        for where, row in _raw_rows(folder / "mia_results", split):
            try:
                responses[_document_response(split, row)] = None
            except ValueError:
                remedy = "give the mean loss of the document as a number"
                problems.append(Problem(where=where, what=f"nll is {row['nll']!r}", remedy=remedy))
    if problems:
        raise DataError(problems)
    return list(responses)


def official_row(row: Response) -> dict[str, str | float | None]:
    """A response as a row of the script's forget and retain files."""
    return {
        # An id from elsewhere (TOFU, the generator) gets the suffix without which no rule would score it.
        "id": row.id if ID_SUFFIX.search(row.id) else row.id + DEFAULT_SUFFIX[row.kind],
        "task": LABEL_OF_SUBTASK.get(row.subtask, row.subtask),
        "input": row.prompt,
        "expected_output": row.expected,
        "model_output": row.output,
        "nll": 0.0,  # never scored, but after a broken row it is the `task` of the second half
    }


def write_official_files(responses: Sequence[Response], folder: Path) -> list[Path]:
    """Our responses as the script's files of one process, and which; those of a split without rows are left out."""
    tables: dict[Path, list[dict[str, Any]]] = {}
    for split in TEXT_SPLITS:
        texts = [row for row in responses if is_text_row(row) and row.split is split]
        tables[folder / f"{split}_0.csv"] = [official_row(row) for row in texts]
    for split in (Split.MEMBER, Split.NONMEMBER):
        losses = [{"id": row.id, "nll": -mean_logp_or_nan(row)} for row in membership_rows(responses, split)]
        tables[folder / "mia_results" / f"{split}_0.csv"] = losses
    paths = [path for path, rows in tables.items() if rows]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        pandas.DataFrame(tables[path]).to_csv(path, index=False)
    return paths


def split_frames(folder: Path, split: Split, **options: Any) -> dict[Path, pandas.DataFrame]:
    """The frame of each file of a split, by name; `options` are those of `pandas.read_csv`.

    DataError without a file, or where a file is no CSV or lacks a column.
    """
    files = sorted(folder.glob(f"{split}_*.csv"))
    if not files:
        remedy = "give the output folder of the official script, kept with --keep_files (or leave membership out)"
        raise DataError([Problem(where=str(folder), what=f"no {split}_*.csv", remedy=remedy)])
    frames = {}
    for path in files:
        frames[path] = _read_official_csv(path, **options)
        _check_columns(frames[path], path, split)
    return frames


def _read_official_csv(path: Path, **options: Any) -> pandas.DataFrame:
    try:
        frame: pandas.DataFrame = pandas.read_csv(path, **options)
    except ValueError as error:  # also pandas' own errors, and bytes that are not UTF-8
        what, remedy = f"cannot be read as CSV: {error}", "give a file as the official script writes it"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)]) from error
    return frame


def _check_columns(frame: pandas.DataFrame, where: Path, split: Split) -> None:
    texts = ("id", "task", "input", "expected_output", "model_output")
    missing = [name for name in (texts if split in TEXT_SPLITS else ("id", "nll")) if name not in frame.columns]
    if missing:
        remedy = f"its columns are {', '.join(frame.columns)}; give a file as the official script writes it"
        raise DataError([Problem(where=str(where), what=f"no column {', '.join(missing)}", remedy=remedy)])


def _raw_rows(folder: Path, split: Split) -> list[tuple[str, dict[str, str]]]:
    """(where, cells) of every row, each cell as it was written."""
    rows: list[tuple[str, dict[str, str]]] = []
    for path, frame in split_frames(folder, split, dtype=str, keep_default_na=False).items():
        records = [{str(name): str(cell) for name, cell in row.items()} for row in frame.to_dict(orient="records")]
        rows += [(f"{path}: row {number}", row) for number, row in enumerate(records, 1)]
    return rows


def _text_response(split: Split, row: dict[str, str]) -> Response | None:
    id = row["id"].replace('"', "")
    suffix = ID_SUFFIX.search(id)
    if suffix is None or not row["task"]:
        return None
    return Response(
        id=id,
        ask=Ask.GENERATE,
        split=split,
        subtask=SUBTASK_OF_LABEL.get(row["task"], row["task"]),
        kind=KIND_OF_SUFFIX[suffix[1].lower()],
        document=id[: suffix.start()],
        prompt=row["input"],
        expected=row["expected_output"],
        output=row["model_output"],
    )


def _document_response(split: Split, row: dict[str, str]) -> Response:
    id, loss = row["id"].replace('"', ""), float(row["nll"])
    return Response(
        id=id,
        ask=Ask.LOGPROB,
        split=split,
        subtask="",
        kind=Kind.DOCUMENT,
        document=id,
        prompt="",
        expected="",
        tokens=1,
        logp_sum=-loss if math.isfinite(loss) else None,
    )
