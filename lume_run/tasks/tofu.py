"""TOFU (Maini et al., arXiv:2401.06121): forget some of 200 invented authors, retain the others.

In all sets at hand (forget01, 05, 10 and retain90) rows 20i to 20i + 19 are about one author, who is their document; a
set whose rows are no multiple of 20 has each row as a document of its own. The order of the authors differs between
copies and sets: ids are made from the text, so a question has the same one wherever its author's block is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Split, TaskData
from lume_run.config.settings import setting
from lume_run.tasks.question_files import (
    COUNT_HELP,
    PAIR,
    REWORDED,
    SENTENCE,
    TEMPLATE,
    TEMPLATE_HELP,
    Asker,
    Reader,
    Row,
    Source,
    chosen,
    counted,
    folder_problems,
    repeated,
    template_problems,
    unmatched,
)
from lume_run.tasks.readers import page_example, refuse

RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
BASE, WHOLE = "retain90", "forget10"  # larger retain sets that are no files: BASE and what is kept of WHOLE
OTHERS = {"real_authors": Split.REAL_AUTHORS, "world_facts": Split.WORLD_FACTS}
QUESTIONS_PER_AUTHOR = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sets:
    """What a TOFU task reads; `extras` are the rows with false answers of the forget and the retain set.

    `retain` was taken from `source` where that is no file of its own: all of `forget` must be found there.
    """

    forget: list[Row]
    retain: list[Row]
    source: list[Row]
    extras: tuple[list[Row], list[Row]]
    others: dict[str, list[Row]]
    held_out: list[Row]

    def problems(self) -> list[Problem]:
        """What does not fit together."""
        asked = [row for rows in self.others.values() for row in rows]
        return [
            *repeated([*self.forget, *self.retain, *self.held_out, *asked]),
            *repeated([*self.extras[0], *self.extras[1]]),
            *unmatched(self.forget, self.source or self.forget),
            *unmatched(self.extras[0], self.forget),
            *unmatched(self.extras[1], self.retain),
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
    num_documents: int | None = setting(None, low=1, help=COUNT_HELP)

    def check(self) -> list[Problem]:
        """Problems visible without reading rows or asking the network."""
        found = template_problems(self.template)
        if self.data_dir is not None:
            found += folder_problems(self.data_dir) or self._lacking(Source.folder(self.data_dir))
        return found

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError with every problem, RunError where the hub gives none."""
        if problems := self.check():
            raise ConfigError(problems)
        source = Source.hub(self.hub_id) if self.data_dir is None else Source.folder(self.data_dir)
        sets = self._read(source)
        extras = {row.key: row for rows in sets.extras for row in rows}
        asker = Asker(template=self.template, subtask="tofu", extras=extras)
        sides = asker.sides(sets.forget, sets.retain)
        kept = chosen(sides, self.num_documents, seed, source.origin)
        held_out = asker.examples(sets.held_out, Split.NONMEMBER)
        return TaskData(
            forget=kept[Split.FORGET],
            retain=kept[Split.RETAIN],
            members=whole(kept[Split.FORGET], Split.MEMBER) if held_out else (),
            nonmembers=whole(held_out, Split.NONMEMBER) if held_out else (),
            others=tuple(
                example for name, rows in sets.others.items() for example in asker.examples(rows, OTHERS[name])
            ),
            source=f"{source.origin} (TOFU {self.split}; {counted(kept, sides)}; {len(held_out)} non-members)",
        )

    @property
    def _holdout(self) -> str:
        return self.split.replace("forget", "holdout")

    def _lacking(self, source: Source) -> list[Problem]:
        retain = RETAIN_OF[self.split]
        perturbed = (f"{name}_perturbed" for name in (self.split, "retain", *OTHERS))
        needed = (self.split, *((retain,) if retain in source.names else (BASE, WHOLE)), *perturbed)
        return source.lacking(dict.fromkeys(needed))

    def _read(self, source: Source) -> _Sets:
        if problems := self._lacking(source):
            refuse(problems)  # of the hub: a folder was checked
        reader = Reader(source=source)
        forget = by_author(reader.rows(self.split))
        retain = RETAIN_OF[self.split]
        base, source_rows = (retain, []) if retain in source.names else (BASE, by_author(reader.rows(WHOLE)))
        forgotten = {row.key for row in forget}
        sets = _Sets(
            forget=forget,
            retain=by_author(reader.rows(base)) + [row for row in source_rows if row.key not in forgotten],
            source=source_rows,
            extras=(self._extras(reader, self.split), self._extras(reader, "retain")),
            others={
                name: by_row(reader.rows(f"{name}_perturbed", (*PAIR, SENTENCE), perturbed=True), name)
                for name in OTHERS
            },
            held_out=by_author(reader.rows(self._holdout)) if self._holdout in source.names else [],
        )
        if problems := reader.problems or sets.problems():
            refuse(problems)
        return sets

    def _extras(self, reader: Reader, name: str) -> list[Row]:
        return reader.rows(f"{name}_perturbed", (*PAIR, *REWORDED), perturbed=True)


def by_author(rows: Sequence[Row]) -> list[Row]:
    """The rows with their authors as documents: 20 on end, where 20 goes into their number."""
    size = 1 if len(rows) % QUESTIONS_PER_AUTHOR else QUESTIONS_PER_AUTHOR
    firsts = (rows[number - number % size] for number in range(len(rows)))
    return [
        replace(row, document=f"author-{_digest(first)}", index=number % size)
        for number, (row, first) in enumerate(zip(rows, firsts, strict=True))
    ]


def by_row(rows: Iterable[Row], prefix: str) -> list[Row]:
    """The rows with themselves as documents."""
    return [replace(row, document=f"{prefix}-{_digest(row)}") for row in rows]


def _digest(row: Row) -> str:
    return hashlib.sha256("\0".join(row.key).encode()).hexdigest()[:12]


def whole(examples: Iterable[Example], split: Split) -> tuple[Example, ...]:
    """Prompt and answer as one text, as a target was trained on it."""
    from lume_run.common.records import joined  # late: it brings torch

    found = []
    for example in examples:
        text = example.prompt + joined(example.prompt, example.answer)
        page = page_example(example.id, example.raw_id, split, example.subtask, text)
        found.append(replace(page, document=example.document))  # the author's, as that of the questions
    return tuple(found)
