"""What a comparison found, as a table on the terminal, comparison.md, comparison.json and the page of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from lume_run.common.console import console
from lume_run.common.files import replace_file
from lume_run.common.records import Score
from lume_run.report.comparison.columns import FORGOTTEN, KEPT, RECOVERED, SECONDS
from lume_run.report.comparison.configs import settings_label
from lume_run.report.comparison.export.tables import write_strict_json
from lume_run.report.comparison.main import write_comparison
from lume_run.report.comparison.plots.charts import Chart
from lume_run.report.comparison.plots.style import INK, WIDE, new_figure
from lume_run.report.comparison.run_folders import RunRecord
from lume_run.report.comparison.summary import build_section, spread_by_name
from lume_run.report.comparison.terminal import column_title
from lume_run.report.saved_scores import read_resampled
from lume_run.report.tables import format_score
from lume_run.sweeps.compare.standings import Standing, standings
from lume_run.sweeps.runner import Job

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = (FORGOTTEN, KEPT, RECOVERED, "mia.auc", "mmlu.accuracy", SECONDS)  # columns beside the score that decides
RANKS_CAPTION = (
    "Mean over seeds; bars: 95 % interval over seeds and documents. A number is the rank: one more than the number of "
    "methods that are better by more than noise, paired by seed and document."
)
HOW_TO_READ = (
    "The rank of a method is one more than the number of methods that are better by more than noise (95 %, paired by "
    "seed and document); methods whose difference is noise share a rank or follow one another. [low, high]: 95 % "
    "interval of the mean, over seeds and documents. The other columns are means over seeds."
)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Everything that is written: the score that decides, who stands where, means of other columns, what was tuned."""

    objective: str
    budget: str
    rows: Sequence[Standing]
    beside: Mapping[str, Mapping[str, float]]
    settings: Mapping[str, Mapping[str, Any]]
    protocol: Sequence[str] = ()
    first: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """The other columns that some method has, `first` those of this comparison."""
        names = dict.fromkeys((*self.first, *BESIDE))
        return [name for name in names if name != self.objective and any(name in of for of in self.beside.values())]


