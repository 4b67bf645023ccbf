"""Reading LUME rows from JSON lines or parquet, and refusing malformed ones with every problem of every file at once.

Rows are {id, input, output, task} as released by Ramakrishna et al. (2025) and for SemEval-2025 Task 4; membership
files hold {id, document}. Rows are judged one by one, so that a problem is named by file and line, and none is
repaired or skipped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from lume_run.common.errors import DataError, Problem, RunError
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.common.text_files import utf8_lines
from lume_run.tasks.private_facts import attribute_of, rephrasings_of
from lume_run.tasks.semeval_ids import ID, KIND_OF_SUFFIX, SUBTASK_OF_LABEL

ROW_FIELDS = ("id", "input", "output", "task")
PAGE_FIELDS = ("id", "document")
PAGE_SUBTASK = "wiki"  # the released membership files hold Wikipedia pages (Task3) only
PRIVATE_SUBTASK = "bios"  # its questions ask for private facts
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
    """What to tell about a hub data set that cannot be had; `local` says how to read a copy."""
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return RunError(
        f"The data set {hub_id} could not be fetched from the hub and is not in the cache "
        f"({type(error).__name__}: {reason}).\n"
        f"  -> {local} reads a local copy and needs no hub;\n"
        "     a gated or private data set needs HF_TOKEN, an earlier download is looked for under HF_HOME."
    )


@dataclass(slots=True)
class _Seen:
    """Where every id, document and text read so far stands, so that a repetition can name its first place."""

    ids: dict[str, tuple[Split, str]] = field(default_factory=dict)
    documents: dict[tuple[str, Split], tuple[str, str]] = field(default_factory=dict)
    texts: dict[tuple[str, str], tuple[Split, str]] = field(default_factory=dict)

    def clashes(self, example: Example, where: str) -> Iterator[Problem]:
        """What `example` repeats of the rows before it; it is remembered on the way."""
        split, document = example.split, example.document
        first_split, first = self.ids.setdefault(example.id, (split, where))
        if first != where:  # the same id implies the same document: one problem is enough
            what = f'id "{example.id}" already stands at {first} ({first_split})'
            yield Problem(where=where, what=what, remedy=_remedy(split, first_split))
            return
        for other in Split:
            if (document, split) not in self.documents and (document, other) in self.documents:
                what = f'document "{document}" already stands at {self.documents[document, other][1]} ({other})'
                yield Problem(where=where, what=what, remedy=_remedy(split, other))
        subtask, first = self.documents.setdefault((document, split), (example.subtask, where))
        if subtask != example.subtask:
            what = f'document "{document}" belongs to {example.subtask} here and to {subtask} at {first}'
            yield Problem(where=where, what=what, remedy="give all rows of a document the same task label")
        first_split, first = self.texts.setdefault((example.prompt, example.answer), (split, where))
        if first_split != split:
            what = f"the same text already stands at {first} ({first_split})"
            yield Problem(where=where, what=what, remedy=_remedy(split, first_split))


def _remedy(one: Split, other: Split) -> str:
    if one == other:
        return "delete one of the two, or give it an id of its own"
    return f"delete it from one of the two: nothing may be both {other} and {one}"


@dataclass(slots=True)
class _RowReader:
    """Reads file after file and gathers the problems of all."""

    problems: list[Problem] = field(default_factory=list)
    rows: _Seen = field(default_factory=_Seen)
    pages: _Seen = field(default_factory=_Seen)  # members are forget documents: they repeat the rows by design

    def read_rows(self, paths: Sequence[Path], split: Split) -> tuple[Example, ...]:
        """The prompts of one side of the experiment."""
        examples = []
        for where, row in self._sound_rows(paths, ROW_FIELDS):
            example = _row_example(row, where, split)
            if isinstance(example, Example):
                self.problems.extend(self.rows.clashes(example, where))
                examples.append(example)
            else:
                self.problems.extend(example)
        return tuple(examples)

    def read_pages(self, paths: Sequence[Path], split: Split) -> tuple[Example, ...]:
        """The whole documents of a membership file."""
        examples = []
        for where, row in self._sound_rows(paths, PAGE_FIELDS):
            document = row["id"].replace('"', "")
            example = page_example(document, row["id"], split, PAGE_SUBTASK, row["document"])
            self.problems.extend(self.pages.clashes(example, where))
            for side in (Split.FORGET, Split.RETAIN):
                if split == Split.NONMEMBER and (document, side) in self.rows.documents:
                    what = f'document "{document}" already stands at {self.rows.documents[document, side][1]} ({side})'
                    self.problems.append(Problem(where=where, what=what, remedy=_remedy(split, side)))
            examples.append(example)
        return tuple(examples)

    def _sound_rows(self, paths: Sequence[Path], names: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        for path in paths:
            empty = True
            for where, row in _parquet_rows(path, names) if path.suffix == ".parquet" else jsonl_rows(path):
                empty = False
                found = [row] if isinstance(row, Problem) else list(field_problems(row, where, names))
                self.problems.extend(found)
                if isinstance(row, dict) and not found:
                    yield where, {name: row[name] for name in names}
            if empty:
                self.problems.append(Problem(where=f"{path}:1", what="the file has no rows", remedy="fetch it again"))


def read_files(
    *, forget: Sequence[Path], retain: Sequence[Path], members: Sequence[Path], nonmembers: Sequence[Path]
) -> TaskData:
    """Every row of the files, all subtasks, in file order; DataError if anything is wrong in any of them."""
    reader = _RowReader()
    data = TaskData(
        forget=reader.read_rows(forget, Split.FORGET),
        retain=reader.read_rows(retain, Split.RETAIN),
        members=reader.read_pages(members, Split.MEMBER),
        nonmembers=reader.read_pages(nonmembers, Split.NONMEMBER),
    )
    if reader.problems:
        refuse(reader.problems)
    return data


def page_example(document: str, raw_id: str, split: Split, subtask: str, text: str) -> Example:
    """A whole document for membership inference."""
    return Example(
        id=f"{document}doc",
        raw_id=raw_id,
        document=document,
        split=split,
        subtask=subtask,
        kind=Kind.DOCUMENT,
        prompt="",
        answer=text,
    )


def _row_example(row: dict[str, str], where: str, split: Split) -> Example | list[Problem]:
    identifier = row["id"].replace('"', "")  # released ids carry stray quotes: "8f24..."sc1
    match = ID.fullmatch(identifier)
    subtask = SUBTASK_OF_LABEL.get(row["task"])
    if match and subtask:
        kind, question = KIND_OF_SUFFIX[match["kind"]], row["input"]
        private = subtask == PRIVATE_SUBTASK and kind == Kind.QUESTION
        attribute = attribute_of(question, row["output"]) if private else ""
        return Example(
            id=identifier,
            raw_id=row["id"],
            document=match["document"],
            split=split,
            subtask=subtask,
            kind=kind,
            prompt=question,
            answer=row["output"],
            rephrasings=rephrasings_of(question, attribute),
            attribute=attribute,
        )
    problems = []
    if not match:
        what = f"id {row['id']!r} does not end in sc or qa and a number"
        problems.append(
            Problem(where=where, what=what, remedy="write DOCUMENTsc1 (completion) or DOCUMENTqa0 (question)")
        )
    if not subtask:
        known = ", ".join(f"{label} ({name})" for label, name in SUBTASK_OF_LABEL.items())
        problems.append(Problem(where=where, what=f"unknown task label {row['task']!r}", remedy=f"use one of {known}"))
    return problems


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
        elif not value.strip():
            yield Problem(where=where, what=f'field "{name}" is blank', remedy="complete the row or delete it")
        elif re.search("[\ud800-\udfff]", value):  # would fail much later, when results are written as UTF-8
            yield Problem(where=where, what=f'field "{name}" holds half a surrogate pair', remedy="repair the text")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def jsonl_rows(path: Path) -> Iterator[tuple[str, object]]:
    """(place, parsed value or Problem) of every line."""
    for number, line in utf8_lines(path):
        where = f"{path}:{number}"
        if isinstance(line, Problem):
            yield where, line
            continue
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            remedy = "write one complete JSON object per line"
            yield where, Problem(where=where, what=f"not JSON: {error or 'nested too deeply'}", remedy=remedy)


def _parquet_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[str, object]]:
    """(place, row or Problem), rows counted from 1; pyarrow rather than pandas, which would turn null into NaN."""
    import pyarrow as pa  # imported here: JSON lines do without
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        what = f"not a readable parquet file: {str(error).splitlines()[0]}"
        yield str(path), Problem(where=str(path), what=what, remedy="fetch it again")
        return
    missing = [name for name in names if name not in table.column_names]
    if missing:
        what = f"no column {', '.join(missing)}; there are {', '.join(table.column_names)}"
        yield str(path), Problem(where=str(path), what=what, remedy=f"the columns needed are {', '.join(names)}")
        return
    columns = [table.column(name) for name in names]
    for index in range(table.num_rows):
        where = f"{path}:row {index + 1}"
        try:
            yield where, {name: column[index].as_py() for name, column in zip(names, columns, strict=True)}
        except UnicodeDecodeError:
            yield where, Problem(where=where, what="text that is not UTF-8", remedy="write the table as UTF-8")
