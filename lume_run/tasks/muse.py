"""MUSE (Shi et al., arXiv:2407.06460): forget news articles or novels; asked for knowledge, wording and membership.

A folder holds `news/` or `books/` with JSON arrays: knowmem (questions about forget and retain texts, and examples to
put before them), verbmem (forget texts and their continuations) and privleak (forget and held-out texts). MUSE trains
and unlearns on raw text instead, of which this layout lacks the retain part: here the questions and continuations
themselves are learned, forgotten and retained, as in LUME, so results are not those of the paper's protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lume_run.common.errors import ConfigError, DataError, Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.common.text_files import read_utf8
from lume_run.config.fields import setting
from lume_run.tasks.documents import Examples, choose_by_side, describe_selection
from lume_run.tasks.question_files import folder_problems
from lume_run.tasks.row_files import field_problems, refuse

QUESTION, CONTINUATION, TEXT = ("question", "answer"), ("prompt", "gt"), ("text",)
ID_SUFFIXES = {Kind.QUESTION: "qa0", Kind.COMPLETION: "sc1", Kind.DOCUMENT: "doc"}
DATA_DIR = "task.data_dir"

Items = list[tuple[str, dict[str, str]]]  # place and texts by field


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFiles:
    """Where the files of a corpus stand; the retain questions have two names in releases."""

    folder: Path

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


@dataclass(slots=True)
class _ArrayReader:
    """Reads array after array and gathers the problems of all; an item's place is its number, counted from 1."""

    problems: list[Problem] = field(default_factory=list)

    def items(self, path: Path, fields: Sequence[str]) -> Items:
        """The sound items of an array; a bare text becomes a record of one field."""
        try:
            array: Any = json.loads(read_utf8(path, remedy="fetch it again"))
        except DataError as error:
            self.problems += error.problems
            return []
        except (ValueError, RecursionError) as error:
            self._bad(str(path), f"not JSON: {error or 'nested too deeply'}", "fetch it again")
            return []
        if not isinstance(array, list) or not array:
            self._bad(str(path), "holds no rows" if array == [] else "is not a JSON array", "fetch it again")
            return []
        return list(self._sound(path, [{fields[0]: item} for item in array] if fields == TEXT else array, fields))

    def _sound(self, path: Path, array: list[Any], fields: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        for number, item in enumerate(array, 1):
            where = f"{path}:item {number}"
            wrong = list(field_problems(item, where, fields))
            self.problems += wrong
            if not wrong:
                yield where, {name: item[name] for name in fields}

    def shots(self, path: Path, count: int) -> str:
        """The first `count` questions of a file with their answers, as MUSE puts them before a question."""
        before = len(self.problems)
        items = self.items(path, QUESTION) if count else []
        if len(items) < count and len(self.problems) == before:
            what, remedy = f"{count} examples were asked for and there are {len(items)}", f"task.shots={len(items)}"
            self._bad(str(path), what, remedy)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MuseTask:
    """Which corpus, and how it is asked about: MUSE puts ten worked examples before a question.

    Every row is a document of its own: files do not say which article a question is about, and repeat some questions
    of the books. Continuations came without the white space before them, and a third of those that could be looked up
    begin within a word, where a space is put all the same. One retain question of the books is among its examples.
    The books have no verbmem and privleak at hand; without privleak there is no membership inference. Its members are
    texts that a target of MUSE was trained on: one trained here has not seen them, and its AUC says nothing.
    """

    name: str
    data_dir: str | None = setting(None, help="folder with news/ and books/")
    corpus: Literal["news", "books"] = setting("news", help="BBC articles, or Harry Potter")
    shots: int = setting(10, low=0, help="worked examples before each question")
    num_documents: int | None = setting(None, low=1, help="rows of each kind per split; null: all")

    def check(self) -> list[Problem]:
        """Problems visible without reading rows."""
        return folder_problems(self.data_dir) or self._layout.problems(self.shots)

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError with every problem."""
        if problems := self.check():
            raise ConfigError(problems)
        reader = _ArrayReader()
        parts = self._parts(reader)
        if reader.problems:
            refuse(reader.problems)
        origin = f"folder {self._layout.folder}"
        kept = choose_by_side(parts, self.num_documents, seed, origin)
        return TaskData(
            forget=kept["forget knowmem"] + kept.get("forget verbmem", ()),
            retain=kept["retain knowmem"],
            members=kept.get("member privleak", ()),
            nonmembers=kept.get("nonmember privleak", ()),
            source=f"{origin} (MUSE {self.corpus}; {describe_selection(kept, parts)}; {self.shots} shots; no raw text)",
        )

    @property
    def _layout(self) -> CorpusFiles:
        return CorpusFiles(folder=Path(str(self.data_dir)).expanduser() / self.corpus)

    def _parts(self, reader: _ArrayReader) -> dict[str, Examples]:
        """The examples by split and what they measure; parts without files are left out."""
        layout = self._layout
        questions = {Split.FORGET: "forget_qa", Split.RETAIN: layout.retain}
        texts = {Split.MEMBER: "forget", Split.NONMEMBER: "holdout"} if layout.has("privleak", "forget") else {}
        asked = {split: reader.items(layout.path("knowmem", name), QUESTION) for split, name in questions.items()}
        whole = {split: reader.items(layout.path("privleak", name), TEXT) for split, name in texts.items()}
        continued = {}
        if layout.has("verbmem", "forget"):
            continued[Split.FORGET] = reader.items(layout.path("verbmem", "forget"), CONTINUATION)
        reader.distinct(asked)
        reader.distinct(whole)
        parts = {}
        for split, items in asked.items():
            before = reader.shots(layout.path("knowmem", f"{questions[split]}_icl"), self.shots)
            pairs = [(f"{before}Question: {item['question']}\nAnswer: ", item["answer"]) for _, item in items]
            parts[f"{split} knowmem"] = self._examples(pairs, split, "knowmem", Kind.QUESTION)
        for split, items in continued.items():
            pairs = [(item["prompt"], item["gt"]) for _, item in items]
            parts[f"{split} verbmem"] = self._examples(pairs, split, "verbmem", Kind.COMPLETION)
        for split, items in whole.items():
            pairs = [("", item["text"]) for _, item in items]
            parts[f"{split} privleak"] = self._examples(pairs, split, "privleak", Kind.DOCUMENT)
        return parts

    def _examples(self, pairs: Sequence[tuple[str, str]], split: Split, subtask: str, kind: Kind) -> Examples:
        """One example for each prompt and answer, numbered as in the file."""
        documents = [f"{self.corpus}-{subtask}-{split}-{number}" for number in range(1, len(pairs) + 1)]
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
