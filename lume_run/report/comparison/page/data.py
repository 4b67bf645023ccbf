"""What the page shows, as compact JSON."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lume_run.evaluation.catalogue import definition_of
from lume_run.report.comparison.columns import (
    PEAK,
    RECOVERED,
    SECONDS,
    STEP,
    column_direction,
    describe_extra_column,
    subject_scores,
)
from lume_run.report.comparison.curves import training_curves
from lume_run.report.comparison.fronts import pareto_front, planes_of
from lume_run.report.comparison.page.packing import PackedData, fit_prompts, round_value
from lume_run.report.comparison.page.prompts import prompts_of
from lume_run.report.comparison.page.robustness import TextBudget, pack_attacks, read_attacks
from lume_run.report.comparison.published import MARK, PublishedTable, published_tables, tables_for
from lume_run.report.comparison.run_folders import Collection, RunRecord
from lume_run.report.comparison.summary import RunGroup, Section
from lume_run.report.comparison.terminal import COLUMN_TITLES, columns_of
from lume_run.report.results import group_of

MOST_COLUMNS = 8  # shown at first
WINNER_COLUMNS = (  # shown of a winner
    *("forgotten", "kept", RECOVERED, "mia.auc", "mmlu.accuracy", "pii.forget.greedy.exact"),
    *(SECONDS, STEP, PEAK),
)
CURVE_POINTS = 40
POOLS = ("vectors", "paths", "values", "texts", "prompts", "answers", "names")
SHORT_NOTE = "Strengths and texts of attacks are those of the first runs, so that the page stays small."


def page_data(collection: Collection, sections: Sequence[Section], most: int) -> dict[str, Any]:
    """Everything the page shows, by number."""
    columns = list(dict.fromkeys(name for section in sections for name in section.columns))
    columns.sort(key=column_order(sections))
    packed = PackedData(columns=columns)
    runs = [run for section in sections for run in section.runs]
    places = {run.key: place for place, run in enumerate(runs)}
    groups: list[dict[str, Any]] = []
    group_of_run: dict[str, int] = {}
    for number, section in enumerate(sections):
        for rank, group in enumerate(section.groups):
            group_of_run |= {run.key: len(groups) for run in group.runs}
            groups.append({"section": number, "rank": rank} | _pack_group(packed, section, rank, group, places))
    bases = [base_settings(section) for section in sections]
    prompts, budget = fit_prompts(packed, [prompts_of(run, most) for run in runs], most), TextBudget()
    packed_runs: list[dict[str, Any]] = []
    for number, (section, base) in enumerate(zip(sections, bases, strict=True)):
        for run in section.runs:
            facts = {"section": number, "group": group_of_run[run.key], **_pack_run(packed, section, run)}
            facts |= {"diff": packed.pairs(run.config, base), "prompts": prompts.by_run[len(packed_runs)]}
            packed_runs.append(facts | {"attacks": pack_attacks(packed, read_attacks(run), budget)})
    packed_sections = [
        _pack_section(packed, section) | {"base": packed.pairs(base, {})}
        for section, base in zip(sections, bases, strict=True)
    ]
    return {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "mark": MARK,
        "columns": [_describe_column(name) for name in columns],
        "sections": packed_sections,
        "groups": groups,
        "runs": packed_runs,
        "published": [_pack_table(table) for table in sort_tables(sections)],
        "notes": [
            *collection.notes,
            *notes_of(sections, prompts.per_side, most),
            *([SHORT_NOTE] if budget.short else []),
        ],
        **{name: getattr(packed, name).items for name in POOLS},
    }


def column_order(sections: Sequence[Section]) -> Callable[[str], int]:
    """Columns as the sections have them, what any of them shows first before the rest."""
    first = list(dict.fromkeys(name for section in sections for name in columns_of(section, [], 99)))
    return lambda name: first.index(name) if name in first else len(first)


def sort_tables(sections: Sequence[Section]) -> list[PublishedTable]:
    """Published tables of the tasks here, those beside a section first; of models under attack those alone."""
    near = [table.id for section in sections for table in tables_for(section)]
    tasks = {section.task for section in sections}

    def is_listed(table: PublishedTable) -> bool:
        return table.id in near or (not table.attacks and (table.task in tasks or not near))

    return sorted(filter(is_listed, published_tables()), key=lambda table: table.id not in near)


def notes_of(sections: Sequence[Section], kept: int, most: int) -> list[str]:
    """How to read the numbers."""
    notes = [
        "Only runs of one task on one model are compared: stars and fronts are of those.",
        "A group holds the runs that differ in nothing but the seed; ± is their sample standard deviation.",
        "References (method none, retrain) and models below the MMLU gate are shown, and win nothing.",
        "Seconds and memory are of the machine each run was made on.",
        f"Prompts: at most {kept} a side and run, sampled by a hash of their ids"
        + (f" (of {most} asked for, so that the page stays small)" if kept < most else "")
        + "; up to a third of those of the forget set are ones that disclose a private fact.",
    ]
    for section in sections:
        if section.basis:
            forget, retain = ", ".join(section.basis.forget), ", ".join(section.basis.retain)
            notes.append(f"{section.title}: forgotten is 1 - the mean of {forget}; kept the harmonic mean of {retain}.")
    return notes


def _pack_table(table: PublishedTable) -> dict[str, Any]:
    return {
        "title": table.title,
        "source": table.source,
        "how": table.how,
        "model": table.model,
        "scores": table.titles,
        "rows": [[name, *values.values()] for name, values in table.rows],
    }


def _describe_column(name: str) -> dict[str, Any]:
    definition, extra = definition_of(name), describe_extra_column(name)
    cost, of_attack = name in (SECONDS, STEP, PEAK), name.startswith(f"{RECOVERED}.")
    return {
        "name": name,
        "title": COLUMN_TITLES.get(name, name),
        "what": extra or (definition.what if definition else ""),
        "wanted": str(column_direction(name)),
        "group": "cost" if cost else "robustness" if of_attack else "overall" if extra else str(group_of(name)),
        "detail": 0 if extra else 1 if definition is None else definition.detail,
    }


def _pack_section(packed: PackedData, section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "sort": section.sort,
        "shown": packed.positions(columns_of(section, [], MOST_COLUMNS)),
        "told": packed.positions([section.sort, *(name for name in WINNER_COLUMNS if name != section.sort)]),
        "target": packed.vector(section.references.get("target")),
        "retrained": packed.vector(section.references.get("retrained")),
    }


def base_settings(section: Section) -> dict[str, Any]:
    """The commonest value of every setting that most runs have."""
    counts: dict[str, Counter[str]] = {}
    for run in section.runs:
        for path, value in run.config.items():
            counts.setdefault(path, Counter())[json.dumps(value)] += 1
    half = len(section.runs) / 2
    common = {path: count.most_common(1)[0][0] for path, count in counts.items() if count.total() > half}
    return {path: json.loads(value) for path, value in common.items()}


def _pack_group(
    packed: PackedData, section: Section, rank: int, group: RunGroup, places: Mapping[str, int]
) -> dict[str, Any]:
    means = {name: spread.mean for name, spread in group.values.items()}
    deviations = {name: spread.deviation for name, spread in group.values.items() if spread.deviation is not None}
    planes = planes_of(section)
    return {
        "label": group.label,
        "method": group.method,
        "reference": group.is_reference,
        "gated": group.below_gate,
        "able": group.may_win,
        "front": bool(planes) and rank in pareto_front(section, planes[0]),
        "runs": [places[run.key] for run in group.runs],
        "mean": packed.vector(means),
        "sd": packed.vector(deviations),
        "best": packed.positions([name for name, ranks in section.best.items() if rank in ranks]),
    }


def _pack_run(packed: PackedData, section: Section, run: RunRecord) -> dict[str, Any]:
    curves = training_curves(run, CURVE_POINTS)
    target = subject_scores(run, "target", section.basis) if run.subject == "unlearned" else None
    return {
        "key": run.key,
        "name": run.name,
        "folder": run.place,
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
        "before": packed.vector(target),
        "retrained": packed.vector(subject_scores(run, "retrained", section.basis)),
        "best": packed.positions([name for name, keys in section.best_runs.items() if run.key in keys]),
        "curves": {
            name: [[round_value(part) for part in point] for point in points]
            for name, points in curves.items()
            if name in ("forget_nll", "retain_nll")
        },
    }
