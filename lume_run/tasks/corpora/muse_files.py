"""MUSE's files: questions, continuations and whole texts of a corpus, in a folder or on the hub, and their examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.common.text_files import read_utf8
from lume_run.tasks.documents import Examples
from lume_run.tasks.row_files import ask_hub, field_problems

QUESTION, CONTINUATION, TEXT = ("question", "answer"), ("prompt", "gt"), ("text",)
ID_SUFFIXES = {Kind.QUESTION: "qa0", Kind.COMPLETION: "sc1", Kind.DOCUMENT: "doc", Kind.CHUNK: "chunk"}
DATA_DIR = "task.data_dir"
REFETCH = "fetch it again"

Items = list[tuple[str, dict[str, str]]]  # place and texts by field


class Corpus(Protocol):
    """Where the parts of a corpus are read from."""

    @property
    def origin(self) -> str:
        """In words."""
        ...

    @property
    def retain(self) -> str:
        """What the retain questions are called there."""
        ...

    def has(self, part: str, name: str) -> bool:
        """Whether there is such an array."""
        ...

    def array(self, part: str, name: str) -> tuple[str, Any]:
        """(place, parsed JSON) of one; raises DataError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFiles:
    """A folder with the files of a corpus; the retain questions have two names in releases."""

    folder: Path

    @property
    def origin(self) -> str:
        """The folder."""
        return f"folder {self.folder}"

    @property
    def retain(self) -> str:
        """`retain_qa` (the hub), or `retain2_qa` (the repository)."""
        return "retain_qa" if (self.folder / "knowmem" / "retain_qa.json").is_file() else "retain2_qa"

    def path(self, part: str, name: str) -> Path:
        """One file."""
        return self.folder / part / f"{name}.json"

    def has(self, part: str, name: str) -> bool:
        """Whether it is there."""
        return self.path(part, name).is_file()

    def array(self, part: str, name: str) -> tuple[str, Any]:
        """A file's place and its JSON; raises DataError."""
        path = self.path(part, name)
        return str(path), load_array(path)

    def problems(self, shots: int) -> list[Problem]:
        """What keeps the folder from being read, judged by file names alone."""
        problems = []
        needed = [self.path("knowmem", name) for name in ("forget_qa", self.retain)]
        if absent := [str(path) for path in needed if not path.is_file()]:
            remedy = "give the folder in which news/ and books/ stand, and the corpus by task.corpus"
            problems.append(Problem(where=DATA_DIR, what=f"there is no {', no '.join(absent)}", remedy=remedy))
        examples = [f"{name}_icl" for name in ("forget_qa", self.retain)]
        if shots and not absent and (lacking := [name for name in examples if not self.has("knowmem", name)]):
            what = f"{self.folder / 'knowmem'} has no {', no '.join(f'{name}.json' for name in lacking)}"
            problems.append(Problem(where="task.shots", what=what, remedy="task.shots=0 asks without examples"))
        sides = [name for name in ("forget", "holdout") if self.has("privleak", name)]
        if len(sides) == 1:
            what = f"{self.folder / 'privleak'} has {sides[0]}.json without its counterpart"
            problems.append(Problem(where=DATA_DIR, what=what, remedy="forget.json and holdout.json both, or neither"))
        return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusHub:
    """A hub data set with a config for each part of a corpus and a split for each array, as muse-bench releases it."""

    hub_id: str
    retain: str = "retain_qa"

    @property
    def origin(self) -> str:
        """The data set."""
        return f"hub {self.hub_id}"

    def has(self, part: str, name: str) -> bool:
        """Released corpora have all parts."""
        return True

    def array(self, part: str, name: str) -> tuple[str, Any]:
        """The rows of a split; RunError where the hub gives none."""
        from datasets import load_dataset

        rows = ask_hub(self.hub_id, lambda: load_dataset(self.hub_id, part, split=name), local=f"{DATA_DIR}=FOLDER")
        return f"hub {self.hub_id}, {part}, {name}", [dict(row) for row in rows]


def load_array(path: Path) -> Any:
    """The JSON of a file; DataError where it is none."""
    try:
        return json.loads(read_utf8(path, remedy=REFETCH))
    except (ValueError, RecursionError) as error:
        what = f"not JSON: {error or 'nested too deeply'}"
        raise DataError([Problem(where=str(path), what=what, remedy=REFETCH)]) from error


