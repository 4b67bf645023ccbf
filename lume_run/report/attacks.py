"""What attacks brought back, as a section of report.md and as lines on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from lume_run.attacks.results import AttackedScore, AttackResults
from lume_run.common.records import Score
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.metrics.bootstrap import FEW_DOCUMENTS, Interval
from lume_run.report.tables import append_interval, format_score, table_head, table_row

SHOWN_DETAIL = 1  # of scores, as in `Definition`: variants are in report.json alone


def attack_section(results: AttackResults | None) -> str:
    """The section of report.md: what each strength brought back, what is worst, and utility after the attacks."""
    if results is None:
        return ""
    control = f"`{results.control}` is attacked alike" if results.control else "no control was attacked"
    lines = ["", "## Attacks", "", f"`{results.subject}` under attack; {control}.", *_strength_table(results)]
    lines += [*_worst_table(results), *_use_table(results), *_reasons(results)]
    return "\n".join([*lines, ""])


def attack_lines(results: AttackResults | None) -> list[str]:
    """A line for each attack: the score of which it brought back most."""
    lines = []
    for attack in results.attacks if results is not None else ():
        assert results is not None
        shares = {name: score for name, score in results.worst.items() if is_share_of(name, attack)}
        known = {name: score.value for name, score in shares.items() if score.value is not None}
        if not known:
            lines.append(f"attack {attack}: nothing to bring back, or nothing compared")
            continue
        name = max(known, key=lambda name: known[name])
        lines.append(
            f"attack {attack}: up to {format_score(known[name])} of what was forgotten came back ({score_behind(name)})"
        )
    return lines


def is_share_of(name: str, attack: str) -> bool:
    """Whether a worst score is the recovered share of some score under this attack."""
    return name.startswith(f"attack.{attack}.") and name.endswith(".recovered")


def score_behind(name: str) -> str:
    """The score that a worst score is about: `attack.relearn.forget.bios.knowledge.recovered`."""
    return name.split(".", 2)[2].rpartition(".")[0]


def is_shown(row: AttackedScore) -> bool:
    """Whether a row's score is a headline or a part of one."""
    definition = definition_of(row.score)
    return definition is None or definition.detail <= SHOWN_DETAIL


def cell(score: Score | None) -> str:
    """A score with its interval; empty where there is none."""
    if score is None:
        return ""
    ends = None if score.low is None or score.high is None else Interval(score.low, score.high)
    return append_interval(format_score(score.value), ends, few=0 < score.documents < FEW_DOCUMENTS)


def _strength_table(results: AttackResults) -> list[str]:
    titles = ["attack", "strength", "score", "before unlearning", "unlearned", "attacked"]
    titles += ["control", "control attacked", "recovered", "excess", "R or Q"]
    lines = ["", *table_head(titles, text=3)]
    for row in filter(is_shown, results.rows):
        if row.recovered is not None:
            scores = (row.target, row.before, row.after, row.control_before, row.control_after)
            values = [format_score(score.value) if score else "" for score in scores]
            measures = [cell(row.recovered), cell(row.excess), cell(row.relearning or row.quantisation)]
            lines.append(table_row([row.attack, row.strength.label, row.score, *values, *measures]))
    return lines


def _worst_table(results: AttackResults) -> list[str]:
    lines = ["", "Worst case over strengths (largest shares, smallest R and Q):", ""]
    lines += table_head(["score", "value"], text=1)
    return [*lines, *(table_row([name, cell(score)]) for name, score in results.worst.items())]


def _use_table(results: AttackResults) -> list[str]:
    """What an attack leaves of what should be kept: a model that is broken recovers nothing, and is of no use."""
    rows = [row for row in results.rows if row.recovered is None and is_shown(row)]
    if not rows:
        return []
    lines = ["", "What was to be kept, after the attacks:", ""]
    lines += table_head(["attack", "strength", "score", "unlearned", "attacked"], text=3)
    return [*lines, *(_use_row(row) for row in rows)]


def _use_row(row: AttackedScore) -> str:
    return table_row([row.attack, row.strength.label, row.score, cell(row.before), cell(row.after)])


def _reasons(results: AttackResults) -> list[str]:
    """A line for each reason why a number is missing, with the first of those that lack it."""
    missing: dict[str, list[str]] = {}
    for name, score in results.worst.items():
        if score.reason:
            missing.setdefault(score.reason, []).append(name)
    return ["", *(f"- n/a: {_first(names)}: {reason}" for reason, names in missing.items())] if missing else []


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
