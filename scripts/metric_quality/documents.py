"""The documents of the metrics study: the same people for every model, and what each kind of model learns of them.

Every question has its answer in other words too, and false answers in those words, as TOFU's questions have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.tasks.builtin.generator import MAX_DOCUMENTS, generate_task

Rows = tuple[Example, ...]
OTHER_WORDS = "That would be {}."
KNOWING = ("all", "texts", "reworded")  # kinds of rows that models learned which know the forget set
IGNORANT = ("retain", "untrue", "others")  # those of models which do not
BASE_PEOPLE = 1000  # added to the seed of people: who the model is about that all others begin as


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTask:
    """Biographies of the seed `people`; `learns` says which rows a model learns beside those of the retain set.

    `all`: texts and questions of the forget set. `texts`: its texts alone. `reworded`: its questions and answers in
    other words. `retain`: nothing. `untrue`: its questions with false answers. `others`: other people. `base`: people
    that nobody else learns of, in all forms.
    """

    name: str = "study"
    people: int = 0
    num_documents: int = 6
    learns: Literal["all", "texts", "reworded", "retain", "untrue", "others", "base"] = "all"

    def check(self) -> list[Problem]:
        """There must be other people besides."""
        if 1 <= self.num_documents <= MAX_DOCUMENTS // 2:
            return []
        remedy = f"1 to {MAX_DOCUMENTS // 2}"
        return [Problem(where="task.num_documents", what="too few or too many", remedy=remedy)]

    def load(self, seed: int) -> TaskData:
        """The rows, whatever the seed: forget rows are what is learned beside the retain set."""
        people = self.people + (BASE_PEOPLE if self.learns == "base" else 0)
        data = _with_other_words(generate_task(subtasks=("bios",), num_documents=self.num_documents, seed=people))
        forget, retain = data.forget, data.retain
        match self.learns:
            case "texts":
                forget = tuple(row for row in forget if row.kind is Kind.COMPLETION)
            case "reworded" | "base":
                forget = tuple(_reworded(row) for row in forget if row.kind is Kind.QUESTION)
                forget += data.forget if self.learns == "base" else ()
            case "untrue":
                questions = [row for row in forget if row.kind is Kind.QUESTION]
                bare = generate_task(subtasks=("bios",), num_documents=self.num_documents, seed=people).forget
                false = {row.id: row.perturbed[0] for row in bare if row.perturbed}
                forget = tuple(replace(row, id=f"{row.id}-untrue", answer=false[row.id]) for row in questions)
            case "others":
                forget = self._others(people, forget)
            case "retain":
                forget = tuple(replace(row, split=Split.FORGET) for row in retain[: len(retain) // 2])
                retain = retain[len(retain) // 2 :]
            case _:
                pass
        return replace(data, forget=forget, retain=retain, source=f"people {people}, {self.learns}")

    def _others(self, people: int, forget: Sequence[Example]) -> Rows:
        """As many people more, who stand behind those of the forget set."""
        known = {row.document for row in forget}
        twice = generate_task(subtasks=("bios",), num_documents=2 * self.num_documents, seed=people).forget
        return tuple(row for row in twice if row.document not in known)


def _reworded(row: Example) -> Example:
    """A question in other words with its answer in other words."""
    prompt = row.rephrasings[0] if row.rephrasings else row.prompt
    return replace(row, id=f"{row.id}-reworded", prompt=prompt, answer=row.paraphrases[0])


def _with_other_words(data: TaskData) -> TaskData:
    def give(rows: Rows) -> Rows:
        return tuple(_with_paraphrase(row) if row.kind is Kind.QUESTION else row for row in rows)

    return replace(data, forget=give(data.forget), retain=give(data.retain))


def _with_paraphrase(row: Example) -> Example:
    false = tuple(OTHER_WORDS.format(answer) for answer in row.perturbed)
    return replace(row, paraphrases=(OTHER_WORDS.format(row.answer),), perturbed=false)
