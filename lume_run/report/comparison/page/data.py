"""What the page shows, as compact JSON: repeated values (texts, scores of a shared target, settings) by number."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lume_run.evaluation.catalogue import definition_of
from lume_run.report.comparison.fronts import pareto_front, planes_of
from lume_run.report.comparison.page.prompts import EXACT, PARTIAL, SAME, Answer, PromptAnswers, prompts_of
from lume_run.report.comparison.published import MARK, PublishedTable, published_tables, tables_for
from lume_run.report.comparison.run_folders import Collection, RunRecord, training_curves
from lume_run.report.comparison.summary import (
    EXTRA_COLUMNS,
    PEAK,
    SECONDS,
    STEP,
    RunGroup,
    Section,
    column_direction,
    comparable_text,
    derive_scores,
    may_win,
)
from lume_run.report.comparison.terminal import COLUMN_TITLES, columns_of
from lume_run.report.results import group_of

MOST_COLUMNS = 8  # shown at first
WINNER_COLUMNS = (
    "forgotten",
    "kept",
    "mia.auc",
    "mmlu.accuracy",
    "pii.forget.greedy.exact",
    SECONDS,
    STEP,
    PEAK,
)  # of a winner
CURVE_POINTS = 40
MOST_BYTES = 6 * 2**20  # of prompts, so that the page stays below some 10 MB
MARK_KINDS = (EXACT, PARTIAL, SAME)


class Pool:
    """Values by number, each once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """The number of a JSON value."""
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(value)
        return self._places[key]


@dataclass
class PackedData:
    """What the page's JSON refers to by number."""

    columns: list[str]
    vectors: Pool = field(default_factory=Pool)
    paths: Pool = field(default_factory=Pool)
    values: Pool = field(default_factory=Pool)
    texts: Pool = field(default_factory=Pool)
    prompts: Pool = field(default_factory=Pool)
    answers: Pool = field(default_factory=Pool)

    def vector(self, own: Mapping[str, float] | None) -> int | None:
        """The number of a list of values in the order of the columns."""
        if not own:
            return None
        return self.vectors.place([round_value(own[name]) if name in own else None for name in self.columns])

    def pairs(self, config: Mapping[str, Any], base: Mapping[str, Any]) -> list[list[int]]:
        """Numbers of path and value where a config differs from `base`; -1 for what it has not."""
        own = [
            (path, value)
            for path, value in config.items()
            if path not in base or comparable_text(base[path]) != comparable_text(value)
        ]
        gone = [[self.paths.place(path), -1] for path in base if path not in config]
        return [*([self.paths.place(path), self.values.place(value)] for path, value in own), *gone]

    def answer(self, answer: Answer | None) -> int | None:
        """The number of a text followed by its marks: start, end, kind, attribute."""
        if answer is None:
            return None
        marks = [part for start, end, kind, name in answer.marks for part in (start, end, MARK_KINDS.index(kind), name)]
        return self.answers.place([answer.text, *marks])

    def prompt(self, shown: PromptAnswers) -> list[int | None]:
        """Numbers of a prompt and the answers before and after."""
        texts = [self.texts.place(text) for text in (shown.prompt, shown.expected.text)]
        told = [shown.id, shown.side, shown.subtask, shown.kind, shown.attribute, *texts]
        return [self.prompts.place(told), self.answer(shown.before), self.answer(shown.after)]


