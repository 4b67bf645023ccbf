"""Scores of one run for people and for programs: a table, report.md and report.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lume_run.records import Score
from lume_run.store import write_json

SUBJECTS = {"model": "model", "target": "before", "unlearned": "after", "retrained": "retrained"}
BETTER_LOWER, BETTER_HIGHER, IDEAL_HALF = "lower", "higher", "0.5"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one run found out. `scores` by subject (target, unlearned, ...), then by name."""

    name: str
    scores: Mapping[str, Mapping[str, Score]]
    gate: bool | None
    gate_rule: str
    seconds: Mapping[str, float]
    manifest: Mapping[str, Any]
    source: str
    strict: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Score names in report order."""
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    def value(self, subject: str, name: str) -> float | None:
        """One score, None when it could not be computed."""
        score = self.scores.get(subject, {}).get(name)
        return score.value if score else None

    def change(self, name: str) -> float | None:
        """After minus before, where both exist."""
        before, after = self.value("target", name), self.value("unlearned", name)
        return None if before is None or after is None else after - before


def wanted(name: str) -> str:
    """Which way a score should go for good unlearning."""
    if name.startswith("mia.") and name.endswith("auc"):
        return IDEAL_HALF
    return BETTER_LOWER if name.startswith("forget.") or name.endswith(".tpr") else BETTER_HIGHER


def as_json(report: Report) -> dict[str, Any]:
    """The report as strict JSON data; `scores` is flat: `<subject>.<score name>`."""
    flat = {f"{who}.{name}": score.value for who, scores in report.scores.items() for name, score in scores.items()}
    changes = {f"change.{name}": change for name in report.names if (change := report.change(name)) is not None}
    return {
        "run": report.name,
        "config_hash": report.manifest["config_hash"],
        "seed": report.manifest["seed"],
        "versions": report.manifest["versions"],
        "source": report.source,
        "scores": flat | changes,
        "n": {f"{who}.{name}": score.n for who, scores in report.scores.items() for name, score in scores.items()},
        "reasons": {
            f"{who}.{name}": score.reason
            for who, scores in report.scores.items()
            for name, score in scores.items()
            if score.reason
        },
        "warnings": list(report.warnings),
        "training": report.manifest.get("training", {}),
        "mmlu_gate": {"passed": report.gate, "rule": report.gate_rule},
        "official": _finite(report.strict),
        "seconds": {stage: round(spent, 2) for stage, spent in report.seconds.items()},
    }


def _finite(value: Any) -> Any:
    """The official script writes NaN; strict JSON has no such thing, so it becomes the string."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return "NaN" if isinstance(value, float) and value != value else value


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def shown(report: Report) -> list[str]:
    """Names worth a line: row means over tasks are left out where there is one task only."""
    tasks = {
        name.split(".")[1] for name in report.names if name.count(".") == 2 and name.startswith(("forget", "retain"))
    }
    overall = {f"{side}.{what}" for side in ("forget", "retain") for what in ("regurgitation", "knowledge")}
    return [name for name in report.names if len(tasks) != 1 or name not in overall]


def rows(report: Report) -> Iterable[list[str]]:
    """Table cells: name, wanted, one value a subject, change."""
    for name in shown(report):
        values = [_cell(report.value(subject, name)) for subject in SUBJECTS if subject in report.scores]
        change = report.change(name)
        moved = "" if change is None else f"{change:+.3f}"
        yield [name, wanted(name), *values, *([moved] if "unlearned" in report.scores else [])]


def header(report: Report) -> list[str]:
    """Column titles of `rows`."""
    columns = [title for subject, title in SUBJECTS.items() if subject in report.scores]
    return ["score", "wanted", *columns, *(["change"] if "unlearned" in report.scores else [])]


def notes(report: Report) -> list[str]:
    """What the table does not say: the gate, missing scores, time."""
    verdict = {True: "PASS", False: "FAIL", None: "not judged"}[report.gate]
    missing: dict[str, list[str]] = {}
    for subject, scores in report.scores.items():
        for score in scores.values():
            if score.reason:
                missing.setdefault(score.reason, []).append(f"{SUBJECTS[subject]} {score.name}")
    lines = [*report.warnings, f"MMLU gate: {verdict} ({report.gate_rule})"]
    lines += [
        f"n/a: {', '.join(dict.fromkeys(name.split(' ', 1)[1] for name in names))}: {reason}"
        for reason, names in missing.items()
    ]
    lines += [told for name, own in report.manifest.get("training", {}).items() if (told := _speed(name, own))]
    if report.seconds:
        lines.append("seconds: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in report.seconds.items()))
    return lines


def _speed(name: str, outcome: Mapping[str, Any]) -> str:
    """Steps, seconds a step and peak memory of one optimisation."""
    seconds, peak = outcome["seconds_per_step"], outcome["peak_memory_bytes"]
    if seconds is None:
        return ""
    memory = f", peak memory {peak / 2**30:.2f} GiB" if peak else ""
    return f"{name}: {outcome['steps']} steps, {seconds:.3g} s each{memory}"


def print_report(report: Report, folder: Path, console: Console) -> None:
    """The closing table on the terminal, and where everything is."""
    if report.scores:
        console.print(_table(report))
    console.print(f"  data: {escape(report.source)}", soft_wrap=True)
    for line in notes(report) if report.scores else ():
        told = escape(line)
        alarming = "gate: FAIL" in line or " DIVERGED: " in line
        console.print(f"  [bold red]{told}[/]" if alarming else f"  {told}", soft_wrap=True)
    for name, path in report.manifest.get("artifacts", {}).items():
        if name in SUBJECTS:
            console.print(f"  {SUBJECTS[name]} model: {escape(path)}", soft_wrap=True)
    console.print(f"  report: {escape(str(folder / 'report.md'))}", soft_wrap=True)


def _table(report: Report) -> Table:
    table = Table(title=escape(report.name), title_justify="left")
    for number, title in enumerate(header(report)):
        table.add_column(title, justify="left" if number < 2 else "right", no_wrap=number == 0)
    for cells in rows(report):
        failed = cells[0].startswith("mmlu") and report.gate is False
        table.add_row(*cells, style="bold red" if failed else None)
    return table


def markdown(report: Report) -> str:
    """The same as report.md."""
    titles = header(report)
    lines = [f"# {report.name}", "", f"Data: {report.source}", "", "| " + " | ".join(titles) + " |"]
    lines.append("|" + " --- |" * 2 + " ---: |" * (len(titles) - 2))
    lines += ["| " + " | ".join(cells) + " |" for cells in rows(report)]
    return "\n".join([*lines, "", *(f"- {line}" for line in notes(report)), ""])


def write_report(report: Report, folder: Path, responses: Mapping[str, Path]) -> None:
    """report.json, report.md and each subject's responses into the run folder."""
    for subject, path in responses.items():
        shutil.copyfile(path, folder / f"responses.{subject}.jsonl")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    json.dumps(as_json(report), allow_nan=False)  # strict JSON or nothing
    write_json(folder / "report.json", as_json(report))
