"""What requests did, as a section of report.md and as lines on a terminal."""

from __future__ import annotations

from lume_run.evaluation.catalogue import definition_of
from lume_run.report.attacks import SHOWN_DETAIL, cell
from lume_run.report.results import OVER_TASKS, is_of_one_task, patterns_of
from lume_run.report.sequence.scores import WHAT_IS_KEPT, SequenceResults, cells_of, is_of_forgetting
from lume_run.report.tables import format_score, table_head, table_row

SCORES_TOLD = 4  # on a terminal
CURVES = ("current", "earlier", "to_come")


def has_small_detail(name: str) -> bool:
    """Whether a score is a headline or a part of one."""
    definition = definition_of(name)
    return definition is not None and definition.detail <= SHOWN_DETAIL


def shown_names(results: SequenceResults, *, forgetting: bool) -> list[str]:
    """Scores of each request's documents, or of what is to be kept, that have a number after the last request."""
    patterns = patterns_of(results.scores)
    repeated = OVER_TASKS if is_of_one_task(patterns) else ()
    last = (results.count, 1 if forgetting else WHAT_IS_KEPT)
    return [
        name
        for name, pattern in patterns.items()
        if pattern not in repeated
        and has_small_detail(name)
        and is_of_forgetting(name) is forgetting
        and results.value(name, *last) is not None
    ]


def sequence_section(results: SequenceResults | None, *, plotted: bool = False) -> str:
    """The section of report.md: each score of each request's documents over time, what is kept, means over requests.

    `plotted`: requests.png stands beside it.
    """
    if results is None:
        return ""
    lines = ["", "## Requests", "", f"{results.count} requests; before the first of them the target."]
    lines += ["", "![scores over requests](requests.png)"] if plotted else []
    titles = ["after request", *(f"documents of {number}" for number in range(1, results.count + 1)), *CURVES]
    for name in shown_names(results, forgetting=True):
        lines += ["", f"`{name}`", "", *table_head(titles, text=1)]
        lines += [_row(results, name, done) for done in range(results.count + 1)]
    if kept := shown_names(results, forgetting=False):
        lines += ["", "What is to be kept", "", *table_head(["after request", *kept], text=1)]
        for done in range(results.count + 1):
            lines.append(
                table_row([str(done), *(cell(results.scores[name].get((done, WHAT_IS_KEPT))) for name in kept)])
            )
    lines += ["", "Over all requests", "", *table_head(["score", "value"], text=1)]
    names = {*shown_names(results, forgetting=True), *shown_names(results, forgetting=False)}
    shown = (score for name, score in results.summary.items() if summarised_score(name) in names)
    lines += [table_row([score.name, cell(score)]) for score in shown]
    return "\n".join([*lines, ""])


def summarised_score(name: str) -> str:
    """The score that a summary is about: `sequence.forget.knowledge.earlier`."""
    return name.removeprefix("sequence.").rpartition(".")[0]


def _row(results: SequenceResults, name: str, done: int) -> str:
    documents = [cell(results.scores[name].get((done, number))) for number in range(1, results.count + 1)]
    means = [results.mean(name, cells_of(kind, results.count, done)) for kind in CURVES]
    return table_row([str(done), *documents, *("" if value is None else format_score(value) for value in means)])


def sequence_lines(results: SequenceResults | None) -> list[str]:
    """A line for each of the first scores of forgetting: after its own request, of earlier ones, of those to come."""
    if results is None:
        return []
    lines = []
    for name in shown_names(results, forgetting=True)[:SCORES_TOLD]:
        values = {kind: results.summary.get(f"sequence.{name}.{kind}") for kind in (*CURVES, "returned")}
        told = {kind: format_score(score.value) for kind, score in values.items() if score and score.value is not None}
        words = ", ".join(f"{kind.replace('_', ' ')} {value}" for kind, value in told.items())
        lines.append(f"{results.count} requests, {name}: {words}")
    return lines
