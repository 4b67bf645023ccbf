"""A sweep for other programs: a CSV line a run, everything as JSON, and the groups as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lume_run.common.files import replace_file
from lume_run.report.comparison.configs import format_setting
from lume_run.report.comparison.fronts import pareto_front, planes_of
from lume_run.report.comparison.published import MARK, PublishedTable, tables_for
from lume_run.report.comparison.run_folders import Collection, RunRecord
from lume_run.report.comparison.summary import RunGroup, Section, Spread
from lume_run.report.results import SUBJECTS
from lume_run.report.tables import format_score

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute
LATEX_ESCAPES = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "…": r"\ldots{}",
}


def write_csv(sections: Sequence[Section], path: Path) -> None:
    """One line a run: what it is, its scores (`before.` and `retrained.` those of the other models), its config."""
    lines = [csv_row(section, run) for section in sections for run in section.runs]
    titles = dict.fromkeys(title for line in lines for title in line)
    order = sorted(titles, key=lambda title: title.startswith("config."))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, order, restval="")
    writer.writerow({title: escape_formula(title) for title in order})
    writer.writerows({title: escape_formula(value) for title, value in line.items()} for line in lines)
    replace_file(path, text.getvalue())


def csv_row(section: Section, run: RunRecord) -> dict[str, Any]:
    """One run as a flat mapping."""
    facts = {
        "run": run.name,
        "folder": run.place,
        "state": run.state,
        "error": run.error,
        "task": run.task,
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "config_hash": run.key,
        "mmlu_gate": {True: "pass", False: "fail", None: ""}[run.gate],
    }
    others = {
        f"{SUBJECTS[subject]}.{name}": value
        for subject in ("target", "retrained")
        for name, value in run.scores.get(subject, {}).items()
    }
    config = {f"config.{path}": format_setting(value) for path, value in run.config.items()}
    return facts | dict(section.values[run.key]) | others | config


def escape_formula(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets a quote before it; numbers stay."""
    is_formula = isinstance(value, str) and value.startswith(FORMULA_STARTS) and not _parses_as_number(value)
    return f"'{value}" if is_formula else value


def _parses_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def comparison_json(collection: Collection, sections: Sequence[Section]) -> dict[str, Any]:
    """Everything but prompts and curves, as strict JSON."""
    return {
        "sections": [_section_json(section) for section in sections],
        "runs": [
            asdict(run) | {"folder": run.place, "columns": dict(section.values[run.key])}
            for section in sections
            for run in section.runs
        ],
        "notes": list(collection.notes),
    }


def _section_json(section: Section) -> dict[str, Any]:
    basis = section.basis
    return {
        "title": section.title,
        "task": section.task,
        "model": section.model,
        "sorted_by": section.sort,
        "forgotten_from": list(basis.forget) if basis else [],
        "kept_from": list(basis.retain) if basis else [],
        "references": {subject: dict(scores) for subject, scores in section.references.items()},
        "groups": [_group_json(section, place, group) for place, group in enumerate(section.groups)],
        "fronts": {
            plane.name: {
                "x": plane.x,
                "y": plane.y,
                "groups": [section.groups[place].label for place in pareto_front(section, plane)],
            }
            for plane in planes_of(section)
        },
        "published": [_published_json(table) for table in tables_for(section)],
    }


def _group_json(section: Section, place: int, group: RunGroup) -> dict[str, Any]:
    return {
        "label": group.label,
        "method": group.method,
        "varied": dict(group.varied),
        "reference": group.is_reference,
        "below_mmlu_gate": group.below_gate,
        "runs": [run.key for run in group.runs],
        "values": {name: asdict(spread) for name, spread in group.values.items()},
        "best_in": [name for name, places in section.best.items() if place in places],
    }


def _published_json(table: PublishedTable) -> dict[str, Any]:
    rows = [{"name": name, "values": dict(values)} for name, values in table.rows]
    facts = {"title": table.title, "mark": MARK, "source": table.source, "how": table.how}
    return facts | {"attacks": list(table.attacks), "rows": rows}


def write_strict_json(data: Any, path: Path) -> None:
    """Strict JSON, indented."""
    replace_file(path, json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1))


# -------------------------------------------------------------------------------------------------------- LaTeX


def latex_tables(sections: Sequence[Section], columns: Sequence[Sequence[str]]) -> str:
    """A table a section with mean ± standard deviation over seeds, the best in bold; `columns` of each section."""
    parts = ["% \\usepackage{booktabs}"]
    parts += [_latex_table(section, names) for section, names in zip(sections, columns, strict=True) if names]
    return "\n\n".join(parts) + "\n"


def _latex_table(section: Section, names: Sequence[str]) -> str:
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_latex(section.title)}: mean $\pm$ standard deviation over $n$ seeds; best in bold.}}",
        rf"\begin{{tabular}}{{lr{'r' * len(names)}}}",
        r"\toprule",
        " & ".join(["method", "$n$", *(escape_latex(name) for name in names)]) + r" \\",
        r"\midrule",
    ]
    lines += [_latex_row(section, place, group, names) for place, group in enumerate(section.groups)]
    for subject, title in (("target", "before"), ("retrained", "retrained")):
        if subject in section.references:
            values = [section.references[subject].get(name) for name in names]
            cells = ["" if value is None else format_mean(value) for value in values]
            lines.append(" & ".join([rf"\textit{{{title}}}", "", *map(escape_latex, cells)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _latex_row(section: Section, place: int, group: RunGroup, names: Sequence[str]) -> str:
    cells = []
    for name in names:
        text = escape_latex(format_spread(group.values.get(name)))
        cells.append(rf"\textbf{{{text}}}" if place in section.best.get(name, ()) else text)
    label = rf"\textit{{{escape_latex(group.label)}}}" if group.is_reference else escape_latex(group.label)
    return " & ".join([label, str(len(group.runs)), *cells]) + r" \\"


def format_spread(spread: Spread | None) -> str:
    """`0.912 ± 0.013`; of one seed the value alone."""
    if spread is None:
        return ""
    return format_mean(spread.mean) + ("" if spread.deviation is None else f" ± {format_mean(spread.deviation)}")


def format_mean(value: float) -> str:
    """A number as reports show it; one that would be shown as 0 by its power of ten, as p-values need."""
    return f"{value:.0e}" if 0 < abs(value) < 5e-4 else format_score(value)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX_ESCAPES.get(mark, mark) for mark in text if mark.isprintable())
