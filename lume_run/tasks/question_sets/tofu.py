"""TOFU (Maini et al., arXiv:2401.06121): forget some of 200 invented authors, retain the others.

In all sets at hand (forget01, 05, 10 and retain90) rows 20i to 20i + 19 are about one author, who is their document; a
set whose rows are no multiple of 20 has each row as a document of its own. The order of the authors differs between
copies and sets: ids are made from the text, so a question has the same one wherever its author's block is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Split, TaskData, continuation
from lume_run.common.seeds import stable_digest
from lume_run.config.fields import setting
from lume_run.tasks.documents import choose_by_side, describe_selection, page_example
from lume_run.tasks.question_files import (
    COUNT_HELP,
    PAIR,
    REWORDING_FIELDS,
    SENTENCE,
    SEPARATOR_HELP,
    TEMPLATE,
    TEMPLATE_HELP,
    ExampleBuilder,
    QuestionReader,
    QuestionRow,
    RowSource,
    duplicate_problems,
    folder_problems,
    format_fields,
    mismatch_problems,
    template_problems,
)
from lume_run.tasks.row_files import refuse

RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
BASE, WHOLE = "retain90", "forget10"  # larger retain sets that are no files: BASE and what is kept of WHOLE
OTHER_SPLITS = {"real_authors": Split.REAL_AUTHORS, "world_facts": Split.WORLD_FACTS}
QUESTIONS_PER_AUTHOR = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Authors:
    """Who is to be forgotten and who is retained: rows with their authors as documents.

    `source` is what `retain` was cut from where that is no set of its own: all of `forget` must be found there.
    `requests` are the documents of each request, where these are not cut by number.
    """

    forget: list[QuestionRow]
    retain: list[QuestionRow]
    source: list[QuestionRow] = field(default_factory=list)
    requests: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sets:
    """What a TOFU task reads; `extras` are the rows with false answers of the forget and the retain set."""

    authors: Authors
    extras: tuple[list[QuestionRow], list[QuestionRow]]
    others: dict[str, list[QuestionRow]]
    held_out: list[QuestionRow]

    def problems(self) -> list[Problem]:
        """What does not fit together."""
        asked = [row for rows in self.others.values() for row in rows]
        forget, retain = self.authors.forget, self.authors.retain
        return [
            *duplicate_problems([*forget, *retain, *self.held_out, *asked]),
            *duplicate_problems([*self.extras[0], *self.extras[1]]),
            *mismatch_problems(forget, self.authors.source or forget),
            *mismatch_problems(self.extras[0], forget),
            *mismatch_problems(self.extras[1], retain),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TofuTask:
    """Which TOFU authors to forget: 1, 5 or 10 % of the 200; all others are retained.

    The perturbed sets give false answers and other wordings to the forget rows and to 400 retain rows. Real authors and
    world facts are only asked about. Their answers are names, without other wordings, and the published probabilities
    and truth ratios compare the names themselves; `original_answer` says the same in a sentence, for judges of meaning.
    Where the source has holdout01, 05 or 10, its rows are the non-members and the forget rows the members of membership
    inference.
    """

    name: str
    data_dir: str | None = setting(None, help="folder of JSON lines; null: the hub")
    hub_id: str = setting("locuslab/TOFU", help="hub data set with a config for each set of rows")
    split: Literal["forget01", "forget05", "forget10"] = setting("forget10", help="the authors to forget")
    template: str = setting(TEMPLATE, help=TEMPLATE_HELP)
    separator: str | None = setting(None, help=SEPARATOR_HELP, blank=True)
    num_documents: int | None = setting(None, low=1, help=COUNT_HELP)

    def check(self) -> list[Problem]:
        """Problems visible without reading rows or asking the network."""
        problems = template_problems(self.template)
        if self.data_dir is not None:
            problems += folder_problems(self.data_dir) or self._missing_sets(RowSource.folder(self.data_dir))
        return problems

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError with every problem, RunError where the hub gives none."""
        if problems := self.check():
            raise ConfigError(problems)
        source = RowSource.hub(self.hub_id) if self.data_dir is None else RowSource.folder(self.data_dir)
        sets = self._read(source)
        extras = {row.key: row for rows in sets.extras for row in rows}
        builder = ExampleBuilder(**format_fields(self.template, self.separator), subtask="tofu", extras=extras)
        sides = builder.sides(sets.authors.forget, sets.authors.retain)
        kept = choose_by_side(sides, self.num_documents, seed, source.origin)
        selection = describe_selection(kept, sides)
        held_out = builder.examples(sets.held_out, Split.NONMEMBER)
        return TaskData(
            forget=kept[Split.FORGET],
            retain=kept[Split.RETAIN],
            members=whole_texts(kept[Split.FORGET], Split.MEMBER) if held_out else (),
            nonmembers=whole_texts(held_out, Split.NONMEMBER) if held_out else (),
            others=tuple(
                example for name, rows in sets.others.items() for example in builder.examples(rows, OTHER_SPLITS[name])
            ),
            source=f"{source.origin} (TOFU {self.split}; {selection}; {len(held_out)} non-members)",
            requests=sets.authors.requests,
        )

    @property
    def forgotten_percent(self) -> int:
        """Of the authors, in the end."""
        return int(self.split.removeprefix("forget"))

    @property
    def _holdout(self) -> str:
        return self.split.replace("forget", "holdout")

    def author_sets(self, source: RowSource) -> tuple[str, ...]:
        """The sets that say who is to be forgotten and who is retained."""
        retain = RETAIN_OF[self.split]
        return (self.split, *((retain,) if retain in source.names else (BASE, WHOLE)))

    def perturbed_set(self, source: RowSource) -> str:
        """The set that has false answers and other wordings of forget rows."""
        return f"{self.split}_perturbed"

    def read_authors(self, reader: QuestionReader) -> Authors:
        """The rows to forget and to retain; what is wrong with them is noted in the reader."""
        forget = by_author(reader.rows(self.split))
        retain = RETAIN_OF[self.split]
        if retain in reader.source.names:
            return Authors(forget=forget, retain=by_author(reader.rows(retain)))
        whole = by_author(reader.rows(WHOLE))
        others = without(whole, forget)
        return Authors(forget=forget, retain=by_author(reader.rows(BASE)) + others, source=whole)

    def _missing_sets(self, source: RowSource) -> list[Problem]:
        perturbed = (self.perturbed_set(source), *(f"{name}_perturbed" for name in ("retain", *OTHER_SPLITS)))
        return source.missing_sets(dict.fromkeys((*self.author_sets(source), *perturbed)))

    def _read(self, source: RowSource) -> _Sets:
        if problems := self._missing_sets(source):
            refuse(problems)  # of the hub: a folder was checked
        reader = QuestionReader(source=source)
        sets = _Sets(
            authors=self.read_authors(reader),
            extras=(self._extras(reader, self.perturbed_set(source)), self._extras(reader, "retain_perturbed")),
            others={
                name: by_row(reader.rows(f"{name}_perturbed", (*PAIR, SENTENCE), perturbed=True), name)
                for name in OTHER_SPLITS
            },
            held_out=by_author(reader.rows(self._holdout)) if self._holdout in source.names else [],
        )
        if problems := reader.problems or sets.problems():
            refuse(problems)
        return sets

    def _extras(self, reader: QuestionReader, name: str) -> list[QuestionRow]:
        return reader.rows(name, (*PAIR, *REWORDING_FIELDS), perturbed=True)


