"""What is sent at the end of a run: its scores, the tables of scores and generations, and its files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lume_run.attacks.results import AttackResults
from lume_run.common.records import Ask, Kind, Response
from lume_run.report.attack_curves import attack_curves
from lume_run.report.attacks import is_shown
from lume_run.report.results import SUBJECTS, Report, direction_of, group_of
from lume_run.report.sequence.scores import WHAT_IS_KEPT, SequenceResults, cells_of
from lume_run.report.sequence.tables import CURVES, shown_names

REPORT_FILES = ("report.md", "report.json", "config.yaml", "manifest.json")


def closing_message(report: Report, responses: Mapping[str, Sequence[Response]], rows: int) -> dict[str, Any]:
    """Scores before, after and their change under flat names, as tables, and what the models wrote."""
    summary: dict[str, Any] = {
        f"{SUBJECTS[subject]}/{name.replace('.', '/')}": value
        for subject in report.subjects
        for name in report.names
        if (value := report.value(subject, name)) is not None
    }
    changes = {f"change/{name.replace('.', '/')}": report.change(name) for name in report.names}
    summary |= {name: value for name, value in changes.items() if value is not None}
    summary |= {f"seconds/{stage}": round(spent, 2) for stage, spent in report.seconds.items()}
    summary |= {"mmlu_gate": report.gate} if report.gate is not None else {}
    summary |= {"warnings": "\n".join(report.warnings)} if report.warnings else {}
    tables = {"scores": score_table(report)} | ({"generations": generation_table(responses, rows)} if rows else {})
    curves: dict[str, Any] = {}
    if report.attacks is not None:
        summary |= attack_summary(report.attacks)
        tables |= {"attacks": attack_table(report.attacks)}
        tables |= {"returned": returned_table(report.attacks, rows)} if rows else {}
        curves = {"curves": attack_series(report.attacks)}
    if report.sequence is not None:
        summary |= {name.replace(".", "/"): score.value for name, score in report.sequence.summary.items()}
        summary = {name: value for name, value in summary.items() if value is not None}
        curves = {"curves": curves.get("curves", {}) | sequence_series(report.sequence)}
    return {"summary": summary, "tables": {name: table for name, table in tables.items() if table["rows"]}, **curves}


def attack_summary(results: AttackResults) -> dict[str, Any]:
    """The worst cases under flat names, such as `attack/relearn/forget/knowledge/recovered`."""
    return {name.replace(".", "/"): score.value for name, score in results.worst.items() if score.value is not None}


def attack_series(results: AttackResults) -> dict[str, list[dict[str, Any]]]:
    """By name rows over steps: a score of the attacked model and of its control; of strengths in whole numbers."""
    series: dict[str, list[dict[str, Any]]] = {}
    for curve in attack_curves(results):
        parts = (curve.attack, re.sub(r"\W", "_", curve.series), *curve.score.split("."))
        if all(float(amount).is_integer() for amount, _, _ in curve.points):
            series["/".join(("attack", *parts))] = [
                {"step": int(amount)}
                | {
                    name: number
                    for name, number in (("attacked", attacked), ("control", control))
                    if number is not None
                }
                for amount, attacked, control in sorted(curve.points)
            ]
    return series


def sequence_series(results: SequenceResults) -> dict[str, list[dict[str, Any]]]:
    """By name rows over the requests that are done: a score of this request's documents, of earlier ones, of others."""
    series: dict[str, list[dict[str, Any]]] = {}
    times = range(results.count + 1)
    for name in shown_names(results, forgetting=True):
        means = {kind: [results.mean(name, cells_of(kind, results.count, done)) for done in times] for kind in CURVES}
        series["/".join(("sequence", *name.split(".")))] = [
            {"step": done} | {kind: value for kind in CURVES if (value := means[kind][done]) is not None}
            for done in times
        ]
    for name in shown_names(results, forgetting=False):
        values = [(done, results.value(name, done, WHAT_IS_KEPT)) for done in times]
        series["/".join(("sequence", *name.split(".")))] = [
            {"step": done, "kept": value} for done, value in values if value is not None
        ]
    return series


