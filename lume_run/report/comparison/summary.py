"""What a sweep found: runs that can be compared, grouped over seeds, the best of every column, the front.

A section holds the runs of one task on one model: only their scores can be compared. A group holds the runs that differ
in nothing but the seed. `forgotten` and `kept` are those of docs/results-methods.md: 1 - the mean of what is still
known of the forget set, and the harmonic mean of what is still known of the retain set. A model that was retrained
without the forget set and an untouched one are references: they are shown, and win nothing. Neither does a model whose
MMLU accuracy is below the gate.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lume_run.common.devices import GIB
from lume_run.evaluation.definitions import Wanted
from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.report.comparison.run_folders import RunRecord
from lume_run.report.results import direction_of

FORGOTTEN, KEPT, BALANCE, AGGREGATE = "forgotten", "kept", "balance", "task_aggregate"
SECONDS, STEP, PEAK = "cost.seconds", "cost.seconds_per_step", "cost.peak_gib"
EXTRA_COLUMNS = {  # columns that no suite scores: what they are
    BALANCE: "harmonic mean of forgotten and kept",
    FORGOTTEN: "1 - mean of what is still known of the forget set",
    KEPT: "harmonic mean of what is still known of the retain set",
    SECONDS: "seconds that unlearning took, from the target to the unlearned model",
    STEP: "seconds an optimizer step of unlearning took, the median",
    PEAK: "peak memory of unlearning [GiB]",
}
PREFERRED = (  # columns shown first, where there are values
    *(AGGREGATE, BALANCE, FORGOTTEN, KEPT, "aggregate", "mia.auc", "mmlu.accuracy"),
    *("closer_look.forget_efficacy", "closer_look.model_utility", "tofu.forget_quality", "tofu.model_utility"),
    *("muse.forget.verbatim", "muse.forget.knowledge", "muse.retain.knowledge", "muse.privacy_leakage"),
    *("pii.forget.greedy.exact", SECONDS, STEP, PEAK),
)
REFERENCES = ("none", "retrain")  # methods that do not unlearn
MOST_SETTINGS = 4  # settings in a group's name
IRRELEVANT_PATHS = ("launch", "output_dir", "dry_run", "responses", "hydra", "seed", "allow_external")
TASK_PATHS = ("task.", "model.name", "model.path", "model.base", "model.is_target", "model.shape.")
Basis = tuple[str, tuple[str, ...], tuple[str, ...]]  # name, what is known of the forget set, of the retain set


def _paired_basis(title: str, pattern: str, *kinds: str) -> Basis:
    forget, retain = (tuple(pattern.format(side=side, kind=kind) for kind in kinds) for side in ("forget", "retain"))
    return title, forget, retain


BASES: tuple[Basis, ...] = (
    _paired_basis("LUME", "{side}.{kind}", "regurgitation", "knowledge"),
    _paired_basis("A Closer Look", "closer_look.{side}.{kind}", "rouge", "probability"),
    _paired_basis("TOFU", "tofu.{side}.{kind}", "rouge", "probability"),
    ("MUSE", ("muse.forget.verbatim", "muse.forget.knowledge"), ("muse.retain.knowledge",)),
    _paired_basis("memorisation", "{side}.{kind}", "probability", "exact_memorisation"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over `n` seeds with the sample standard deviation, None of one seed."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that differ in nothing but the seed. `varied`: where they differ from others of their method."""

    label: str
    method: str
    runs: tuple[RunRecord, ...]
    values: Mapping[str, Spread]
    varied: Mapping[str, Any]

    @property
    def reference(self) -> bool:
        """Whether it is there to compare with."""
        return self.method in REFERENCES

    @property
    def gated(self) -> bool:
        """Whether the MMLU gate refuses it."""
        return any(run.gate is False for run in self.runs)

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
    def ranked(self) -> list[RunGroup]:
        """The groups that may win and have the value that is sorted by, the best first."""
        return [one for one in self.groups if may_win(one) and one.mean(self.sort) is not None]


def may_win(group: RunGroup) -> bool:
    """Whether it unlearned, and within the gate."""
    return not group.reference and not group.gated


def column_direction(name: str) -> Wanted:
    """Which way a column should go."""
    if name in EXTRA_COLUMNS:
        return Wanted.LOWER if name.startswith("cost.") else Wanted.HIGHER
    return direction_of(name)


