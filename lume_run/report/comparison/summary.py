"""What a sweep says: runs that can be compared, grouped over seeds, and the best of every column.

A section holds the runs of one task on one model: only their scores can be compared. A group holds the runs that differ
in nothing but the seed. `forgotten` and `kept` are those of docs/results-methods.md: 1 - the mean of what is still
known of the forget set, and the harmonic mean of what is still known of the retain set. A model that was retrained
without the forget set and an untouched one are references: they are shown, and win nothing. Neither does a model whose
MMLU accuracy is below the gate.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lume_run.report.comparison.columns import (
    AGGREGATE,
    BALANCE,
    PREFERRED,
    Basis,
    badness,
    best_positions,
    choose_basis,
    costs_of,
    subject_scores,
)
from lume_run.report.comparison.configs import TASK_PATHS, comparison_key, differing_paths, settings_label
from lume_run.report.comparison.run_folders import RunRecord

REFERENCES = ("none", "retrain")  # methods that do not unlearn


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over `n` seeds with the sample standard deviation, None of one seed."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and sample standard deviation."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), deviation=deviation, n=len(values))


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that differ in nothing but the seed. `varied`: where they differ from others of their method."""

    label: str
    method: str
    runs: tuple[RunRecord, ...]
    values: Mapping[str, Spread]
    varied: Mapping[str, Any]

    @property
    def is_reference(self) -> bool:
        """Whether it is there to compare with."""
        return self.method in REFERENCES

    @property
    def below_gate(self) -> bool:
        """Whether the MMLU gate refuses it."""
        return any(run.gate is False for run in self.runs)

    @property
    def may_win(self) -> bool:
        """Whether it unlearned, and within the gate."""
        return not self.is_reference and not self.below_gate

    def mean(self, name: str) -> float | None:
        """A value's mean, None where no run has it."""
        spread = self.values.get(name)
        return spread.mean if spread else None


@dataclass(frozen=True, kw_only=True)
class Section:
    """All runs of one task on one model, the best group by `sort` first; `references` are means over the runs.

    `values` holds each run's columns by its key, `best` and `best_runs` positions in `groups` and keys of runs.
    """

    title: str
    task: str
    model: str
    basis: Basis | None
    sort: str
    groups: tuple[RunGroup, ...]
    runs: tuple[RunRecord, ...]
    values: Mapping[str, Mapping[str, float]]
    columns: tuple[str, ...]
    best: Mapping[str, tuple[int, ...]]
    best_runs: Mapping[str, tuple[str, ...]]
    references: Mapping[str, Mapping[str, float]]

    @property
    def ranking(self) -> list[RunGroup]:
        """The groups that may win and have the value that is sorted by, the best first."""
        return [group for group in self.groups if group.may_win and group.mean(self.sort) is not None]


def summarise(runs: Sequence[RunRecord], sort: str = "") -> list[Section]:
    """Sections of the runs, the largest first. ValueError where no run has the score to sort by."""
    by_task: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_task.setdefault(comparison_key(run, within=TASK_PATHS), []).append(run)
    parts = sorted(by_task.values(), key=lambda part: (-len(part), part[0].task, part[0].model))
    firsts = [part[0] for part in by_task.values()]
    sections = [build_section(part, _section_title(part[0], firsts), sort) for part in parts]
    if sort and not any(sort in section.columns for section in sections):
        known = ", ".join(dict.fromkeys(name for section in sections for name in section.columns[:12]))
        raise ValueError(f"no run has the score {sort!r} to sort by; some that runs have: {known or 'none'}")
    return sections


def _section_title(run: RunRecord, firsts: Sequence[RunRecord]) -> str:
    """Task and model, and of sections alike in both the settings in which their first runs differ."""
    name = f"{run.task} on {run.model}"
    alike = [first for first in firsts if (first.task, first.model) == (run.task, run.model)]
    if len(alike) == 1:
        return name
    paths = [path for path in differing_paths(alike) if path.startswith(TASK_PATHS) and path in run.config]
    label = settings_label({path: run.config[path] for path in paths})
    return f"{name} ({label})" if label else name