@dataclass(slots=True)
class ArrayReader:
    """Reads array after array and gathers the problems of all; an item's place is its number, counted from 1."""

    problems: list[Problem] = field(default_factory=list)

    def items(self, corpus: Corpus, part: str, name: str, fields: Sequence[str]) -> Items:
        """The sound items of an array of a corpus."""
        return self.read(lambda: corpus.array(part, name), fields)

    def read(self, array_of: Callable[[], tuple[str, Any]], fields: Sequence[str]) -> Items:
        """The sound items of what is read so; a bare text becomes a record of one field."""
        place = ""
        try:
            place, array = array_of()
        except DataError as error:
            self.problems += error.problems
            return []
        if not isinstance(array, list) or not array:
            self._bad(place, "holds no rows" if array == [] else "is not a JSON array", REFETCH)
            return []
        records = [item if isinstance(item, dict) else {fields[0]: item} for item in array] if fields == TEXT else array
        return list(self._sound(place, records, fields))

    def _sound(self, place: str, array: list[Any], fields: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        for number, item in enumerate(array, 1):
            where = f"{place}:item {number}"
            wrong = list(field_problems(item, where, fields))
            self.problems += wrong
            if not wrong:
                yield where, {name: item[name] for name in fields}

    def shots(self, corpus: Corpus, name: str, count: int) -> str:
        """The first `count` questions of an array with their answers, as MUSE puts them before a question."""
        before = len(self.problems)
        items = self.items(corpus, "knowmem", name, QUESTION) if count else []
        if len(items) < count and len(self.problems) == before:
            what, remedy = f"{count} examples were asked for and there are {len(items)}", f"task.shots={len(items)}"
            place = items[0][0].rpartition(":")[0] if items else name
            self._bad(place, what, remedy)
        return "".join(f"Question: {item['question']}\nAnswer: {item['answer']}\n\n" for _, item in items[:count])

    def distinct(self, sides: dict[Split, Items]) -> None:
        """No text may be on both sides; it may be twice on one."""
        first: dict[tuple[str, ...], tuple[Split, str]] = {}
        for split, items in sides.items():
            for where, item in items:
                home, place = first.setdefault(tuple(item.values()), (split, where))
                if home is not split:
                    self._bad(where, f"the same text already stands at {place}", "delete it from one of the two")

    def _bad(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(where=where, what=what, remedy=remedy))


def probes(reader: ArrayReader, corpus: Corpus, name: str, shots: int) -> dict[str, Examples]:
    """Questions, continuations and whole texts of a corpus by their split and what they measure, of what there is.

    `name` is the corpus' own, with which ids begin; problems are the reader's.
    """
    questions = {Split.FORGET: "forget_qa", Split.RETAIN: corpus.retain}
    texts = {Split.MEMBER: "forget", Split.NONMEMBER: "holdout"} if corpus.has("privleak", "forget") else {}
    asked = {split: reader.items(corpus, "knowmem", array, QUESTION) for split, array in questions.items()}
    whole = {split: reader.items(corpus, "privleak", array, TEXT) for split, array in texts.items()}
    continued = {}
    if corpus.has("verbmem", "forget"):
        continued[Split.FORGET] = reader.items(corpus, "verbmem", "forget", CONTINUATION)
    reader.distinct(asked)
    reader.distinct(whole)
    parts = {}
    for split, items in asked.items():
        before = reader.shots(corpus, f"{questions[split]}_icl", shots)
        pairs = [(f"{before}Question: {item['question']}\nAnswer: ", item["answer"]) for _, item in items]
        parts[f"{split} knowmem"] = corpus_examples(pairs, name, split, "knowmem", Kind.QUESTION)
    for split, items in continued.items():
        pairs = [(item["prompt"], item["gt"]) for _, item in items]
        parts[f"{split} verbmem"] = corpus_examples(pairs, name, split, "verbmem", Kind.COMPLETION)
    for split, items in whole.items():
        pairs = [("", item["text"]) for _, item in items]
        parts[f"{split} privleak"] = corpus_examples(pairs, name, split, "privleak", Kind.DOCUMENT)
    return parts


def corpus_examples(pairs: Sequence[tuple[str, str]], corpus: str, split: Split, subtask: str, kind: Kind) -> Examples:
    """One example for each prompt and answer, a document of its own, numbered as in the file."""
    documents = [f"{corpus}-{subtask}-{split}-{number}" for number in range(1, len(pairs) + 1)]
    return tuple(
        Example(
            id=document + ID_SUFFIXES[kind],
            raw_id=document + ID_SUFFIXES[kind],
            document=document,
            split=split,
            subtask=subtask,
            kind=kind,
            prompt=prompt,
            answer=answer,
        )
        for document, (prompt, answer) in zip(documents, pairs, strict=True)
    )
