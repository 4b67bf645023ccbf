"""Reading LUME rows, and refusing malformed ones with every problem of every file at once.

Rows are {id, input, output, task} as released by Ramakrishna et al. (2025) and for SemEval-2025 Task 4; membership
files hold {id, document}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.tasks.documents import page_example
from lume_run.tasks.private_facts import attribute_of, rephrasings_of
from lume_run.tasks.row_files import field_problems, jsonl_rows, parquet_rows, refuse
from lume_run.tasks.semeval_ids import ID, KIND_OF_SUFFIX, SUBTASK_OF_LABEL

ROW_FIELDS = ("id", "input", "output", "task")
PAGE_FIELDS = ("id", "document")
PAGE_SUBTASK = "wiki"  # the released membership files hold Wikipedia pages (Task3) only
PRIVATE_SUBTASK = "bios"  # its questions ask for private facts


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


def _remedy(split: Split, other: Split) -> str:
    if split == other:
        return "delete one of the two, or give it an id of its own"
    return f"delete it from one of the two: nothing may be both {other} and {split}"


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
            for where, row in parquet_rows(path, names) if path.suffix == ".parquet" else jsonl_rows(path):
                empty = False
                problems = [row] if isinstance(row, Problem) else list(field_problems(row, where, names))
                self.problems.extend(problems)
                if isinstance(row, dict) and not problems:
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
