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
from lume_run.report.results import wanted

FORGOTTEN, KEPT, BALANCE, AGGREGATE = "forgotten", "kept", "balance", "task_aggregate"
SECONDS, STEP, PEAK = "cost.seconds", "cost.seconds_per_step", "cost.peak_gib"
OWN = {  # columns that no suite scores: what they are
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
MOST_TOLD = 4  # settings in a group's name
RANKS_NOTHING = ("launch", "output_dir", "dry_run", "responses", "hydra", "seed", "allow_external")
SAME_TASK = ("task.", "model.name", "model.path", "model.base", "model.is_target", "model.shape.")
Basis = tuple[str, tuple[str, ...], tuple[str, ...]]  # name, what is known of the forget set, of the retain set


def _sides(title: str, pattern: str, *kinds: str) -> Basis:
    forget, retain = (tuple(pattern.format(side=side, kind=kind) for kind in kinds) for side in ("forget", "retain"))
    return title, forget, retain


BASES: tuple[Basis, ...] = (
    _sides("LUME", "{side}.{kind}", "regurgitation", "knowledge"),
    _sides("A Closer Look", "closer_look.{side}.{kind}", "rouge", "probability"),
    _sides("TOFU", "tofu.{side}.{kind}", "rouge", "probability"),
    ("MUSE", ("muse.forget.verbatim", "muse.forget.knowledge"), ("muse.retain.knowledge",)),
    _sides("memorisation", "{side}.{kind}", "probability", "exact_memorisation"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over `n` seeds with the sample standard deviation, None of one seed."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Group:
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
    groups: tuple[Group, ...]
    runs: tuple[RunRecord, ...]
    values: Mapping[str, Mapping[str, float]]
    columns: tuple[str, ...]
    best: Mapping[str, tuple[int, ...]]
    best_runs: Mapping[str, tuple[str, ...]]
    references: Mapping[str, Mapping[str, float]]

    @property
    def ranked(self) -> list[Group]:
        """The groups that may win and have the value that is sorted by, the best first."""
        return [one for one in self.groups if may_win(one) and one.mean(self.sort) is not None]


def may_win(group: Group) -> bool:
    """Whether it unlearned, and within the gate."""
    return not group.reference and not group.gated


def wanted_of(name: str) -> Wanted:
    """Which way a column should go."""
    if name in OWN:
        return Wanted.LOWER if name.startswith("cost.") else Wanted.HIGHER
    return wanted(name)


def badness(name: str, value: float) -> float:
    """Smaller is better; 0 for every value of a column without a direction."""
    ideal = {Wanted.HALF: 0.5, Wanted.ZERO: 0.0}.get(wanted_of(name))
    if ideal is not None:
        return abs(value - ideal)
    return {Wanted.LOWER: value, Wanted.HIGHER: -value}.get(wanted_of(name), 0.0)


def best_of(name: str, values: Sequence[float | None]) -> tuple[int, ...]:
    """Positions of the best values; none where a column has no direction, or nothing to tell apart."""
    known = {place: round(badness(name, value), 9) for place, value in enumerate(values) if value is not None}
    if wanted_of(name) is Wanted.NONE or len(set(known.values())) < 2:
        return ()
    return tuple(place for place, value in known.items() if value == min(known.values()))


def derived(scores: Mapping[str, float], basis: Basis | None) -> dict[str, float]:
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


def basis_of(runs: Iterable[RunRecord]) -> Basis | None:
    """The first of `BASES` that most runs have, so that all of a section are measured alike."""
    counts = [sum(bool(derived(run.scores.get(run.subject, {}), basis)) for run in runs) for basis in BASES]
    return BASES[counts.index(max(counts))] if any(counts) else None


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), deviation=deviation, n=len(values))


def spreads(found: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of every name over those that have it."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: spread([one[name] for one in found if name in one]) for name in names}


# ---------------------------------------------------------------------------------------------- comparing configs


def frozen(value: Any) -> str:
    """A config value as text that compares: 1 and 1.0 are one value, true is another."""
    return json.dumps(float(value) if type(value) is int else value, sort_keys=True)


def decides(path: str) -> bool:
    """Whether a config path may change what is computed, seeds aside."""
    return path.split(".")[0] not in RANKS_NOTHING and not path.endswith("_target_")


def identity(run: RunRecord, *, within: Sequence[str] = ()) -> str:
    """The same text for runs that agree, in the paths that begin with `within` where given."""
    own = {path: frozen(value) for path, value in run.config.items() if decides(path)}
    chosen = {path: value for path, value in own.items() if not within or path.startswith(tuple(within))}
    return json.dumps([run.task, run.model, "" if within else run.method, chosen], sort_keys=True)


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Paths in which the runs do not agree, a path that only some have among them."""
    paths = dict.fromkeys(path for run in runs for path in run.config if decides(path))
    return [path for path in paths if len({frozen(run.config[path]) if path in run.config else "" for run in runs}) > 1]


def short(path: str, among: Sequence[str]) -> str:
    """The end of a dotted path that no other of `among` ends in: `learning_rate`, else `train.learning_rate`."""
    parts = path.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if not any(other != path and f".{other}".endswith(f".{end}") for other in among):
            return end
    return path


def shown(value: Any) -> str:
    """A config value as one would type it."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list) else str(value)


def settings_label(varied: Mapping[str, Any]) -> str:
    """`learning_rate=0.001 beta=0.1`; of many settings the first few, those of the evaluator last."""
    paths = sorted(varied, key=lambda path: path.startswith("evaluator."))
    told = [f"{short(path, paths)}={shown(varied[path])}" for path in paths[:MOST_TOLD]]
    return " ".join([*told, *([f"(+{len(paths) - MOST_TOLD} settings)"] if len(paths) > MOST_TOLD else [])])


# --------------------------------------------------------------------------------------------------- summarising


def summarise(runs: Sequence[RunRecord], sort: str = "") -> list[Section]:
    """Sections of the runs, the largest first. ValueError where no run has the score to sort by."""
    parts: dict[str, list[RunRecord]] = {}
    for run in runs:
        parts.setdefault(identity(run, within=SAME_TASK), []).append(run)
    titles = Counter((own[0].task, own[0].model) for own in parts.values())
    sections = []
    for own in sorted(parts.values(), key=lambda own: (-len(own), own[0].task, own[0].model)):
        name = (own[0].task, own[0].model)
        alike = [other[0] for other in parts.values() if (other[0].task, other[0].model) == name]
        paths = [path for path in differing(alike) if path.startswith(SAME_TASK)] if titles[name] > 1 else []
        told = settings_label({path: own[0].config[path] for path in paths if path in own[0].config})
        sections.append(section(own, " on ".join(name) + (f" ({told})" if told else ""), sort))
    if sort and not any(sort in section.columns for section in sections):
        known = ", ".join(dict.fromkeys(name for section in sections for name in section.columns[:12]))
        raise ValueError(f"no run has the score {sort!r} to sort by; some that runs have: {known or 'none'}")
    return sections


def section(runs: Sequence[RunRecord], title: str, sort: str) -> Section:
    """One task on one model; of groups that tie the one with the better balance comes first."""
    basis = basis_of(runs)
    values = {}
    for run in runs:
        own = run.scores.get(run.subject, {})
        values[run.key] = {**derived(own, basis), **own, **(costs_of(run) if own else {})}
    present = dict.fromkeys(name for own in values.values() for name in own)
    columns = (*(name for name in PREFERRED if name in present), *(name for name in present if name not in PREFERRED))
    sort = sort if sort in columns else sort_of(columns)
    groups = sorted(
        groups_of(runs, values),
        key=lambda one: (one.mean(sort) is None, _badness(one, sort), _badness(one, BALANCE), one.label),
    )
    able = {place: one for place, one in enumerate(groups) if may_win(one)}
    able_runs = [run.key for one in able.values() for run in one.runs]
    references: dict[str, Mapping[str, float]] = {}
    for subject in ("target", "retrained"):
        found = [{**derived(made, basis), **made} for run in runs if (made := run.scores.get(subject))]
        references |= {subject: {name: one.mean for name, one in spreads(found).items()}} if found else {}
    best = {name: best_of(name, [one.mean(name) for one in able.values()]) for name in columns}
    best_runs = {name: best_of(name, [values[key].get(name) for key in able_runs]) for name in columns}
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


def _badness(group: Group, sort: str) -> float:
    value = group.mean(sort)
    return 0.0 if value is None else round(badness(sort, value), 9)


def sort_of(columns: Sequence[str]) -> str:
    """What a section is sorted by where nobody says: the task aggregate, else the balance, else its first column."""
    return next((name for name in (AGGREGATE, BALANCE, *columns) if name in columns), BALANCE)


def groups_of(runs: Sequence[RunRecord], values: Mapping[str, Mapping[str, float]]) -> list[Group]:
    """Runs of one section by what they are but for the seed."""
    by_method: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    found = []
    for method, same in by_method.items():
        paths = differing(same)
        parts: dict[str, list[RunRecord]] = {}
        for run in same:
            parts.setdefault(identity(run), []).append(run)
        for own in parts.values():
            varied = {path: own[0].config[path] for path in paths if path in own[0].config}
            label = " ".join([method, *([settings_label(varied)] if varied else [])])
            spread_of = spreads([values[run.key] for run in own])
            found.append(Group(label=label, method=method, runs=tuple(own), values=spread_of, varied=varied))
    return found