def write_contest(
    folder: Path,
    jobs: Mapping[str, Sequence[Job]],
    settings: Mapping[str, Mapping[str, Any]],
    objective: str,
    budget: str,
    direction: str | None = None,
    protocol: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> None:
    """Rank the methods by their reported runs, and write everything into the folder; nothing where no run ended."""
    runs = {method: [run for job in of_method if (run := record_of(job))] for method, of_method in jobs.items()}
    if not any(runs.values()):
        return
    scores = {method: scores_by_seed(of_method, objective) for method, of_method in runs.items()}
    contest = Contest(
        objective=objective,
        budget=budget,
        rows=standings(objective, scores, direction),
        beside=means_beside(runs),
        settings=settings,
        protocol=[words for words in protocol if words],
        first=beside,
    )
    folder.mkdir(parents=True, exist_ok=True)
    chart = Chart(name="ranks", title=f"Ranks by {objective}", caption=RANKS_CAPTION, draw=partial(draw_ranks, contest))
    folders = [run.folder for of_method in runs.values() for run in of_method]
    write_comparison(folders, folder, console, sort=objective, title=f"Comparison by {objective}", further=[chart])
    write_strict_json(contest_json(contest), folder / "comparison.json")
    replace_file(folder / "comparison.md", contest_markdown(contest))
    print_contest(contest)
    console.print(f"  beside it: {escape(str(folder / 'comparison.md'))}, comparison.json", soft_wrap=True)


def record_of(job: Job) -> RunRecord | None:
    """The run of a job that has scores."""
    record = job.record
    return record if record is not None and record.state in ("done", "diverged") else None


def scores_by_seed(runs: Sequence[RunRecord], name: str) -> dict[int, Score]:
    """A score of every run by its seed; without resampled values where none are kept of it."""
    scores: dict[int, Score] = {}
    for run in runs:
        value = run.scores.get(run.subject, {}).get(name)
        if value is not None and run.seed is not None:
            scores[run.seed] = read_resampled(run.folder, run.subject).get(name) or Score(name=name, value=value, n=0)
    return scores


def means_beside(runs: Mapping[str, Sequence[RunRecord]]) -> dict[str, dict[str, float]]:
    """Means over seeds of all other columns, by method."""
    values = build_section([run for of_method in runs.values() for run in of_method], "", "").values
    spreads = {method: spread_by_name([values[run.key] for run in of_method]) for method, of_method in runs.items()}
    return {method: {name: spread.mean for name, spread in of.items()} for method, of in spreads.items() if of}


def contest_json(contest: Contest) -> dict[str, Any]:
    """The contest as strict JSON."""
    return {
        "objective": contest.objective,
        "budget": contest.budget,
        "protocol": list(contest.protocol),
        "methods": [
            asdict(row) | {"settings": dict(contest.settings.get(row.method, {})), "means": contest.beside[row.method]}
            for row in contest.rows
        ],
    }


def table_rows(contest: Contest, columns: Sequence[str]) -> list[list[str]]:
    """The table as text: rank, method, the score with its interval, other columns."""
    rows = []
    for row in contest.rows:
        ends = f" [{format_score(row.interval.low)}, {format_score(row.interval.high)}]" if row.interval else ""
        means = contest.beside[row.method]
        beside = [format_score(means[name]) if name in means else "" for name in columns]
        rows.append([str(row.rank), row.method, format_score(row.mean) + ends, *beside])
    return rows


def tuned_label(contest: Contest, method: str) -> str:
    """The settings that were tuned of a method, as one would type the ends of their names."""
    return settings_label({key: _three_digits(value) for key, value in contest.settings.get(method, {}).items()})


def _three_digits(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def titles(contest: Contest, columns: Sequence[str]) -> list[str]:
    """The heads of the table."""
    return ["rank", "method", *map(column_title, (contest.objective, *columns))]


def contest_markdown(contest: Contest) -> str:
    """comparison.md."""
    heads = [*titles(contest, contest.columns), "seeds", "tuned"]
    further = {row.method: [str(len(row.values)), tuned_label(contest, row.method)] for row in contest.rows}
    rows = [[*cells, *further[cells[1]]] for cells in table_rows(contest, contest.columns)]
    lines = [
        f"# Comparison by {contest.objective}",
        "",
        f"{contest.budget}.",
        *(f"\n{words[:1].upper()}{words[1:]}." for words in contest.protocol),
        "",
        "| " + " | ".join(heads) + " |",
        "| ---: | --- |" + " ---: |" * (len(heads) - 3) + " --- |",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
        "",
        HOW_TO_READ,
        "",
        "![ranks](plots/ranks.png)",
    ]
    return "\n".join(lines) + "\n"


def print_contest(contest: Contest) -> None:
    """The table on a terminal, and what was tuned."""
    columns = [name for name in (FORGOTTEN, KEPT, RECOVERED) if name in contest.columns]
    table = Table(title=f"who is ahead by {escape(contest.objective)}", title_justify="left", box=SIMPLE_HEAD)
    for number, title in enumerate(titles(contest, columns)):
        table.add_column(escape(title), justify="left" if number == 1 else "right", no_wrap=number == 1)
    for cells in table_rows(contest, columns):
        table.add_row(*map(escape, cells))
    console.print(table)
    for row in contest.rows:
        if label := tuned_label(contest, row.method):
            console.print(f"  {escape(row.method)}: {escape(label)}", soft_wrap=True)
    console.print(f"  [dim]{escape(HOW_TO_READ)}[/]", soft_wrap=True)


def draw_ranks(contest: Contest) -> Figure:
    """The score of every method with its interval, the best on top."""
    figure, grid = new_figure(width=1.4 * WIDE, height=1.0 + 0.35 * len(contest.rows))
    axes = grid[0, 0]
    for place, row in enumerate(contest.rows):
        if row.interval:
            axes.plot(row.interval, [place, place], color=INK, linewidth=2, alpha=0.4)
        axes.plot(row.values, [place] * len(row.values), "|", color=INK, alpha=0.6)
        axes.plot(row.mean, place, "o", color=INK)
    axes.set_yticks(range(len(contest.rows)), [f"{row.rank}  {row.method}" for row in contest.rows])
    axes.invert_yaxis()
    axes.set_xlabel(contest.objective)
    return figure