def attack_table(results: AttackResults) -> dict[str, Any]:
    """A row for each strength and shown score: before unlearning, after it, attacked, the control, what came back."""
    rows: list[list[Any]] = []
    for row in filter(is_shown, results.rows):
        terms = (row.target, row.before, row.after, row.control_before, row.control_after, row.recovered, row.excess)
        values = [None if term is None else term.value for term in terms]
        ends = (None, None) if row.recovered is None else (row.recovered.low, row.recovered.high)
        rows.append([row.attack, row.strength.label, row.strength.amount, row.score, *values, *ends])
    terms_of = ["target", "before", "attacked", "control_before", "control_attacked", "recovered", "excess"]
    columns = ["attack", "strength", "amount", "score", *terms_of, "recovered_low", "recovered_high"]
    return {"columns": columns, "rows": rows}


def returned_table(results: AttackResults, most: int) -> dict[str, Any]:
    """What attacks brought back, as texts, `most` of them; private facts stay in it."""
    columns = ["attack", "strength", "id", "prompt", "expected", "before unlearning", "unlearned", "attacked"]
    rows = [
        [text.attack, text.strength, text.id, text.prompt, text.expected, text.target, text.before, text.after]
        for text in results.texts[:most]
    ]
    return {"columns": columns, "rows": rows}


def score_table(report: Report) -> dict[str, Any]:
    """Every score: a column a model, the change with its 95 % interval, and why it is missing where it is."""
    columns = ["group", "score", "wanted", *(SUBJECTS[subject] for subject in report.subjects)]
    rows = []
    for name in report.names:
        values = [report.value(subject, name) for subject in report.subjects]
        ends = report.change_interval(name)
        change = [report.change(name), ends.low if ends else None, ends.high if ends else None]
        scores = [report.score(subject, name) for subject in report.subjects]
        reasons = dict.fromkeys(score.reason for score in scores if score and score.reason)
        rows.append([str(group_of(name)), name, str(direction_of(name)), *values, *change, "; ".join(reasons)])
    return {"columns": [*columns, "change", "change_low", "change_high", "reason"], "rows": rows}


def generation_table(responses: Mapping[str, Sequence[Response]], most: int) -> dict[str, Any]:
    """What each model wrote to the same prompt, `most` of them, in turn from each side; private facts stay in it."""
    subjects = [subject for subject in SUBJECTS if subject in responses]
    by_id = {subject: {response.id: response for response in _answers(responses[subject])} for subject in subjects}
    prompts = {key: response for subject in subjects for key, response in by_id[subject].items()}
    rows = []
    for key in sorted(prompts, key=_turns(prompts).__getitem__)[:most]:
        prompt = prompts[key]
        answers = [by_id[subject].get(key) for subject in subjects]
        texts = [answer.output if answer else None for answer in answers]
        rows.append([key, str(prompt.split), prompt.subtask, prompt.prompt, prompt.expected, *texts])
    titles = [SUBJECTS[subject] for subject in subjects]
    return {"columns": ["id", "side", "task", "prompt", "expected", *titles], "rows": rows}


def _answers(responses: Sequence[Response]) -> list[Response]:
    """The generated answers to questions and completions as they stand in the data."""
    return [
        response
        for response in responses
        if response.ask is Ask.GENERATE and not response.variant and response.kind in (Kind.COMPLETION, Kind.QUESTION)
    ]


def _turns(prompts: Mapping[str, Response]) -> dict[str, int]:
    """By key how many prompts of its split stand up to and with it."""
    counts: Counter[str] = Counter()
    turns = {}
    for key, response in prompts.items():
        counts[response.split] += 1
        turns[key] = counts[response.split]
    return turns


def report_files(folder: Path) -> list[Path]:
    """The report, its config and manifest, and every plot."""
    return [*(folder / name for name in REPORT_FILES if (folder / name).exists()), *sorted(folder.glob("*.png"))]
