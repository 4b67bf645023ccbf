"""The logit lens in report.md: a line a layer, a column for each model and side, in place of a line for each score."""

from __future__ import annotations

from lume_run.evaluation.inside.logit_lens import LAYER_SCORE, LENS_METRICS, LENS_SPLITS
from lume_run.report.results import SUBJECTS, Report
from lume_run.report.tables import format_score, table_head, table_row


def layer_section(report: Report) -> str:
    """The section of report.md, empty where no layer was read."""
    numbers = {int(match[2]) for name in report.names if (match := LAYER_SCORE.fullmatch(name))}
    if not numbers:
        return ""
    columns = [(side, subject) for side in LENS_SPLITS for subject in report.subjects]
    titles = ["layer", *(f"{side}, {SUBJECTS[subject]}" for side, subject in columns)]
    lines = [
        "",
        "## Logit lens",
        "",
        "Probability of answer tokens (their mean reciprocal rank), by layer:",
        "",
    ]
    lines += table_head(titles, text=1)
    for number in sorted(numbers):
        cells = (layer_cell(report, subject, f"logit_lens.{side}.layer_{number}") for side, subject in columns)
        lines.append(table_row([str(number), *cells]))
    return "\n".join([*lines, ""])


def layer_cell(report: Report, subject: str, layer: str) -> str:
    """Probability and reciprocal rank of a model at a layer; empty where it was not asked."""
    values = [report.value(subject, f"{layer}.{metric}") for metric in LENS_METRICS]
    return "" if values == [None, None] else f"{format_score(values[0])} ({format_score(values[1])})"