def badness(name: str, value: float) -> float:
    """Smaller is better; 0 for every value of a column without a direction."""
    ideal = {Wanted.HALF: 0.5, Wanted.ZERO: 0.0}.get(column_direction(name))
    if ideal is not None:
        return abs(value - ideal)
    return {Wanted.LOWER: value, Wanted.HIGHER: -value}.get(column_direction(name), 0.0)


def best_positions(name: str, values: Sequence[float | None]) -> tuple[int, ...]:
    """Positions of the best values; none where a column has no direction, or nothing to tell apart."""
    known = {place: round(badness(name, value), 9) for place, value in enumerate(values) if value is not None}
    if column_direction(name) is Wanted.NONE or len(set(known.values())) < 2:
        return ()
    return tuple(place for place, value in known.items() if value == min(known.values()))


def derive_scores(scores: Mapping[str, float], basis: Basis | None) -> dict[str, float]:
    """`forgotten`, `kept` and `balance`, where the scores they need are there."""
    if basis is None:
        return {}
    known, left = ([scores[name] for name in names if name in scores] for names in basis[1:])
    if not known or not left:
        return {}
    forgotten = 1 - statistics.fmean(known)
    kept = harmonic_mean([max(0.0, value) for value in left])
    return {FORGOTTEN: forgotten, KEPT: kept, BALANCE: harmonic_mean([max(0.0, forgotten), kept])}


def costs_of(run: RunRecord) -> dict[str, float]:
    """What unlearning took, as far as the run says."""
    own = [made for name, made in run.training.items() if name == "unlearned" or name.startswith("adapter")]
    step = [float(made["seconds_per_step"]) for made in own if isinstance(made.get("seconds_per_step"), float)]
    peak = [made["peak_memory_bytes"] / GIB for made in own if isinstance(made.get("peak_memory_bytes"), int)]
    found = {SECONDS: run.seconds.get("unlearn"), STEP: max(step, default=None), PEAK: max(peak, default=None)}
    return {name: value for name, value in found.items() if value}


def choose_basis(runs: Iterable[RunRecord]) -> Basis | None:
    """The first of `BASES` that most runs have, so that all of a section are measured alike."""
    counts = [sum(bool(derive_scores(run.scores.get(run.subject, {}), basis)) for run in runs) for basis in BASES]
    return BASES[counts.index(max(counts))] if any(counts) else None


def measure_spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), deviation=deviation, n=len(values))


