"""The report of one run: report.json for programs, report.md and report.png for people, and the closing table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lume_run.attacks.base import ReturnedText
from lume_run.attacks.results import FOLDER
from lume_run.common.files import replace_file, write_json
from lume_run.report.attack_curves import write_attack_plot
from lume_run.report.attacks import attack_lines, attack_section, text_file, text_pages
from lume_run.report.layers import layer_section
from lume_run.report.plots import write_plot
from lume_run.report.results import SUBJECTS, Report, report_json
from lume_run.report.sequence.plot import write_sequence_plot
from lume_run.report.sequence.tables import sequence_lines, sequence_section
from lume_run.report.tables import markdown, notes, terminal_table

__all__ = ["Report", "print_report", "write_report"]
PLOT_FILE, ATTACK_PLOT, SEQUENCE_PLOT = "report.png", "attacks.png", "requests.png"
RETURNED_TEXTS = "texts.json"  # in the folder of attacks: what they brought back


def write_report(report: Report, folder: Path) -> None:
    """report.json, report.md, the texts of attacks and, where matplotlib is installed, plots into the run folder."""
    json.dumps(report_json(report), allow_nan=False)  # strict JSON or nothing
    plots = {
        PLOT_FILE: write_plot(report, folder / PLOT_FILE),
        ATTACK_PLOT: write_attack_plot(report.attacks, folder / ATTACK_PLOT),
        SEQUENCE_PLOT: write_sequence_plot(report.sequence, folder / SEQUENCE_PLOT),
    }
    for name, plotted in plots.items():
        if not plotted:
            (folder / name).unlink(missing_ok=True)  # of an earlier report
    parts = [
        markdown(report, plotted=plots[PLOT_FILE]),
        layer_section(report),
        sequence_section(report.sequence, plotted=plots[SEQUENCE_PLOT]),
        attack_section(report.attacks, plotted=plots[ATTACK_PLOT]),
    ]
    replace_file(folder / "report.md", "".join(parts))
    if report.attacks is not None:
        write_texts(report.attacks.texts, folder / FOLDER)
    write_json(folder / "report.json", report_json(report))


def write_texts(texts: Sequence[ReturnedText], folder: Path) -> None:
    """What attacks brought back, for `lume-run-report` and, a page an attack, to read; not part of the report itself:
    what is sent to W&B holds no answers."""
    folder.mkdir(exist_ok=True)
    write_json(folder / RETURNED_TEXTS, [asdict(text) for text in texts])
    for attack, page in text_pages(texts).items():
        replace_file(folder / text_file(attack), page)


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
    for line in (*sequence_lines(report.sequence), *attack_lines(report.attacks)):
        console.print(f"  {escape(line)}", soft_wrap=True)
    for name, path in report.manifest.get("artifacts", {}).items():
        if name in SUBJECTS:
            console.print(f"  {SUBJECTS[name]} model: {escape(path)}", soft_wrap=True)
    console.print(f"  report: {escape(str(folder / 'report.md'))}", soft_wrap=True)