def build_section(runs: Sequence[RunRecord], title: str, sort: str) -> Section:
    """One task on one model; of groups that tie the one with the better balance comes first."""
    basis = choose_basis(runs)
    values = {}
    for run in runs:
        scores = subject_scores(run, run.subject, basis)
        values[run.key] = {**scores, **(costs_of(run) if run.scores.get(run.subject) else {})}
    present = dict.fromkeys(name for columns in values.values() for name in columns)
    columns = (*(name for name in PREFERRED if name in present), *(name for name in present if name not in PREFERRED))
    sort = sort if sort in columns else default_sort(columns)

    def rank(group: RunGroup) -> tuple[bool, float, float, str]:
        return group.mean(sort) is None, _mean_badness(group, sort), _mean_badness(group, BALANCE), group.label

    groups = sorted(group_runs(runs, values), key=rank)
    return Section(
        title=title,
        task=runs[0].task,
        model=runs[0].model,
        basis=basis,
        sort=sort,
        groups=tuple(groups),
        runs=tuple(runs),
        values=values,
        columns=columns,
        best={name: _best_groups(name, groups) for name in columns},
        best_runs={name: _best_runs(name, groups, values) for name in columns},
        references=_references(runs, basis),
    )


def _mean_badness(group: RunGroup, column: str) -> float:
    value = group.mean(column)
    return 0.0 if value is None else round(badness(column, value), 9)


def _best_groups(column: str, groups: Sequence[RunGroup]) -> tuple[int, ...]:
    """Positions of the groups that are best in a column."""
    places = [place for place, group in enumerate(groups) if group.may_win]
    return tuple(places[best] for best in best_positions(column, [groups[place].mean(column) for place in places]))


def _best_runs(column: str, groups: Sequence[RunGroup], values: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """Keys of the runs that are best in a column."""
    keys = [run.key for group in groups if group.may_win for run in group.runs]
    return tuple(keys[best] for best in best_positions(column, [values[key].get(column) for key in keys]))


def _references(runs: Sequence[RunRecord], basis: Basis | None) -> dict[str, Mapping[str, float]]:
    """Means over the runs of what the target and the retrained model scored, where any run has them."""
    references: dict[str, Mapping[str, float]] = {}
    for subject in ("target", "retrained"):
        scores = [subject_scores(run, subject, basis) for run in runs if run.scores.get(subject)]
        if scores:
            references[subject] = {name: spread.mean for name, spread in spread_by_name(scores).items()}
    return references


def default_sort(columns: Sequence[str]) -> str:
    """What a section is sorted by where nobody says: the task aggregate, else the balance, else its first column."""
    return next((name for name in (AGGREGATE, BALANCE, *columns) if name in columns), BALANCE)


def spread_by_name(scores: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of every name over those that have it."""
    names = dict.fromkeys(name for values in scores for name in values)
    return {name: Spread.of([values[name] for values in scores if name in values]) for name in names}


def group_runs(runs: Sequence[RunRecord], values: Mapping[str, Mapping[str, float]]) -> list[RunGroup]:
    """Runs of one section by what they are but for the seed."""
    by_method: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    groups = []
    for method, same_method in by_method.items():
        paths = differing_paths(same_method)
        parts: dict[str, list[RunRecord]] = {}
        for run in same_method:
            parts.setdefault(comparison_key(run), []).append(run)
        for seeds in parts.values():
            varied = {path: seeds[0].config[path] for path in paths if path in seeds[0].config}
            label = " ".join([method, *([settings_label(varied)] if varied else [])])
            spreads = spread_by_name([values[run.key] for run in seeds])
            groups.append(RunGroup(label=label, method=method, runs=tuple(seeds), values=spreads, varied=varied))
    return groups
