"""What attacks brought back, as a section of report.md and as lines on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from lume_run.attacks.base import ReturnedText
from lume_run.attacks.results import FOLDER, AttackedScore, AttackResults
from lume_run.common.records import Score
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.metrics.bootstrap import FEW_DOCUMENTS, Interval
from lume_run.report.tables import append_interval, format_score, table_head, table_row

SHOWN_DETAIL = 1  # of scores, as in `Definition`: variants are in report.json alone
SHADES = "\u2591\u2592\u2593\u2588"  # of a share, by quarters
FENCE = "~~~"  # around texts
PANEL_NOTE = f"Recovered share, the largest over strengths ({' '.join(SHADES)}: by quarters)"


def attack_section(results: AttackResults | None, *, plotted: bool = False) -> str:
    """The section of report.md: the panel of recovered shares, what each strength brought back, utility afterwards.

    `plotted`: attacks.png stands beside it.
    """
    if results is None:
        return ""
    control = f"`{results.control}` is attacked alike" if results.control else "no control was attacked"
    lines = ["", "## Attacks", "", f"`{results.subject}` under attack; {control}.", *_panel(results)]
    lines += ["", "![scores against steps](attacks.png)"] if plotted else []
    lines += [*_strength_table(results), *_worst_table(results), *_use_table(results), *_reasons(results)]
    return "\n".join([*lines, ""])


def text_file(attack: str) -> str:
    """The name of the page of texts that an attack brought back."""
    return f"texts.{attack}.md"


def text_pages(texts: Sequence[ReturnedText]) -> dict[str, str]:
    """By attack a page of what it brought back: answers before unlearning, after it, and under the attack."""
    pages: dict[str, str] = {}
    for text in texts:
        page = pages.setdefault(text.attack, f"# What {text.attack} brought back ({text.strength})\n")
        parts = {
            "expected": text.expected,
            "before unlearning": text.target,
            "unlearned": text.before,
            "attacked": text.after,
        }
        about = ", ".join(filter(None, (text.subtask, text.kind, text.attribute)))
        shown = {"prompt": text.prompt} | {name: part for name, part in parts.items() if part is not None}
        blocks = (f"{name}:\n\n{FENCE}text\n{_fenced(part)}\n{FENCE}\n" for name, part in shown.items())
        pages[text.attack] = "\n".join([page, f"## {text.id} ({about})\n", *blocks])
    return pages


def _fenced(text: str) -> str:
    """A text that cannot end the fence around it."""
    return text.strip().replace(FENCE, "~ ~ ~")


def shaded(score: Score | None) -> str:
    """A share with its interval behind a block that is the fuller the larger it is."""
    if score is None or score.value is None:
        return cell(score)
    return f"{SHADES[max(0, min(3, int(4 * score.value)))]} {cell(score)}"


def _panel(results: AttackResults) -> list[str]:
    """A line a score, a column an attack: the recovered share; the heads lead to the texts."""
    names = [row.score for row in results.rows if row.recovered is not None and is_shown(row)]
    with_texts = {text.attack for text in results.texts}
    heads = [f"[{name}]({FOLDER}/{text_file(name)})" if name in with_texts else name for name in results.attacks]
    lines = ["", f"{PANEL_NOTE}:", "", *table_head(["score", *heads], text=1)] if names else []
    for name in dict.fromkeys(names):
        shares = (results.worst.get(f"attack.{attack}.{name}.recovered") for attack in results.attacks)
        lines.append(table_row([name, *map(shaded, shares)]))
    return lines


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
    lines = ["", "Worst case over strengths (largest excess, smallest R and Q):", ""]
    lines += table_head(["score", "value"], text=1)
    others = {name: score for name, score in results.worst.items() if not name.endswith(".recovered")}
    return [*lines, *(table_row([name, cell(score)]) for name, score in others.items())]


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
