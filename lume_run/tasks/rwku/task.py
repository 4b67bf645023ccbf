"""RWKU (Jin et al., arXiv:2406.10890): real people whom a pretrained model knows, one or some of them to forget.

Made for a chat model as it is (`model.is_target=true`). Nothing that is asked is trained on: the forget rows are texts,
pairs or refusals that a model wrote about the target, or passages of Wikipedia. Neighbors are the retain side; methods
with a retain part learn the very questions that are asked about them, which no published one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.suggest import suggest_nearest
from lume_run.tasks.documents import Examples
from lume_run.tasks.question_files import RowSource, folder_problems
from lume_run.tasks.row_files import field_problems, refuse
from lume_run.tasks.rwku.files import (
    FURTHER,
    REQUIRED,
    SETS,
    TARGET_NAME,
    SetReader,
    TargetRow,
    missing_problems,
    rwku_folder,
    rwku_hub,
)
from lume_run.tasks.rwku.rows import (
    ROWS_OF,
    example_of,
    forget_questions,
    membership_examples,
    neighbor_questions,
    slug_of,
    utility_examples,
)

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class RwkuTask:
    """Whom to forget, and by which rows; a target is a document, with all that is asked about it and its neighbors."""

    name: str
    data_dir: str | None = setting(None, help="folder of the released files; null: the hub")
    hub_id: str = setting("jinzhuoran/RWKU", help="hub data set with a config for each set of rows")
    targets: str | list[str] = setting(ALL, help="whom to forget: all, a name, or a list of names")
    train: Literal["positive", "passage", "pair", "reject", "none"] = setting(
        "positive",
        help="rows to train on: texts by a model (GA, NPO), passages of Wikipedia (GA*), true and made-up texts (DPO), "
        "questions with refusals (RT); none: nothing is trained (ICU)",
    )
    writer: Literal["llama3", "phi3"] = setting("llama3", help="the model that wrote texts, pairs and questions")
    num_documents: int | None = setting(None, low=1, help="the first targets, in the order of the files; null: all")
    questions: int | None = setting(None, low=1, help="the first rows of each set about each target; null: all")

    def check(self) -> list[Problem]:
        """Problems visible without reading rows or asking the network."""
        if self.data_dir is None:
            return []
        return folder_problems(self.data_dir) or self._missing_sets(rwku_folder(self.data_dir))

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError with every problem, RunError where the hub gives none."""
        if problems := self.check():
            raise ConfigError(problems)
        source = rwku_hub(self.hub_id) if self.data_dir is None else rwku_folder(self.data_dir)
        if problems := self._missing_sets(source):
            refuse(problems)  # of the hub: a folder was checked
        targets = self._chosen_targets(source)
        names = frozenset(row.target for row in targets)
        asked = SetReader(source=source, targets=names, limit=self.questions)
        trained = SetReader(source=source, targets=names)
        forget = self._trained_rows(trained, targets)
        questions, neighbors = forget_questions(asked), neighbor_questions(asked)
        others = (*questions, *membership_examples(asked), *utility_examples(asked))
        problems = [*trained.problems, *asked.problems]
        problems = problems or self._absent_rows(source, names, forget, (*questions, *neighbors))
        if problems:
            refuse(problems)
        return TaskData(
            forget=forget,
            retain=neighbors,
            others=others,
            requests=tuple(frozenset([row.target]) for row in targets),
            source=f"{source.origin} (RWKU; {describe_targets(targets)}; {_describe_sets(forget, neighbors, others)})",
        )

    @property
    def _trained_set(self) -> str:
        """The set of the rows to train on."""
        return self.train if self.train in SETS else f"{self.train}_{self.writer}"

    def _missing_sets(self, source: RowSource) -> list[Problem]:
        needed = missing_problems(source, REQUIRED, "which every run asks about")
        if self.train == "none":
            return needed
        why = f"the rows of task.train={self.train}; task.train=none does without (icu, and models evaluated alone)"
        return needed + missing_problems(source, [self._trained_set], why)

    def _chosen_targets(self, source: RowSource) -> list[TargetRow]:
        """The targets to forget, in the order of the files; ConfigError for names that are none of them."""
        rows = _read_targets(source)
        wanted = [self.targets] if isinstance(self.targets, str) else self.targets
        if list(wanted) != [ALL]:
            known = {slug_of(row.target): row.target for row in rows}
            chosen = {name: _known_slug(name, known) for name in wanted or [""]}
            if unknown := [name for name, slug in chosen.items() if slug not in known]:
                raise ConfigError(_unknown_targets(unknown, list(known.values())))
            rows = [row for row in rows if slug_of(row.target) in chosen.values()]
        if self.num_documents is not None and len(rows) < self.num_documents:
            what = f"{self.num_documents} targets were asked for and there are {len(rows)}"
            raise ConfigError([Problem(where="task.num_documents", what=what, remedy=f"at most {len(rows)}, or null")])
        return rows[: self.num_documents]

    def _trained_rows(self, reader: SetReader, targets: list[TargetRow]) -> Examples:
        """The forget rows; where nothing is trained, what the benchmark says of each target."""
        if self.train != "none":
            return ROWS_OF[self.train](reader, self._trained_set)
        return tuple(
            example_of(row, "intro", Split.FORGET, Kind.QUESTION, row.fields["intro"], row.target) for row in targets
        )

    def _absent_rows(
        self, source: RowSource, names: frozenset[str], forget: Examples, asked: Examples
    ) -> list[Problem]:
        """Targets that nothing is trained on or asked about."""
        set_name = "intro" if self.train == "none" else self._trained_set
        sides = {set_name: forget, "forget_level1 to neighbor_level2": asked}
        problems = []
        for title, examples in sides.items():
            without = sorted(names - {example.document for example in examples})
            if without:
                shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
                remedy = "give their rows, other task.targets, or task.train=none where nothing is trained"
                where = f"{source.origin}, {title}"
                problems.append(Problem(where=where, what=f"no row is about {shown}", remedy=remedy))
        return problems


