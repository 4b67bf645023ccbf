"""The report of one run: report.json for programs, report.md and report.png for people, and the closing table."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lume_run.common.files import replace_file, write_json
from lume_run.report.attacks import attack_lines, attack_section
from lume_run.report.plots import write_plot
from lume_run.report.results import SUBJECTS, Report, report_json
from lume_run.report.tables import markdown, notes, terminal_table

__all__ = ["Report", "print_report", "write_report"]
PLOT_FILE = "report.png"


def write_report(report: Report, folder: Path) -> None:
    """report.json, report.md and, where matplotlib is installed, report.png into the run folder."""
    json.dumps(report_json(report), allow_nan=False)  # strict JSON or nothing
    plotted = write_plot(report, folder / PLOT_FILE)
    if not plotted:
        (folder / PLOT_FILE).unlink(missing_ok=True)  # of an earlier report
    replace_file(folder / "report.md", markdown(report, plotted=plotted) + attack_section(report.attacks))
    write_json(folder / "report.json", report_json(report))


def print_report(report: Report, folder: Path, console: Console) -> None:
    """The closing table on the terminal, and where everything is."""
    below: list[str] = []
    if report.scores:
        table, below = terminal_table(report, console.width)
        console.print(table)
    for line in below:
        console.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)
    console.print(f"  data: {escape(report.source)}", soft_wrap=True)
    for line in notes(report) if report.scores else ():
        text = escape(line)
        alarming = "gate: FAIL" in line or " DIVERGED: " in line
        console.print(f"  [bold red]{text}[/]" if alarming else f"  {text}", soft_wrap=True)
    for line in attack_lines(report.attacks):
        console.print(f"  {escape(line)}", soft_wrap=True)
    for name, path in report.manifest.get("artifacts", {}).items():
        if name in SUBJECTS:
            console.print(f"  {SUBJECTS[name]} model: {escape(path)}", soft_wrap=True)
    console.print(f"  report: {escape(str(folder / 'report.md'))}", soft_wrap=True)
