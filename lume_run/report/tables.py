"""The tables and notes of a report, as markdown and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from lume_run.common.devices import GIB
from lume_run.evaluation.inside.logit_lens import LAYER_SCORE
from lume_run.evaluation.metrics.bootstrap import FEW_DOCUMENTS, Interval
from lume_run.report.results import SUBJECTS, Report, direction_of, names_by_group

MOST_SCORES = 40  # of scores on a terminal
WIDE_TERMINAL = 110  # columns of a terminal that has room for intervals
MOST_NAMES = 4  # before one reason
MOST_SPEEDS = 12  # lines
FEW_MARK = "\u2020"  # a dagger
FEW_NOTE = (
    f"{FEW_MARK} an interval over fewer than {FEW_DOCUMENTS} documents, which may be too narrow (docs/metrics.md)"
)
NOISE_MARK = "~"
NOISE_NOTE = f"{NOISE_MARK} inside the noise: the 95 % interval of the change contains 0"
INTERVALS_NOTE = "[low, high]: 95 % bootstrap interval over documents"


def column_titles(report: Report) -> list[str]:
    """Column titles of both tables."""
    change = ["change"] if "unlearned" in report.scores else []
    return ["score", "wanted", *(SUBJECTS[subject] for subject in report.subjects), *change]


def format_score(value: float | None, sign: str = "") -> str:
    """A score to three decimals, a large one to whole numbers, a huge one to three digits; `sign="+"` shows it."""
    if value is None:
        return "n/a"
    return format(value, sign + (".3f" if abs(value) < 1e3 else ",.0f" if abs(value) < 1e6 else ".3g"))


def append_interval(text: str, interval: Interval | None, *, few: bool) -> str:
    """A formatted number with its interval, marked where that is over few documents."""
    if interval is None:
        return text
    return f"{text} [{format_score(interval.low)}, {format_score(interval.high)}]{FEW_MARK if few else ''}"


def score_cells(report: Report, name: str, *, intervals: Iterable[str]) -> list[str]:
    """One line: name, wanted, a value a subject, change; intervals of the subjects named, and of the "change"."""
    bounded = set(intervals)
    line = [name, str(direction_of(name))]
    for subject in report.subjects:
        interval = report.interval(subject, name) if subject in bounded else None
        few = report.has_few_documents(name)
        line.append(append_interval(format_score(report.value(subject, name)), interval, few=few))
    if "unlearned" in report.scores:
        change = report.change(name)
        text = "" if change is None else format_score(change, "+")
        if "change" in bounded:
            text = append_interval(text, report.change_interval(name), few=report.has_few_documents(name))
        line.append(f"{text} {NOISE_MARK}" if report.inside_noise(name) else text)
    return line


def markdown(report: Report, *, plotted: bool = False) -> str:
    """report.md; `plotted`: report.png stands beside it."""
    titles = column_titles(report)
    lines = [f"# {report.name}", "", f"Data: {report.source}", "", *table_head(titles, text=2)]
    for group, names in names_by_group(report).items():
        lines.append(f"| **{group}** |" + " |" * (len(titles) - 1))
        listed = [name for name in names if not LAYER_SCORE.fullmatch(name)]  # those have a table of their own
        lines += [table_row(score_cells(report, name, intervals=[*report.scores, "change"])) for name in listed]
    lines += ["", *(["![scores before and after](report.png)", ""] if plotted else [])]
    lines += [f"- {line}" for line in [*legend(report, intervals=True), *notes(report)]]
    return "\n".join([*lines, *_cost_tables(report), ""])


def table_row(line: Sequence[str]) -> str:
    """A line of a markdown table."""
    return "| " + " | ".join(line) + " |"


def table_head(titles: Sequence[str], *, text: int) -> list[str]:
    """Head of a markdown table whose first `text` columns hold words."""
    return [table_row(titles), "|" + " --- |" * text + " ---: |" * (len(titles) - text)]


def legend(report: Report, *, intervals: bool) -> list[str]:
    """What the marks of a table mean, where they occur."""
    bounded = any(report.interval(subject, name) for subject in report.subjects for name in report.names)
    noisy, few = (any(map(mark, report.names)) for mark in (report.inside_noise, report.has_few_documents))
    notes_on_intervals = [INTERVALS_NOTE, *([FEW_NOTE] if few else [])] if intervals and bounded else []
    return [*notes_on_intervals, *([NOISE_NOTE] if noisy else [])]


def terminal_table(report: Report, width: int) -> tuple[Table, list[str]]:
    """(the table on a terminal of `width` columns, what to print below it)."""
    groups = names_by_group(report, most=MOST_SCORES)
    intervals = [report.main_subject] if width >= WIDE_TERMINAL else []
    table = Table(
        title=escape(report.name),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=width < WIDE_TERMINAL,
    )
    for place, title in enumerate(column_titles(report)):
        table.add_column(title, justify="left" if place < 2 else "right", no_wrap=place > 0, overflow="fold")
    for group, names in groups.items():
        table.add_section()
        table.add_row(f"[bold]{group}[/]")
        for name in names:
            line = [escape(cell) for cell in score_cells(report, name, intervals=intervals)]
            if report.inside_noise(name):
                line[-1] = f"[dim]{line[-1]}[/]"
            failed = name.startswith("mmlu") and report.gate is False
            table.add_row(*line, style="bold red" if failed else None)
    left = sum(map(len, names_by_group(report).values())) - sum(map(len, groups.values()))
    rest = [f"{left} more scores in report.md"] if left else []
    return table, [*legend(report, intervals=bool(intervals)), *rest]


# -------------------------------------------------------------------------------------------------- notes


def notes(report: Report) -> list[str]:
    """What a table does not say: the gate, missing scores, what was asked, time."""
    verdict = {True: "PASS", False: "FAIL", None: "not judged"}[report.gate]
    lines = [*report.warnings, f"MMLU gate: {verdict} ({report.gate_rule})", *_missing_scores(report)]
    lines += _speed_lines(report.manifest.get("training", {}))
    lines += [_cost_line(subject, cost) for subject, cost in report.costs.items()]
    if report.seconds:
        lines.append("seconds: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in report.seconds.items()))
    return lines


def _missing_scores(report: Report) -> list[str]:
    """One line a reason; of a reason that repeats another only what it adds."""
    names: dict[str, dict[str, None]] = {}
    for scores in report.scores.values():
        for score in scores.values():
            if score.reason:
                names.setdefault(score.reason, {})[score.name] = None
    lines = []
    for reason, members in names.items():
        addition = reason
        for other in names:
            addition = addition.replace(f": {other}", "") if other != reason else addition
        lines.append(f"n/a: {_shorten_list(list(members))}: {addition}")
    return lines


def _shorten_list(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMES - 1])} and {len(names) - MOST_NAMES + 1} more"


def _speed_lines(training: Mapping[str, Any]) -> list[str]:
    """A line an optimisation, or one for all where they are many: of requests apart, say."""
    timed = {name: run for name, run in training.items() if run["seconds_per_step"] is not None}
    if len(timed) <= MOST_SPEEDS:
        return [_speed_line(name, run) for name, run in timed.items()]
    steps = sum(run["steps"] for run in timed.values())
    seconds = sum(run["steps"] * run["seconds_per_step"] for run in timed.values()) / max(steps, 1)
    peak = max(run["peak_memory_bytes"] or 0 for run in timed.values())
    together = {"steps": steps, "seconds_per_step": seconds, "peak_memory_bytes": peak}
    return [_speed_line(f"{len(timed)} trainings", together)]


def _speed_line(name: str, outcome: Mapping[str, Any]) -> str:
    """Steps, seconds a step and peak memory of one optimisation."""
    seconds, peak = outcome["seconds_per_step"], outcome["peak_memory_bytes"]
    memory = f", peak memory {peak / GIB:.2f} GiB" if peak else ""
    return f"{name}: {outcome['steps']} steps, {seconds:.3g} s each{memory}"


# -------------------------------------------------------------------------------------------------- costs


def _prompt_count(suite: Mapping[str, int]) -> int:
    return sum(count for ask, count in suite.items() if ask != "tokens")


def _cost_line(subject: str, cost: Mapping[str, Any]) -> str:
    """What one model was asked, in a line."""
    asks, suites = cost.get("asks", {}).values(), cost.get("suites", {})
    shared = cost.get("shared", {}).get("prompts", 0)
    counts = {name: _prompt_count(suite) for name, suite in suites.items()}
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    parts += f"; {shared:,} shared" if shared else ""
    line = f"asked {SUBJECTS.get(subject, subject)}: {sum(counts.values()) - shared:,} prompts ({parts})"
    if not asks:
        return line
    passes, tokens, seconds = (sum(ask[unit] for ask in asks) for unit in ("passes", "tokens", "seconds"))
    return f"{line}, {tokens:,} tokens generated, {passes:,} passes, {seconds:.1f} s"


def _cost_tables(report: Report) -> list[str]:
    """What the models were asked, by ask as measured and by suite as counted; nothing where that is not known."""
    measured = [
        table_row(
            [title, name, f"{ask['prompts']:,}", f"{ask['passes']:,}", f"{ask['tokens']:,}", f"{ask['seconds']:.1f}"]
        )
        for title, cost in _costs_by_title(report)
        for name, ask in cost.get("asks", {}).items()
    ]
    counted = [
        table_row([title, name, f"{_prompt_count(suite):,}", f"{suite.get('tokens', 0):,}"])
        for title, cost in _costs_by_title(report)
        for name, suite in cost.get("suites", {}).items()
    ]
    lines = ["", "## What the models were asked"] if measured or counted else []
    if measured:
        titles = ["model", "ask", "prompts run", "forward passes", "tokens generated", "seconds"]
        lines += ["", *table_head(titles, text=2), *measured]
    if counted:
        lines += ["", *table_head(["model", "suite", "prompts", "tokens generated"], text=2), *counted]
    return lines


def _costs_by_title(report: Report) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return ((SUBJECTS.get(subject, subject), cost) for subject, cost in report.costs.items())
