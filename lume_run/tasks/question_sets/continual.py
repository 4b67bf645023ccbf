"""closer-look's continual TOFU (Yuan et al., arXiv:2410.08109): requests of 2, 10 or 20 authors, one after another.

The released files (`forget05.json` with a column `task_id`, `retain50.json`, ...) are cut from TOFU's 200 authors, of
which they keep 180, 100 or 20. `REQUESTS` says which authors make which request, numbered as in TOFU's full set: so any
copy of TOFU has them. False answers of forget rows stand in TOFU for authors 180 to 199 alone; the released files have
them for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from lume_run.common.errors import Problem
from lume_run.config.fields import setting
from lume_run.tasks.question_files import PAIR, QuestionReader, QuestionRow, RowSource
from lume_run.tasks.question_sets.tofu import BASE, QUESTIONS_PER_AUTHOR, WHOLE, Authors, TofuTask, by_author, without

FIRST_AUTHORS = {  # of each request in turn
    "forget01": (198, 190, 192, 194, 196, 180, 182, 184, 186, 188),
    "forget05": (190, 180, 160, 170, 140, 150, 100, 110, 120, 130),
    "forget10": (180, 160, 140, 100, 120, 20, 40, 60, 80),
}
REQUEST_SIZE = {"forget01": 2, "forget05": 10, "forget10": 20}  # authors
KEPT_SET = {"forget01": "retain90", "forget05": "retain50", "forget10": "retain10"}  # of the released files
KEPT_AUTHORS = {"forget01": 180, "forget05": 100, "forget10": 20}  # the first ones
NESTED = ("forget01", "forget05", WHOLE)  # each holds the one before
ALL_AUTHORS = 200
REQUEST = "task_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinualTofuTask(TofuTask):
    """The authors of all requests to forget, in their order, and who is retained to the end.

    `split` names closer-look's form. From a folder of its released files rows stand as there, false answers and other
    wordings of all authors with them; from TOFU's own sets those of 20 authors are there.
    """

    split: Literal["forget01", "forget05", "forget10"] = setting("forget01", help="closer-look's form")

    @property
    def forgotten_percent(self) -> int:
        """Of the authors, after the last request."""
        return 100 - 100 * KEPT_AUTHORS[self.split] // ALL_AUTHORS

    def author_sets(self, source: RowSource) -> tuple[str, ...]:
        """The released sets of the form, or those of TOFU that hold all authors."""
        return (self.split, KEPT_SET[self.split]) if self._is_released(source) else (*NESTED, BASE)

    def perturbed_set(self, source: RowSource) -> str:
        """That of the form, or TOFU's largest."""
        return f"{self.split if self._is_released(source) else WHOLE}_perturbed"

    def read_authors(self, reader: QuestionReader) -> Authors:
        """All requests of the form; what is wrong is noted in the reader."""
        if self._is_released(reader.source):
            forget = by_author(reader.rows(self.split, (*PAIR, REQUEST)))
            numbers = dict.fromkeys(row.texts[REQUEST] for row in forget)
            parts = [[row for row in forget if row.texts[REQUEST] == number] for number in numbers]
            reader.problems += _divided_authors(forget)
            return _in_requests(parts, by_author(reader.rows(KEPT_SET[self.split])))
        authors = _all_authors(reader)
        if len(authors) != ALL_AUTHORS:
            what = f"there are {len(authors)} authors in {', '.join((BASE, *NESTED))}; requests are cut from 200"
            where = reader.source.origin
            reader.problems.append(Problem(where=where, what=what, remedy="take all sets whole, from one release"))
            return Authors(forget=[], retain=[])
        size = REQUEST_SIZE[self.split]
        parts = [list(chain(*authors[first : first + size])) for first in FIRST_AUTHORS[self.split]]
        return _in_requests(parts, chain(*authors[: KEPT_AUTHORS[self.split]]))

    def _is_released(self, source: RowSource) -> bool:
        """Whether rows say of which request they are."""
        if self.split not in source.names:
            return False
        rows = [row for _, row in source.read(self.split)]
        return not rows or any(isinstance(row, dict) and REQUEST in row for row in rows)


def _divided_authors(rows: Iterable[QuestionRow]) -> Iterator[Problem]:
    """Authors of whom two requests have rows: what is forgotten with the first is not there for the second."""
    homes: dict[str, tuple[str, str]] = {}
    divided: dict[str, Problem] = {}
    for row in rows:
        number, place = homes.setdefault(row.document, (row.texts[REQUEST], row.where))
        if number != row.texts[REQUEST] and row.document not in divided:
            what = f'{REQUEST} is "{row.texts[REQUEST][:9]}", and "{number[:9]}" in the author\'s first row at {place}'
            remedy = f"one request for the {QUESTIONS_PER_AUTHOR} rows of an author"
            divided[row.document] = Problem(where=row.where, what=what, remedy=remedy)
    yield from divided.values()


def _in_requests(parts: Sequence[Sequence[QuestionRow]], retain: Iterable[QuestionRow]) -> Authors:
    requests = tuple(frozenset(row.document for row in part) for part in parts)
    return Authors(forget=list(chain(*parts)), retain=list(retain), requests=requests)


def _all_authors(reader: QuestionReader) -> list[list[QuestionRow]]:
    """The rows of each author in the order of TOFU's full set, whichever order the authors of a copy have."""
    first, middle, whole = (by_author(reader.rows(name)) for name in NESTED)
    kept = by_author(reader.rows(BASE))
    rows = [*kept, *without(whole, middle), *without(middle, first), *first]
    return [rows[start : start + QUESTIONS_PER_AUTHOR] for start in range(0, len(rows), QUESTIONS_PER_AUTHOR)]
