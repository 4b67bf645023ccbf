"""The results of one run as data: the scores of each model, their changes, which of them to show, and report.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lume_run.attacks.results import AttackResults, attacks_json
from lume_run.common.records import Score
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.definitions import ScoreGroup, Wanted
from lume_run.evaluation.metrics.bootstrap import FEW_DOCUMENTS, Interval, difference
from lume_run.report.sequence.scores import SequenceResults, sequence_json

SUBJECTS = {"model": "model", "target": "before", "unlearned": "after", "retrained": "retrained"}
BY_TASK = "<side>.<task>."  # patterns of scores of one task on one side
OVER_TASKS = ("<side>.regurgitation", "<side>.knowledge")
FURTHER_SETS = ("real_authors", "world_facts")  # beside the forget and the retain set
HEADLINE, PART_OF_PART = 0, 2  # details of scores: the one always stands, the other goes first


@dataclass(frozen=True, kw_only=True)
class Report:
    """All results of one run. `scores` by subject (target, unlearned, ...), then by name.

    `costs` says by subject what the model was asked: runs, forward passes, generated tokens and seconds by ask, prompts
    by suite, prompts of all suites run `alone`, and those of them that another suite `shared`. `attacks` is what
    brought the forgotten back, `sequence` what requests one after another did; None where nothing was tried.
    """

    name: str
    scores: Mapping[str, Mapping[str, Score]]
    gate: bool | None
    gate_rule: str
    seconds: Mapping[str, float]
    manifest: Mapping[str, Any]
    source: str
    strict: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    costs: Mapping[str, Any] = field(default_factory=dict)
    attacks: AttackResults | None = None
    sequence: SequenceResults | None = None

    @property
    def names(self) -> list[str]:
        """Score names in the order of the suites."""
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    @property
    def subjects(self) -> list[str]:
        """The models there are scores of, in the order of columns."""
        return [subject for subject in SUBJECTS if subject in self.scores]

    @property
    def main_subject(self) -> str:
        """The model that the run is about: the unlearned one where there is one."""
        return "unlearned" if "unlearned" in self.scores else next(iter(self.subjects), "")

    def score(self, subject: str, name: str) -> Score | None:
        """One score, None where this model has none of that name; of the attacked one also the worst of its attacks."""
        return self.scores.get(subject, {}).get(name) or self.further_scores(subject).get(name)

    def further_scores(self, subject: str) -> dict[str, Score]:
        """Scores that are of no model's answers alone: the worst cases of attacks, means over requests."""
        under_attack = self.attacks.worst if self.attacks and subject == self.attacks.subject else {}
        over_requests = self.sequence.summary if self.sequence and subject == "unlearned" else {}
        return {**under_attack, **over_requests}

    def value(self, subject: str, name: str) -> float | None:
        """One score's value, None when it could not be computed."""
        score = self.score(subject, name)
        return score.value if score else None

    def interval(self, subject: str, name: str) -> Interval | None:
        """One score's 95 % interval, None where it has none."""
        score = self.score(subject, name)
        return None if score is None or score.low is None or score.high is None else Interval(score.low, score.high)

    def change(self, name: str) -> float | None:
        """After minus before, where both exist."""
        before, after = self.value("target", name), self.value("unlearned", name)
        return None if before is None or after is None else after - before

    def change_interval(self, name: str) -> Interval | None:
        """The 95 % interval of the change, paired by document; None where there is none."""
        before, after = self.score("target", name), self.score("unlearned", name)
        return None if before is None or after is None else difference(before, after)

    def has_few_documents(self, name: str) -> bool:
        """Whether an interval of the score is one over fewer than `FEW_DOCUMENTS`."""
        scores = (self.score(subject, name) for subject in self.scores)
        return any(score is not None and 0 < score.documents < FEW_DOCUMENTS for score in scores)

    def inside_noise(self, name: str) -> bool:
        """Whether other documents might as well have shown no change: its interval contains 0."""
        interval = self.change_interval(name)
        return interval is not None and interval.low <= 0 <= interval.high


