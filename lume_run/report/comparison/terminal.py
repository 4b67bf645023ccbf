"""A sweep on a terminal: a table a section, the best of every column marked, and what failed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lume_run.common.text import first_line
from lume_run.evaluation.definitions import Wanted
from lume_run.report.comparison.columns import PEAK, PREFERRED, RECOVERED, SECONDS, STEP, column_direction
from lume_run.report.comparison.export.tables import format_spread
from lume_run.report.comparison.published import MARK, tables_for
from lume_run.report.comparison.run_folders import Collection
from lume_run.report.comparison.summary import Section
from lume_run.report.plots import ARROWS
from lume_run.report.tables import format_score

BEST_MARK = "★"
MOST_LABEL = 34  # characters of a group's name in one line
LEAST_LABEL = 22  # room for one setting
COLUMN_WIDTH = 18  # characters that a mean with its deviation and star takes
COLUMN_TITLES = {SECONDS: "unlearning [s]", STEP: "s/step", PEAK: "peak GiB"}


def column_title(name: str) -> str:
    """A column's title, with the direction that is wanted."""
    return COLUMN_TITLES.get(name, name) + ARROWS.get(column_direction(name), "")


def wrap_title(title: str) -> str:
    """A title in lines that end at dots, none much longer than a column."""
    lines = [""]
    for part in re.findall(r"[^.]+\.?", title):
        if lines[-1] and len(lines[-1] + part) > COLUMN_WIDTH - 3:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def columns_of(section: Section, chosen: Sequence[str], most: int) -> list[str]:
    """The columns to show: those asked for, else the score sorted by and what stands first, at most `most`."""
    if chosen:
        return [name for name in chosen if name in section.columns]
    preferred = [name for name in PREFERRED if name in section.columns and name != section.sort]
    others = [name for name in section.columns if name not in PREFERRED and column_direction(name) is not Wanted.NONE]
    first = [section.sort] if section.sort in section.columns else []
    return [*first, *preferred, *(others if len(preferred) < 3 else [])][:most]


def print_comparison(
    collection: Collection, sections: Sequence[Section], console: Console, chosen: Sequence[str] = ()
) -> None:
    """Everything, the winners' tables first."""
    most = max(2, (console.width - LEAST_LABEL - 6) // COLUMN_WIDTH)
    for section in sections:
        if section.columns:
            print_section(section, console, columns_of(section, chosen, most))
            print_robustness(section, console, most)
    print_failures(collection, console)
    for note in collection.notes:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)


def print_section(section: Section, console: Console, columns: Sequence[str]) -> None:
    """One table, and what its numbers are made from."""
    table = Table(title=escape(section.title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold", min_width=LEAST_LABEL, max_width=MOST_LABEL)
    table.add_column("n", justify="right")
    for name in columns:
        table.add_column(escape(wrap_title(column_title(name))), justify="right", overflow="fold")
    for place, group in enumerate(section.groups):
        if group.values:
            note = " (below the MMLU gate)" if group.below_gate else ""
            style = "red" if group.below_gate else "dim" if group.is_reference else None
            cells = _cells(section, place, columns)
            table.add_row(escape(group.label + note), str(len(group.runs)), *cells, style=style)
    table.add_section()
    for subject, title in (("target", "before unlearning"), ("retrained", "retrained without the forget set")):
        if scores := section.references.get(subject):
            cells = [format_score(scores[name]) if name in scores else "" for name in columns]
            table.add_row(title, "", *cells, style="dim")
    console.print(table)
    for line in _legend_lines(section):
        console.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)


def print_robustness(section: Section, console: Console, most: int) -> None:
    """A table of what each attack brought back, the largest share over its strengths; none where nothing was tried."""
    tried = [name for name in section.columns if name.startswith(f"{RECOVERED}.")]
    names = tried[:most]
    groups = [group for group in section.groups if any(name in group.values for name in names)]
    if not groups:
        return
    table = Table(title="recovered by attacks", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold", min_width=LEAST_LABEL, max_width=MOST_LABEL)
    for name in names:
        table.add_column(escape(wrap_title(name.removeprefix(f"{RECOVERED}."))), justify="right", overflow="fold")
    for group in groups:
        table.add_row(escape(group.label), *(format_spread(group.values.get(name)) for name in names))
    console.print(table)
    if more := [name.removeprefix(f"{RECOVERED}.") for name in tried[most:]]:
        console.print(f"  [dim]in a wider window, the page and runs.csv: {escape(', '.join(more))}[/]", soft_wrap=True)


def _cells(section: Section, place: int, columns: Sequence[str]) -> list[str]:
    """The numbers of the group at a place, a star after the best of a column."""
    cells = []
    for name in columns:
        text = format_spread(section.groups[place].values.get(name))
        cells.append(f"[bold]{text} {BEST_MARK}[/]" if place in section.best.get(name, ()) else text)
    return cells


def _legend_lines(section: Section) -> list[str]:
    """How to read a section's table."""
    lines = [f"{BEST_MARK} best of its column; mean ± standard deviation over n seeds; sorted by {section.sort}"]
    if section.basis:
        lines.append(f"forgotten: 1 - mean of {', '.join(section.basis.forget)}")
        lines.append(f"kept: harmonic mean of {', '.join(section.basis.retain)}")
    return [*lines, *(f"beside it in the page: {table.title} ({MARK})" for table in tables_for(section))]


def print_failures(collection: Collection, console: Console) -> None:
    """What did not run to its end, one line each."""
    titles = {
        "failed": "failed",
        "diverged": "diverged, scored with their last good weights",
        "unfinished": "unfinished",
    }
    for state, title in titles.items():
        runs = [run for run in collection.runs if run.state == state]
        if runs:
            console.print(f"[bold {'yellow' if state == 'unfinished' else 'red'}]{len(runs)} {title}[/]")
        for run in runs:
            console.print(f"  {escape(run.name)}: {escape(first_line(run.error) or 'no report yet')}", soft_wrap=True)
