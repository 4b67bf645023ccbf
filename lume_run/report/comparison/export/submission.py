"""`lume-run-report --submission`: finished runs as the files that a leaderboard takes, or why they cannot be."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lume_run.common.errors import Problem, ProblemsError
from lume_run.common.files import replace_file
from lume_run.evaluation.metrics.semeval_files import write_official_files
from lume_run.evaluation.saved_responses import read_responses
from lume_run.report.comparison.export.leaderboards import LEADERBOARDS, Leaderboard
from lume_run.report.comparison.export.tables import escape_formula
from lume_run.report.comparison.run_folders import Collection, RunRecord, printable_path
from lume_run.report.comparison.untrusted import as_mapping, clean_text, read_json_if_sound

OFFICIAL_FILE = "evaluation_results.jsonl"
TERMS = "aggregated-terms"
ALL_TERMS = 12  # three tasks, two kinds of row, two sides
AGAIN = "the same command again with {}: models are taken from the store, nothing is trained anew"


class SubmissionError(ProblemsError):
    """Runs that a leaderboard would not take."""

    headline = "This cannot be submitted"


def write_submission(
    board: Leaderboard, collection: Collection, out: Path, console: Console, *, title: str = "", submitted_by: str = ""
) -> list[Path]:
    """Write the files of a leaderboard into `out`, and say which. SubmissionError with everything that is missing.

    `title` is the method's name there; of several runs, and without one, it is the method's or the run's.
    """
    runs = collection.runs
    problems = [*_of_the_whole(board, runs, title, submitted_by)]
    problems += [problem for run in runs for problem in run_problems(board, run)]
    if problems:
        raise SubmissionError(problems)
    if board is LEADERBOARDS["semeval"]:
        paths = _write_official(runs[0], out)
    else:
        names = [title] if title else _names_of(runs)
        rows = [_board_row(board, run, name, submitted_by) for run, name in zip(runs, names, strict=True)]
        paths = _write_rows(board, runs, rows, out)
    for path in paths:
        console.print(f"  {escape(str(path))}", soft_wrap=True)
    console.print(f"  {board.note}", soft_wrap=True)
    for run in runs:
        for warning in _warnings(run):
            console.print(f"  [yellow]{escape(f'{run.name}: {warning}')}[/]", soft_wrap=True)
    return paths


def _warnings(run: RunRecord) -> Iterator[str]:
    if run.state == "diverged":
        yield f"{run.error}; scored with its last good weights"
    if run.gate is False:
        yield f"below the gate, for which it would not be ranked: {run.gate_rule}"


def _of_the_whole(board: Leaderboard, runs: Sequence[RunRecord], title: str, submitted_by: str) -> Iterator[Problem]:
    if len(runs) > 1 and not board.several:
        remedy = f"give one run folder: {', '.join(run.place for run in runs[:5])}"
        yield Problem(where="folders", what=f"hold {len(runs)} runs, and a submission is of one", remedy=remedy)
    if len(runs) > 1 and title:
        yield Problem(where="--title", what=f"is one name for {len(runs)} runs", remedy="leave it out, or give one run")
    if board is LEADERBOARDS["tofu"] and not submitted_by:
        yield Problem(where="--submitted-by", what="is a column of TOFU's leaderboard", remedy="--submitted-by NAME")


def run_problems(board: Leaderboard, run: RunRecord) -> Iterator[Problem]:
    """Everything for which the leaderboard would not take a run, or not as what it is."""
    if run.state in ("failed", "unfinished"):
        yield Problem(where=run.place, what=f"is {run.state}", remedy="the same command again takes it up")
        return
    if run.task not in board.tasks:
        tasks = " or ".join(f"task={task}" for task in board.tasks)
        yield Problem(where=run.place, what=f"is of task={run.task}", remedy=f"{board.name} takes runs of {tasks}")
        return
    report = as_mapping(read_json_if_sound(run.folder / "report.json"))
    missing = list(_absent_scores(board, run, as_mapping(report.get("reasons"))))
    yield from missing
    if not missing:
        yield from _other_settings(board, run)
    if board is LEADERBOARDS["semeval"] and run.config.get("evaluator.strict") is True:
        yield from _official_problems(run, official_result(report, run))


def _absent_scores(board: Leaderboard, run: RunRecord, reasons: Mapping[str, Any]) -> Iterator[Problem]:
    scores = run.scores.get(run.subject, {})
    for column in board.columns:
        if column.score not in scores:
            reason = reasons.get(f"{run.subject}.{column.score}")
            what = f"has no {column.score}, for {column.title}" + (f": {clean_text(reason)}" if reason else "")
            yield Problem(where=run.place, what=what, remedy=AGAIN.format(board.evaluator))


def _other_settings(board: Leaderboard, run: RunRecord) -> Iterator[Problem]:
    for path, value in board.settings(run.config).items():
        if (actual := run.config.get(path)) != value:
            wanted = f"{path}={json.dumps(value).strip(chr(34))}"
            what = f"has {path}={actual}, and a submission {wanted}"
            words = board.evaluator if wanted in board.evaluator else f"{board.evaluator} {wanted}"
            remedy = f"a run with {wanted}" if path.startswith("task.") else AGAIN.format(words)
            yield Problem(where=run.place, what=what, remedy=remedy)


def official_result(report: Mapping[str, Any], run: RunRecord) -> dict[str, Any]:
    """The official script's own result of the run's model, its NaN restored; empty where there is none."""
    return as_mapping(_with_nan(as_mapping(report.get("official")).get(run.subject)))


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return float("nan") if value == "NaN" else value


def _official_problems(run: RunRecord, official: Mapping[str, Any]) -> Iterator[Problem]:
    terms = official.get(TERMS)
    if not isinstance(terms, list):
        reason = f": {clean_text(official['reason'])}" if "reason" in official else ""
        what = f"has no result of the official script{reason}"
        yield Problem(where=run.place, what=what, remedy=AGAIN.format(LEADERBOARDS["semeval"].evaluator))
        return
    if len(terms) != ALL_TERMS or any(term != term for term in terms):
        numbers = sum(term == term for term in terms)
        remedy = "the score is of completions and questions of all three tasks: task=lume with all its rows"
        yield Problem(where=run.place, what=f"has {numbers} of the {ALL_TERMS} terms of the score", remedy=remedy)
    if "mmlu_average" not in official:
        remedy = AGAIN.format("evaluator.mmlu.data_dir=FOLDER, or evaluator.mmlu.accuracy=NUMBER")
        yield Problem(where=run.place, what="has no mmlu_average", remedy=remedy)
    if "mia_loss_acc" not in official:
        remedy = AGAIN.format("evaluator.membership=true")
        yield Problem(where=run.place, what="has no mia_loss_acc", remedy=remedy)
    if not responses_of(run).is_file():
        remedy = "copy it from where the run was made, or the same command again"
        yield Problem(where=printable_path(responses_of(run)), what="is not there", remedy=remedy)


def responses_of(run: RunRecord) -> Path:
    """The file of what the run's model answered."""
    return run.folder / f"responses.{run.subject}.jsonl"