def by_author(rows: Sequence[QuestionRow]) -> list[QuestionRow]:
    """The rows with their authors as documents: 20 on end, where 20 goes into their number."""
    size = 1 if len(rows) % QUESTIONS_PER_AUTHOR else QUESTIONS_PER_AUTHOR
    firsts = (rows[number - number % size] for number in range(len(rows)))
    return [
        replace(row, document=f"author-{_digest(first)}", index=number % size)
        for number, (row, first) in enumerate(zip(rows, firsts, strict=True))
    ]


def without(rows: Iterable[QuestionRow], others: Iterable[QuestionRow]) -> list[QuestionRow]:
    """The rows that are not among others."""
    keys = {row.key for row in others}
    return [row for row in rows if row.key not in keys]


def by_row(rows: Iterable[QuestionRow], prefix: str) -> list[QuestionRow]:
    """The rows with themselves as documents."""
    return [replace(row, document=f"{prefix}-{_digest(row)}") for row in rows]


def _digest(row: QuestionRow) -> str:
    return stable_digest(*row.key, separator="\0").hex()[:12]


def whole_texts(examples: Iterable[Example], split: Split) -> tuple[Example, ...]:
    """Prompt and answer as one text, as a target was trained on it."""
    pages = []
    for example in examples:
        text = example.prompt + continuation(example)
        page = page_example(example.id, example.raw_id, split, example.subtask, text)
        pages.append(replace(page, document=example.document))  # the author's, as that of the questions
    return tuple(pages)