def direction_of(name: str) -> Wanted:
    """Which way a score should go for good unlearning; NONE where nothing is known of it."""
    definition = definition_of(name)
    return definition.wanted if definition else Wanted.NONE


def group_of(name: str) -> ScoreGroup:
    """What a score is about."""
    definition = definition_of(name)
    return definition.group if definition else ScoreGroup.OTHER


def patterns_of(names: Iterable[str]) -> dict[str, str]:
    """The pattern in the catalogue by score name; empty for what is from elsewhere."""
    return {name: definition.pattern if (definition := definition_of(name)) else "" for name in names}


def is_of_one_task(patterns: Mapping[str, str]) -> bool:
    """Whether all scores by task are of one: means over tasks then say the same again."""
    return len({name.split(".")[1] for name, pattern in patterns.items() if pattern.startswith(BY_TASK)}) == 1


def names_by_group(report: Report, *, most: int | None = None) -> dict[ScoreGroup, list[str]]:
    """Names worth a line, by group in report order.

    Of more than `most`, variants and what was measured on further sets go first, then parts. Row means over tasks are
    left out where there is one task only.
    """
    patterns = patterns_of(report.names)
    one_task = is_of_one_task(patterns)
    names = [name for name, pattern in patterns.items() if not (one_task and pattern in OVER_TASKS)]

    def detail(name: str) -> int:
        definition = definition_of(name)
        stands_for_all = one_task and patterns[name].startswith(BY_TASK)
        if not set(FURTHER_SETS).isdisjoint(name.split(".")):
            return PART_OF_PART
        return HEADLINE if definition is None or stands_for_all else definition.detail

    for deepest in sorted({detail(name) for name in names}, reverse=True):
        if most is None or len(names) <= most:
            break
        names = [name for name in names if detail(name) < deepest or deepest == HEADLINE]
    by_group = {group: [name for name in names if group_of(name) is group] for group in ScoreGroup}
    return {group: members for group, members in by_group.items() if members}


def report_json(report: Report) -> dict[str, Any]:
    """The report as strict JSON data; `scores` and `intervals` are flat: `<subject>.<score name>`, `change.<name>`."""
    flat = {f"{who}.{name}": score for who, scores in report.scores.items() for name, score in scores.items()}
    for who in report.scores:
        flat |= {f"{who}.{name}": score for name, score in report.further_scores(who).items()}
    changes = {f"change.{name}": change for name in report.names if (change := report.change(name)) is not None}
    intervals = {name: [score.low, score.high] for name, score in flat.items() if score.low is not None}
    for name in report.names:
        if interval := report.change_interval(name):
            intervals[f"change.{name}"] = list(interval)
    return {
        "run": report.name,
        "config_hash": report.manifest["config_hash"],
        "seed": report.manifest["seed"],
        "versions": report.manifest["versions"],
        "source": report.source,
        "scores": {name: score.value for name, score in flat.items()} | changes,
        "intervals": intervals,
        "few_documents": [name for name in report.names if report.has_few_documents(name)],
        "inside_noise": [name for name in report.names if report.inside_noise(name)],
        "n": {name: score.n for name, score in flat.items()},
        "reasons": {name: score.reason for name, score in flat.items() if score.reason},
        "warnings": list(report.warnings),
        "training": report.manifest.get("training", {}),
        "costs": dict(report.costs),
        "mmlu_gate": {"passed": report.gate, "rule": report.gate_rule},
        "official": _strict_value(report.strict),
        **({"attacks": attacks_json(report.attacks, report.manifest.get("attacks", {}))} if report.attacks else {}),
        **({"sequence": sequence_json(report.sequence)} if report.sequence else {}),
        "seconds": {stage: round(spent, 2) for stage, spent in report.seconds.items()},
    }


def _strict_value(value: Any) -> Any:
    """The official script writes NaN; strict JSON has no such thing, so it becomes the string."""
    if isinstance(value, Mapping):
        return {key: _strict_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict_value(item) for item in value]
    return "NaN" if isinstance(value, float) and value != value else value