def _read_targets(source: RowSource) -> list[TargetRow]:
    """The rows of intro, a target each; DataError for bad ones, names that ids cannot tell apart, or none."""
    rows, problems = [], []
    places: dict[str, str] = {"": ""}
    for where, row in source.read("intro"):
        wrong = [row] if isinstance(row, Problem) else list(field_problems(row, where, (TARGET_NAME, "intro")))
        if isinstance(row, dict) and not wrong:
            target = row[TARGET_NAME]
            if (place := places.setdefault(slug_of(target), where)) != where:
                what = f"the target {target!r} " + (f"already stands at {place}" if place else "has no letter or digit")
                wrong = [Problem(where=where, what=what, remedy="one row and one name for each target")]
            else:
                rows.append(TargetRow(where, target, 0, row))
        problems += wrong
    if not rows and not problems:
        problems = [Problem(where=f"{source.origin}, intro", what="the set has no rows", remedy="fetch it again")]
    if problems:
        refuse(problems)
    return rows


def _known_slug(name: str, known: Mapping[str, str]) -> str:
    """The slug of a name as written, or without the number that the released folders put before it."""
    slug = slug_of(name)
    return slug if slug in known else slug.lstrip("0123456789").lstrip("-")


def _unknown_targets(unknown: Sequence[str], known: Sequence[str]) -> list[Problem]:
    what = f"is none of the {len(known)} targets"
    return [
        Problem(where="task.targets", what=f"{name!r} {what}", remedy=suggest_nearest(name, known)) for name in unknown
    ]


def describe_targets(targets: list[TargetRow]) -> str:
    """Whom, in words."""
    return targets[0].target if len(targets) == 1 else f"{len(targets)} targets"


def _describe_sets(forget: Examples, neighbors: Examples, others: Examples) -> str:
    """How many rows of each set there are, and of which there are none or of some targets alone."""
    targets = {example.document for example in forget}
    by_set: dict[str, list[Example]] = {}
    for example in (*forget, *neighbors, *others):
        by_set.setdefault(example.subtask.partition(" ")[0], []).append(example)
    words = []
    for name, examples in by_set.items():
        about = len({example.document for example in examples})
        words.append(f"{len(examples)} {name}" + ("" if about == len(targets) else f" of {about} targets"))
    absent = [name for name in FURTHER if name not in by_set]
    return ", ".join(words) + (f"; no {', no '.join(absent)}" if absent else "")