def round_value(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")


def page_data(collection: Collection, sections: Sequence[Section], most: int) -> dict[str, Any]:
    """Everything the page shows, by number."""
    columns = list(dict.fromkeys(name for section in sections for name in section.columns))
    columns.sort(key=column_order(sections))
    packed = PackedData(columns=columns)
    runs = [run for section in sections for run in section.runs]
    places = {run.key: place for place, run in enumerate(runs)}
    groups: list[dict[str, Any]] = []
    group_at: dict[str, int] = {}
    for number, section in enumerate(sections):
        for rank, group in enumerate(section.groups):
            group_at |= {run.key: len(groups) for run in group.runs}
            groups.append(_pack_group(packed, section, number, rank, group, places))
    bases = [base_settings(section) for section in sections]
    packed_runs = [
        _pack_run(packed, section, number, run, group_at[run.key]) | {"diff": packed.pairs(run.config, bases[number])}
        for number, section in enumerate(sections)
        for run in section.runs
    ]
    shown = fit_prompts(packed, [prompts_of(run, most) for run in runs], most)
    for made, prompts in zip(packed_runs, shown[0], strict=True):
        made["prompts"] = prompts
    own = [
        _pack_section(packed, section) | {"base": packed.pairs(base, {})}
        for section, base in zip(sections, bases, strict=True)
    ]
    return {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "mark": MARK,
        "columns": [_describe_column(name) for name in columns],
        "sections": own,
        "groups": groups,
        "runs": packed_runs,
        "published": [_pack_table(table) for table in sort_tables(sections)],
        "notes": [*collection.notes, *notes_of(sections, shown[1], most)],
        **{name: getattr(packed, name).items for name in ("vectors", "paths", "values", "texts", "prompts", "answers")},
    }


def column_order(sections: Sequence[Section]) -> Any:
    """Columns as the sections have them, what any of them shows first before the rest."""
    first = list(dict.fromkeys(name for section in sections for name in columns_of(section, [], 99)))
    return lambda name: first.index(name) if name in first else len(first)


def sort_tables(sections: Sequence[Section]) -> list[PublishedTable]:
    """Published tables of the tasks here, those that stand beside a section first."""
    near = [table.id for section in sections for table in tables_for(section)]
    tasks = {section.task for section in sections}
    return sorted(
        (table for table in published_tables() if table.task in tasks or not near),
        key=lambda table: table.id not in near,
    )


def notes_of(sections: Sequence[Section], kept: int, most: int) -> list[str]:
    """How to read the numbers."""
    notes = [
        "Only runs of one task on one model are compared: stars and fronts are of those.",
        "A group holds the runs that differ in nothing but the seed; ± is their sample standard deviation.",
        "References (method none, retrain) and models below the MMLU gate are shown, and win nothing.",
        "Seconds and memory are of the machine each run was made on.",
        f"Prompts: at most {kept} a side and run, drawn by a hash of their ids"
        + (f" (of {most} asked for, so that the page stays small)" if kept < most else "")
        + "; up to a third of those of the forget set are ones that give a private fact away.",
    ]
    for section in sections:
        if section.basis:
            forget, retain = (", ".join(names) for names in section.basis[1:])
            notes.append(f"{section.title}: forgotten is 1 - the mean of {forget}; kept the harmonic mean of {retain}.")
    return notes


def _pack_table(table: PublishedTable) -> dict[str, Any]:
    return {
        "title": table.title,
        "source": table.source,
        "how": table.how,
        "model": table.model,
        "scores": table.scores,
        "rows": [[name, *values.values()] for name, values in table.rows],
    }


def _describe_column(name: str) -> dict[str, Any]:
    definition = definition_of(name)
    cost = name in (SECONDS, STEP, PEAK)
    return {
        "name": name,
        "title": COLUMN_TITLES.get(name, name),
        "what": EXTRA_COLUMNS.get(name) or (definition.what if definition else ""),
        "wanted": str(column_direction(name)),
        "group": "cost" if cost else "overall" if name in EXTRA_COLUMNS else str(group_of(name)),
        "detail": 0 if name in EXTRA_COLUMNS else 1 if definition is None else definition.detail,
    }


def _pack_section(packed: PackedData, section: Section) -> dict[str, Any]:
    def numbers(names: Sequence[str]) -> list[int]:
        return [packed.columns.index(name) for name in names if name in packed.columns]

    return {
        "title": section.title,
        "sort": section.sort,
        "shown": numbers(columns_of(section, [], MOST_COLUMNS)),
        "told": numbers([section.sort, *(name for name in WINNER_COLUMNS if name != section.sort)]),
        "target": packed.vector(section.references.get("target")),
        "retrained": packed.vector(section.references.get("retrained")),
    }


def base_settings(section: Section) -> dict[str, Any]:
    """The commonest value of every setting that most runs have."""
    found: dict[str, Counter[str]] = {}
    for run in section.runs:
        for path, value in run.config.items():
            found.setdefault(path, Counter())[json.dumps(value)] += 1
    half = len(section.runs) / 2
    return {path: json.loads(own.most_common(1)[0][0]) for path, own in found.items() if own.total() > half}


def _pack_group(
    packed: PackedData, section: Section, number: int, rank: int, group: RunGroup, places: Mapping[str, int]
) -> dict[str, Any]:
    spread = {name: own.deviation for name, own in group.values.items() if own.deviation is not None}
    best = [packed.columns.index(name) for name, ranks in section.best.items() if rank in ranks]
    planes = planes_of(section)
    return {
        "section": number,
        "rank": rank,
        "label": group.label,
        "method": group.method,
        "reference": group.reference,
        "gated": group.gated,
        "able": may_win(group),
        "front": bool(planes) and rank in pareto_front(section, planes[0]),
        "runs": [places[run.key] for run in group.runs],
        "mean": packed.vector({name: own.mean for name, own in group.values.items()}),
        "sd": packed.vector(spread),
        "best": best,
    }


def _pack_run(packed: PackedData, section: Section, number: int, run: RunRecord, group: int) -> dict[str, Any]:
    curves = training_curves(run, CURVE_POINTS)
    return {
        "section": number,
        "group": group,
        "key": run.key,
        "name": run.name,
        "folder": str(run.folder),
        "method": run.method,
        "seed": run.seed,
        "state": run.state,
        "error": run.error[:4000],
        "when": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.when)),
        "command": list(run.command),
        "git": run.git,
        "hardware": run.hardware,
        "source": run.source,
        "gate": run.gate,
        "rule": run.gate_rule,
        "warnings": list(run.warnings),
        "after": packed.vector(section.values[run.key]),
        "before": packed.vector(subject_scores(section, run, "target") if run.subject == "unlearned" else None),
        "retrained": packed.vector(subject_scores(section, run, "retrained")),
        "best": [packed.columns.index(name) for name, keys in section.best_runs.items() if run.key in keys],
        "curves": {
            name: [[round_value(part) for part in point] for point in points]
            for name, points in curves.items()
            if name in ("forget_nll", "retain_nll")
        },
    }


