"""Real people to forget, from "A Closer Look at Machine Unlearning for Large Language Models" (arXiv:2410.08109).

Made for a pretrained chat model that knows them (`model.is_target=true`): the rows hold its own answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Split, TaskData
from lume_run.config.fields import setting
from lume_run.tasks.documents import choose_by_side, describe_selection
from lume_run.tasks.question_files import (
    COUNT_HELP,
    PAIR,
    REWORDING_FIELDS,
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

TRAINED_SETS = ("forget", "neighbor")
PERTURBED_SETS = ("forget_perturbed", "neighbor_perturbed")
GOLDEN = "golden_answer"
FIELDS = ("name", *PAIR, GOLDEN)
LEARNED_FIELDS = {"own": "answer", "golden": GOLDEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class RealWorldTask:
    """Forget 20 real people that a pretrained model knows, retain 20 neighbors, and ask about 20 neighbors more.

    As released, `neighbor_perturbed` is about other people than `neighbor`: its rows, the retain set of the paper's
    evaluation, are only asked about (split NEIGHBORS), and neighbors in training have no
    false answers. A row has two true answers: the model's own from before unlearning and a golden one, to which the
    other wordings and the false answers belong. As in the paper, methods see the `own` one (`Example.answer`), and
    suites that know of golden answers score `Example.golden`; `reference=golden` makes it the answer for both.
    """

    name: str
    data_dir: str | None = setting(None, help="folder of JSON lines; there is no hub data set")
    reference: Literal["own", "golden"] = setting("own", help="the answer to learn; the golden one is scored in both")
    template: str = setting(TEMPLATE, help=TEMPLATE_HELP)
    separator: str | None = setting(None, help=SEPARATOR_HELP, blank=True)
    num_documents: int | None = setting(None, low=1, help=COUNT_HELP)

    def check(self) -> list[Problem]:
        """Problems visible without reading rows."""
        problems = template_problems(self.template)
        if unusable := folder_problems(self.data_dir):
            return problems + unusable
        return problems + RowSource.folder(str(self.data_dir)).missing_sets((*TRAINED_SETS, *PERTURBED_SETS))

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError with every problem."""
        if problems := self.check():
            raise ConfigError(problems)
        source = RowSource.folder(str(self.data_dir))
        reader = QuestionReader(source=source)
        forget, retain = (by_person(reader.rows(name, FIELDS)) for name in TRAINED_SETS)
        fields = (*FIELDS, *REWORDING_FIELDS)
        extras, unseen = (by_person(reader.rows(name, fields, perturbed=True)) for name in PERTURBED_SETS)
        problems = reader.problems or [
            *duplicate_problems([*forget, *retain, *unseen]),
            *duplicate_problems(extras),
            *mismatch_problems(extras, forget),
            *overlap_problems({"forget": forget, "neighbor": retain, "neighbor_perturbed": unseen}),
        ]
        if problems:
            refuse(problems)
        builder = ExampleBuilder(
            **format_fields(self.template, self.separator),
            subtask="real_world",
            extras={row.key: row for row in extras},
            answer=LEARNED_FIELDS[self.reference],
            golden=GOLDEN,
        )
        sides = builder.sides(forget, retain)
        kept = choose_by_side(sides, self.num_documents, seed, source.origin)
        return TaskData(
            forget=kept[Split.FORGET],
            retain=kept[Split.RETAIN],
            others=builder.examples(unseen, Split.NEIGHBORS),
            source=f"{source.origin} (real people; {self.reference} answers; {describe_selection(kept, sides)})",
        )


def by_person(rows: Iterable[QuestionRow]) -> list[QuestionRow]:
    """The rows with the people they name as documents."""
    counts: Counter[str] = Counter()
    named = []
    for row in rows:
        name = row.texts["name"]
        named.append(replace(row, document=name, index=counts[name]))
        counts[name] += 1
    return named


def overlap_problems(sets: dict[str, list[QuestionRow]]) -> list[Problem]:
    """People who are in two sets, once each."""
    homes: dict[str, tuple[str, str]] = {}
    clashes: dict[str, Problem] = {}
    for name, rows in sets.items():
        for row in rows:
            person = row.texts["name"]
            home, place = homes.setdefault(person, (name, row.where))
            if home != name and person not in clashes:
                what, remedy = f"{person} already stands at {place} ({home})", "leave each person in one set"
                clashes[person] = Problem(where=row.where, what=what, remedy=remedy)
    return list(clashes.values())