def _names_of(runs: Sequence[RunRecord]) -> list[str]:
    """The methods' names, of those that several runs have the runs' own."""
    counts = Counter(run.method for run in runs)
    return [run.method if counts[run.method] == 1 else run.name for run in runs]


def _board_row(board: Leaderboard, run: RunRecord, name: str, submitted_by: str) -> dict[str, Any]:
    scores = run.scores[run.subject]
    values = {column.title: scores[column.score] * column.factor for column in board.columns}
    if board.several:
        return {"name": escape_formula(name)} | values
    return values | {"Method": escape_formula(name), "Submitted By": escape_formula(submitted_by)}


def _write_rows(
    board: Leaderboard, runs: Sequence[RunRecord], rows: Sequence[Mapping[str, Any]], out: Path
) -> list[Path]:
    """A CSV a corpus or split, with the line ends of the benchmark's own program."""
    by_file: dict[Path, list[Mapping[str, Any]]] = {}
    for run, row in zip(runs, rows, strict=True):
        part = run.config.get("task.corpus" if board.several else "task.split")
        by_file.setdefault(out / f"{board.name}_{Path(str(part)).name}.csv", []).append(row)
    out.mkdir(parents=True, exist_ok=True)
    for path, lines in by_file.items():
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n" if board.several else "\r\n")
        writer.writeheader()
        writer.writerows(lines)
        replace_file(path, text.getvalue())
    return list(by_file)


def _write_official(run: RunRecord, out: Path) -> list[Path]:
    """The official script's result, and the files it was computed from."""
    responses = read_responses(responses_of(run))
    result = official_result(as_mapping(read_json_if_sound(run.folder / "report.json")), run)
    out.mkdir(parents=True, exist_ok=True)
    paths = write_official_files(responses, out)
    replace_file(out / OFFICIAL_FILE, json.dumps(result))
    return [out / OFFICIAL_FILE, *paths]
