"""Questions with true and false answers, as TOFU (arXiv:2401.06121) releases them: reading, judging, making examples.

Rows are JSON lines, `<name>.jsonl` or `<name>.json`, or the configs of a hub data set. All sets are read before any
two are compared, and every malformed row is reported with the rest. Tasks in `question_sets` say which sets they take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.tasks.documents import Examples
from lume_run.tasks.row_files import ask_hub, field_problems, jsonl_rows

PAIR = ("question", "answer")
REWORDING_FIELDS = ("paraphrased_answer", "paraphrased_question")
SENTENCE = "original_answer"  # where the answer is a bare name
QUESTION_SLOT = "{question}"
TEMPLATE = "Question: {question}\nAnswer:"
SEPARATOR_HELP = (
    "text between prompt and answer, which are then tokenised as one, as released codes do; null: a space where the "
    "script has one, and the first answer token is the answer's alone"
)
TEMPLATE_HELP = "the prompt, with {question} where the question belongs"
COUNT_HELP = "documents (authors, people) per split with all their questions; null: all"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionRow:
    """A sound row: its place, its texts by field and its false answers; then what it is about, as number `index`."""

    where: str
    texts: dict[str, str]
    perturbed: tuple[str, ...] = ()
    document: str = ""
    index: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Question and answer: one question stands twice in TOFU's retain90, about two authors."""
        return self.texts["question"], self.texts["answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """Named sets of rows; `read` gives (place, parsed row or Problem), `setting` says what names the source."""

    origin: str
    setting: str
    names: frozenset[str]
    read: Callable[[str], Iterable[tuple[str, object]]]

    @classmethod
    def folder(cls, data_dir: str) -> RowSource:
        """The files of a folder; `.jsonl` goes before `.json`."""
        folder = Path(data_dir).expanduser()
        paths = {path.stem: path for ending in ("json", "jsonl") for path in folder.glob(f"*.{ending}")}
        return cls(
            origin=f"folder {folder}",
            setting="task.data_dir",
            names=frozenset(paths),
            read=lambda name: jsonl_rows(paths[name]),
        )

    @classmethod
    def hub(cls, hub_id: str) -> RowSource:
        """The configs of a hub data set, from the cache where `datasets` finds them there."""
        from datasets import get_dataset_config_names, load_dataset

        def read(name: str) -> Iterator[tuple[str, object]]:
            rows = ask_hub(hub_id, lambda: load_dataset(hub_id, name, split="train"), local="task.data_dir=FOLDER")
            for number, row in enumerate(rows, 1):
                yield f"hub {hub_id}, {name}:row {number}", dict(row)

        names = ask_hub(hub_id, lambda: get_dataset_config_names(hub_id), local="task.data_dir=FOLDER")
        return cls(origin=f"hub {hub_id}", setting="task.hub_id", names=frozenset(names), read=read)

    def missing_sets(self, names: Iterable[str]) -> list[Problem]:
        """One problem that lists the sets which are not there."""
        absent = [name for name in names if name not in self.names]
        what = f"{self.origin} has no {', '.join(absent)}"
        remedy = "give the folder in which these stand as <name>.jsonl or <name>.json (or the hub data set)"
        return [Problem(where=self.setting, what=what, remedy=remedy)] if absent else []


def folder_problems(data_dir: str | None) -> list[Problem]:
    """What keeps a folder from being looked into."""
    folder = Path(data_dir or "").expanduser()
    if data_dir and folder.is_dir():
        return []
    what = f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist"
    remedy = "set task.data_dir=FOLDER to where the data files are"
    return [Problem(where="task.data_dir", what=what if data_dir else "no folder is given", remedy=remedy)]


def template_problems(template: str) -> list[Problem]:
    """Whether the prompt has one place for the question."""
    count = template.count(QUESTION_SLOT)
    if count == 1:
        return []
    what = f"{template!r} has {count or 'no'} {QUESTION_SLOT}"
    remedy = f"write {QUESTION_SLOT} once, where the question belongs"
    return [Problem(where="task.template", what=what, remedy=remedy)]


def format_fields(template: str, separator: str | None) -> dict[str, Any]:
    """The two settings as fields of examples, with line breaks and tabs where a shell left a backslash and a letter."""
    fields = {"template": template, "separator": separator}
    return {name: text and text.replace("\\n", "\n").replace("\\t", "\t") for name, text in fields.items()}


@dataclass(slots=True)
class QuestionReader:
    """Reads set after set and gathers the problems of all."""

    source: RowSource
    problems: list[Problem] = field(default_factory=list)

    def rows(self, name: str, fields: Sequence[str] = PAIR, *, perturbed: bool = False) -> list[QuestionRow]:
        """The sound rows of a set: text in all `fields` and, if asked for, false answers."""
        rows, empty = [], True
        for where, row in self.source.read(name):
            empty = False
            wrong = [row] if isinstance(row, Problem) else list(field_problems(row, where, fields))
            if isinstance(row, dict):
                options = row.get("perturbed_answer") if perturbed else []
                wrong += _option_problems(options, where) if perturbed else []
                if not wrong:
                    texts = {field: row[field] for field in fields}
                    rows.append(QuestionRow(where=where, texts=texts, perturbed=tuple(options or ())))
            self.problems += wrong
        if empty:
            where = f"{self.source.origin}, {name}"
            self.problems.append(Problem(where=where, what="the set has no rows", remedy="fetch it again"))
        return rows


def _option_problems(options: object, where: str) -> list[Problem]:
    if not isinstance(options, list) or not options:
        what, remedy = 'field "perturbed_answer" is missing or no list', "write a list of false answers"
        return [Problem(where=where, what=what, remedy=remedy)]
    named = {f"perturbed_answer[{number}]": option for number, option in enumerate(options)}
    return list(field_problems(named, where, tuple(named)))


def duplicate_problems(rows: Iterable[QuestionRow]) -> list[Problem]:
    """Pairs of question and answer that stand twice: nothing may be both forgotten and kept, or count twice."""
    first: dict[tuple[str, str], str] = {}
    return [
        Problem(where=row.where, what=f"the same text already stands at {place}", remedy="delete one of the two")
        for row in rows
        if (place := first.setdefault(row.key, row.where)) != row.where
    ]


def mismatch_problems(extras: Iterable[QuestionRow], rows: Iterable[QuestionRow]) -> list[Problem]:
    """`extras` whose question is not among `rows`, or has another answer there."""
    places = {key: row.where for row in rows for key in (row.key, row.key[0])}
    problems = []
    for extra in extras:
        if extra.key not in places:
            place = places.get(extra.key[0])
            what = f"the answer is not the one at {place}" if place else "no row has this question"
            remedy = "take all sets from one release, word for word"
            problems.append(Problem(where=extra.where, what=what, remedy=remedy))
    return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleBuilder:
    """Makes examples of rows; `extras` are rows with false answers and other wordings, joined by question and answer.

    `answer` names the field that holds the answer to learn, `golden` the one with the true answer, to which false
    answers and other wordings belong.
    """

    template: str
    subtask: str
    extras: dict[tuple[str, str], QuestionRow]
    answer: str = "answer"
    golden: str = "answer"
    separator: str | None = None

    def sides(self, forget: Iterable[QuestionRow], retain: Iterable[QuestionRow]) -> dict[Split, Examples]:
        """The examples of both sides of the experiment."""
        return {Split.FORGET: self.examples(forget, Split.FORGET), Split.RETAIN: self.examples(retain, Split.RETAIN)}

    def examples(self, rows: Iterable[QuestionRow], split: Split, subtask: str = "") -> Examples:
        """One QUESTION for each row."""
        return tuple(self._example(row, split, subtask or self.subtask) for row in rows)

    def _example(self, row: QuestionRow, split: Split, subtask: str) -> Example:
        extra = self.extras.get(row.key, row)
        paraphrase, rephrasing = (extra.texts.get(name) for name in REWORDING_FIELDS)
        answer, golden = row.texts[self.answer], row.texts[self.golden]
        name = f"{row.document}qa{row.index}"
        return Example(
            id=name,
            raw_id=name,
            document=row.document,
            split=split,
            subtask=subtask,
            kind=Kind.QUESTION,
            prompt=self._prompt(row.texts["question"]),
            answer=answer,
            paraphrases=(paraphrase,) if paraphrase else (),
            perturbed=extra.perturbed,
            rephrasings=(self._prompt(rephrasing),) if rephrasing else (),
            golden=golden if golden != answer else "",
            sentence=row.texts.get(SENTENCE, ""),
            template=self.template,
            separator=self.separator,
        )

    def _prompt(self, question: str) -> str:
        return self.template.replace(QUESTION_SLOT, question)