def spread_by_name(found: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of every name over those that have it."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: measure_spread([one[name] for one in found if name in one]) for name in names}


# ---------------------------------------------------------------------------------------------- comparing configs


def comparable_text(value: Any) -> str:
    """A config value as text that compares: 1 and 1.0 are one value, true is another."""
    return json.dumps(float(value) if type(value) is int else value, sort_keys=True)


def affects_results(path: str) -> bool:
    """Whether a config path may change what is computed, seeds aside."""
    return path.split(".")[0] not in IRRELEVANT_PATHS and not path.endswith("_target_")


def comparison_key(run: RunRecord, *, within: Sequence[str] = ()) -> str:
    """The same text for runs that agree, in the paths that begin with `within` where given."""
    own = {path: comparable_text(value) for path, value in run.config.items() if affects_results(path)}
    chosen = {path: value for path, value in own.items() if not within or path.startswith(tuple(within))}
    return json.dumps([run.task, run.model, "" if within else run.method, chosen], sort_keys=True)


def differing_paths(runs: Sequence[RunRecord]) -> list[str]:
    """Paths in which the runs do not agree, a path that only some have among them."""
    paths = dict.fromkeys(path for run in runs for path in run.config if affects_results(path))
    return [
        path
        for path in paths
        if len({comparable_text(run.config[path]) if path in run.config else "" for run in runs}) > 1
    ]


def short_path(path: str, among: Sequence[str]) -> str:
    """The end of a dotted path that no other of `among` ends in: `learning_rate`, else `train.learning_rate`."""
    parts = path.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if not any(other != path and f".{other}".endswith(f".{end}") for other in among):
            return end
    return path


def format_setting(value: Any) -> str:
    """A config value as one would type it."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(format_setting, value))}]" if isinstance(value, list) else str(value)


def settings_label(varied: Mapping[str, Any]) -> str:
    """`learning_rate=0.001 beta=0.1`; of many settings the first few, those of the evaluator last."""
    paths = sorted(varied, key=lambda path: path.startswith("evaluator."))
    told = [f"{short_path(path, paths)}={format_setting(varied[path])}" for path in paths[:MOST_SETTINGS]]
    return " ".join([*told, *([f"(+{len(paths) - MOST_SETTINGS} settings)"] if len(paths) > MOST_SETTINGS else [])])


# --------------------------------------------------------------------------------------------------- summarising


def summarise(runs: Sequence[RunRecord], sort: str = "") -> list[Section]:
    """Sections of the runs, the largest first. ValueError where no run has the score to sort by."""
    parts: dict[str, list[RunRecord]] = {}
    for run in runs:
        parts.setdefault(comparison_key(run, within=TASK_PATHS), []).append(run)
    titles = Counter((own[0].task, own[0].model) for own in parts.values())
    sections = []
    for own in sorted(parts.values(), key=lambda own: (-len(own), own[0].task, own[0].model)):
        name = (own[0].task, own[0].model)
        alike = [other[0] for other in parts.values() if (other[0].task, other[0].model) == name]
        paths = [path for path in differing_paths(alike) if path.startswith(TASK_PATHS)] if titles[name] > 1 else []
        told = settings_label({path: own[0].config[path] for path in paths if path in own[0].config})
        sections.append(build_section(own, " on ".join(name) + (f" ({told})" if told else ""), sort))
    if sort and not any(sort in section.columns for section in sections):
        known = ", ".join(dict.fromkeys(name for section in sections for name in section.columns[:12]))
        raise ValueError(f"no run has the score {sort!r} to sort by; some that runs have: {known or 'none'}")
    return sections


def build_section(runs: Sequence[RunRecord], title: str, sort: str) -> Section:
    """One task on one model; of groups that tie the one with the better balance comes first."""
    basis = choose_basis(runs)
    values = {}
    for run in runs:
        own = run.scores.get(run.subject, {})
        values[run.key] = {**derive_scores(own, basis), **own, **(costs_of(run) if own else {})}
    present = dict.fromkeys(name for own in values.values() for name in own)
    columns = (*(name for name in PREFERRED if name in present), *(name for name in present if name not in PREFERRED))
    sort = sort if sort in columns else default_sort(columns)
    groups = sorted(
        group_runs(runs, values),
        key=lambda one: (one.mean(sort) is None, _mean_badness(one, sort), _mean_badness(one, BALANCE), one.label),
    )
    able = {place: one for place, one in enumerate(groups) if may_win(one)}
    able_runs = [run.key for one in able.values() for run in one.runs]
    references: dict[str, Mapping[str, float]] = {}
    for subject in ("target", "retrained"):
        found = [{**derive_scores(made, basis), **made} for run in runs if (made := run.scores.get(subject))]
        references |= {subject: {name: one.mean for name, one in spread_by_name(found).items()}} if found else {}
    best = {name: best_positions(name, [one.mean(name) for one in able.values()]) for name in columns}
    best_runs = {name: best_positions(name, [values[key].get(name) for key in able_runs]) for name in columns}
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
        best={name: tuple(list(able)[place] for place in places) for name, places in best.items()},
        best_runs={name: tuple(able_runs[place] for place in places) for name, places in best_runs.items()},
        references=references,
    )


def _mean_badness(group: RunGroup, sort: str) -> float:
    value = group.mean(sort)
    return 0.0 if value is None else round(badness(sort, value), 9)


def default_sort(columns: Sequence[str]) -> str:
    """What a section is sorted by where nobody says: the task aggregate, else the balance, else its first column."""
    return next((name for name in (AGGREGATE, BALANCE, *columns) if name in columns), BALANCE)


def group_runs(runs: Sequence[RunRecord], values: Mapping[str, Mapping[str, float]]) -> list[RunGroup]:
    """Runs of one section by what they are but for the seed."""
    by_method: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    found = []
    for method, same in by_method.items():
        paths = differing_paths(same)
        parts: dict[str, list[RunRecord]] = {}
        for run in same:
            parts.setdefault(comparison_key(run), []).append(run)
        for own in parts.values():
            varied = {path: own[0].config[path] for path in paths if path in own[0].config}
            label = " ".join([method, *([settings_label(varied)] if varied else [])])
            spread_of = spread_by_name([values[run.key] for run in own])
            found.append(RunGroup(label=label, method=method, runs=tuple(own), values=spread_of, varied=varied))
    return found
