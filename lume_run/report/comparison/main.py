"""`lume-run-report`: collect run folders into tables, files, plots and one page that says who won."""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lume_run.common.console import PlainConsole
from lume_run.common.errors import LumeError, RunError
from lume_run.common.files import explain_full_disk, replace_file
from lume_run.common.places import place_fault
from lume_run.report.comparison.export.leaderboards import LEADERBOARDS
from lume_run.report.comparison.export.submission import write_submission
from lume_run.report.comparison.export.tables import comparison_json, latex_tables, write_csv, write_strict_json
from lume_run.report.comparison.page.page import embed_figure, render_page
from lume_run.report.comparison.plots.charts import MOST_FIGURES, Chart, build_charts
from lume_run.report.comparison.plots.style import plot_style
from lume_run.report.comparison.run_folders import Collection, collect_runs
from lume_run.report.comparison.summary import Section, summarise
from lume_run.report.comparison.terminal import columns_of, print_comparison

LATEX_COLUMNS = 7
DPI = 150
CHART_FILE = re.compile(r"(ranks|kept|semeval|closer-look|tofu|muse|scores|effect|training)(-\d+)*\.(png|svg)")


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="lume-run-report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold them at any depth")
    parser.add_argument("--out", type=Path, help="where the files go (default: `report` or `submission` in the first)")
    parser.add_argument("--sort", default="", help="score to sort by (default: task_aggregate, else balance)")
    parser.add_argument("--columns", default="", help="scores to show on the terminal and in LaTeX, by commas")
    parser.add_argument("--title", default="", help="of the page (default: the folders' names), or of the method")
    parser.add_argument("--prompts", type=int, default=24, help="prompts a side and run in the page, at most")
    parser.add_argument("--submission", choices=sorted(LEADERBOARDS), help="write what it takes, not a report")
    parser.add_argument("--submitted-by", default="", help="your name or team, a column of TOFU's leaderboard")
    parser.add_argument("--no-plots", action="store_true", help="leave the plots out, which take the longest")
    return parser


def write_comparison(
    folders: Sequence[Path],
    out: Path,
    console: Console,
    *,
    sort: str = "",
    columns: Sequence[str] = (),
    title: str = "",
    prompts: int = 24,
    plots: bool = True,
    further: Sequence[Chart] = (),
) -> Collection:
    """Read the runs, show the tables, write every file into `out`. RunError where there is nothing to report.

    `further` are plots that stand before those of the runs.
    """
    collection, sections = read_sections(folders, sort, columns)
    print_comparison(collection, sections, console, columns)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(sections, out / "runs.csv")
    write_strict_json(comparison_json(collection, sections), out / "report.json")
    latex = latex_tables(sections, [columns_of(section, columns, LATEX_COLUMNS) for section in sections])
    replace_file(out / "groups.tex", latex)
    figures = write_charts([*further, *build_charts(sections)], out, console) if plots else []
    name = title or ", ".join(dict.fromkeys(folder.resolve().name for folder in folders))
    text = render_page(name, collection, sections, figures=figures, most=max(0, prompts))
    replace_file(out / "index.html", text)
    console.print(f"  page: {escape(str(out / 'index.html'))} ({len(text.encode()) / 2**20:.1f} MiB)", soft_wrap=True)
    charts = f", {len(figures)} plots in plots/" if figures else ""
    console.print(f"  beside it: runs.csv, report.json, groups.tex{charts}", soft_wrap=True)
    return collection


def read_sections(folders: Sequence[Path], sort: str, columns: Sequence[str]) -> tuple[Collection, list[Section]]:
    """The runs and their sections; RunError where there are none, or not what is asked for."""
    collection = read_runs(folders)
    try:
        sections = summarise(collection.runs, sort)
    except ValueError as error:
        raise RunError(f"--sort: {error}") from None
    unknown = [name for name in columns if not any(name in section.columns for section in sections)]
    if unknown:
        raise RunError(f"--columns: no run has {', '.join(unknown)}\n  -> runs.csv lists the scores there are")
    return collection, sections


def read_runs(folders: Sequence[Path]) -> Collection:
    """The runs in the folders; RunError where there are none."""
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise RunError(
            f"There is no folder {', '.join(missing)}\n  -> give folders that hold runs, such as outputs/<sweep>"
        )
    collection = collect_runs(folders)
    if not collection.runs:
        names = ", ".join(map(str, folders))
        raise RunError(f"There are no runs in {names}\n  -> a run folder holds config.yaml, as lume-run writes it")
    return collection


def write_charts(charts: Sequence[Chart], out: Path, console: Console) -> list[str]:
    """Write PNG and SVG of every plot, of very many the first; the figures of the page."""
    if importlib.util.find_spec("matplotlib") is None:
        console.print(r"  [yellow]no plots: pip install 'lume-run\[plots]'[/]", soft_wrap=True)
        return []
    if len(charts) > MOST_FIGURES:
        extra = len(charts) - MOST_FIGURES
        console.print(f"  [yellow]{extra} of {len(charts)} plots are left out; report fewer runs[/]")
    folder = out / "plots"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if CHART_FILE.fullmatch(file.name):  # of an earlier report, perhaps of other tasks
            file.unlink()
    return [write_chart(chart, folder) for chart in charts[:MOST_FIGURES]]


def write_chart(chart: Chart, out: Path) -> str:
    """One plot as two files and as a part of the page."""
    with plot_style():
        figure = chart.draw()
        picture, buffer = io.BytesIO(), io.StringIO()
        figure.savefig(picture, dpi=DPI)
        replace_file(out / f"{chart.name}.png", picture.getvalue())
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    replace_file(out / f"{chart.name}.svg", svg)
    return embed_figure(chart.name, chart.title, chart.caption, svg)


def write_asked(known: argparse.Namespace, out: Path, console: Console) -> None:
    """What the command line asks for: a submission, or the comparison."""
    if known.submission:
        board, runs = LEADERBOARDS[known.submission], read_runs(known.folders)
        write_submission(board, runs, out, console, title=known.title, submitted_by=known.submitted_by)
        return
    write_comparison(
        known.folders,
        out,
        console,
        sort=known.sort,
        columns=[name for name in known.columns.split(",") if name],
        title=known.title,
        prompts=known.prompts,
        plots=not known.no_plots,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `lume-run-report` command: 0, or 2 with the reason."""
    known = argument_parser().parse_args(arguments)
    console = PlainConsole(highlight=False, emoji=False)
    out = known.out or known.folders[0] / ("submission" if known.submission else "report")
    try:
        if fault := place_fault(out.absolute()):
            raise RunError(f"--out {out}: {fault}\n  -> --out FOLDER that can be written to")
        with explain_full_disk(out):
            write_asked(known, out, console)
    except (LumeError, OSError) as error:
        PlainConsole(stderr=True, highlight=False, emoji=False).print(
            "[bold red]error:[/]", escape(str(error)), soft_wrap=True
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