def subject_scores(section: Section, run: RunRecord, subject: str) -> dict[str, float]:
    """The scores of another model of a run, derived ones among them."""
    own = run.scores.get(subject, {})
    return {**derive_scores(own, section.basis), **own}


def fit_prompts(packed: PackedData, shown: Sequence[Sequence[PromptAnswers]], most: int) -> tuple[list[list[Any]], int]:
    """(prompts of every run by number, how many a side were kept): as many as `MOST_BYTES` hold, for all runs alike."""
    for count in sorted(
        {most, *(math.floor(most * share) for share in (0.75, 0.5, 0.33, 0.25, 0.15, 0.1, 0.05))}, reverse=True
    ):
        trial = PackedData(columns=[])
        kept = [first_per_side(own, count) for own in shown]
        made = [[trial.prompt(one) for one in own] for own in kept]
        pools = [trial.texts.items, trial.prompts.items, trial.answers.items, made]
        if len(json.dumps(pools, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")) <= MOST_BYTES:
            packed.texts, packed.prompts, packed.answers = trial.texts, trial.prompts, trial.answers
            return made, count
    return [[] for _ in shown], 0


def first_per_side(shown: Sequence[PromptAnswers], count: int) -> list[PromptAnswers]:
    """The first `count` of either side."""
    sides: Counter[str] = Counter()
    found = []
    for one in shown:
        sides[one.side] += 1
        if sides[one.side] <= count:
            found.append(one)
    return found
