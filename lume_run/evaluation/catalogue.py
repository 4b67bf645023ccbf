"""The catalogue of scores: the definition behind every name in a report, and the table of docs/metrics.md.

The entries are those of `entries`; reports, plots and docs all read this one list.
`python -m lume_run.evaluation.catalogue docs/metrics.md` writes the table into the page, without a page it prints it.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lume_run.evaluation.definitions import PLACEHOLDERS, Definition, ScoreGroup, Wanted
from lume_run.evaluation.entries.scores import CATALOGUE

FORGET_SIDE = {ScoreGroup.BY_SIDE: ScoreGroup.FORGET, ScoreGroup.PRIVACY_BY_SIDE: ScoreGroup.PRIVACY}
BEGIN, END = "<!-- scores: written by python -m lume_run.evaluation.catalogue -->", "<!-- end of scores -->"
TABLE_COLUMNS = ("score", "symbol", "definition", "range", "wanted", "group", "source", "tested")
STUDY_FILE = "results-metrics.json"  # beside the page: what scripts/metrics_study.py found
Findings = Mapping[str, Mapping[str, Any]]  # by the name of a score: faithfulness, relearning (R), quantisation (Q)


@functools.cache
def definition_of(name: str) -> Definition | None:
    """What a score is, direction and group by the side or set in its name; None for one from elsewhere."""
    for definition, pattern in _patterns():
        match = pattern.fullmatch(name)
        if match:
            values = match.groupdict()
            side = values.get("side") or values.get("set")
            return definition if side is None else _resolve_side(definition, forget=side == "forget")
    return None


def _resolve_side(definition: Definition, *, forget: bool) -> Definition:
    group, wanted = definition.group, definition.wanted
    if group in FORGET_SIDE:
        group = FORGET_SIDE[group] if forget else ScoreGroup.RETAIN
    if wanted is Wanted.BY_SIDE:
        wanted = Wanted.LOWER if forget else Wanted.HIGHER
    return replace(definition, group=group, wanted=wanted)


@functools.cache
def _patterns() -> tuple[tuple[Definition, re.Pattern[str]], ...]:
    return tuple((definition, _expression(definition.pattern)) for definition in CATALOGUE)


def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression with a group for each placeholder."""
    parts = re.split(r"<(\w+)>", pattern)  # literal, placeholder, literal, ...
    expression = "".join(
        f"(?P<{part}>{'|'.join(PLACEHOLDERS.get(part, ('[^.]+',)))})" if number % 2 else re.escape(part)
        for number, part in enumerate(parts)
    )
    return re.compile(expression)


def read_findings(folder: Path) -> Findings:
    """What the study of scores found, from its file in the folder of the page; nothing where there is none."""
    file = folder / STUDY_FILE
    findings: Findings = json.loads(file.read_text(encoding="utf-8"))["findings"] if file.is_file() else {}
    return findings


def _tested(entry: Definition, findings: Findings) -> str:
    """What was found of the scores of an entry: the ROC area between models that know and models that do not, R, Q."""
    matching = [
        row for name, row in findings.items() if (known := definition_of(name)) and known.pattern == entry.pattern
    ]
    areas = sorted(row["faithfulness"]["value"] for row in matching)
    if not areas:
        return ""
    text = _span(areas)
    if len(matching) == 1:
        ends = matching[0]["faithfulness"]
        text += f" [{ends['low']:.2f}, {ends['high']:.2f}]"
    for letter, key in (("R", "relearning"), ("Q", "quantisation")):
        values = sorted(row[key]["value"] for row in matching if row[key])
        text += f", {letter} {_span(values)}" if values else ""
    return text


def _span(values: Sequence[float]) -> str:
    low, high = f"{values[0]:.2f}", f"{values[-1]:.2f}"
    return low if low == high else f"{low} to {high}"


def catalogue_table(findings: Findings | None = None) -> str:
    """All entries as a markdown table, with what the study of scores found of them."""
    lines = ["| " + " | ".join(TABLE_COLUMNS) + " |", "|" + " --- |" * len(TABLE_COLUMNS)]
    for entry in CATALOGUE:
        name, wanted = f"`{entry.pattern}`", entry.wanted or "-"
        cells = (name, entry.symbol, entry.what, _range(entry), wanted, entry.group, entry.source)
        tested = _tested(entry, findings or {})
        lines.append("| " + " | ".join((*cells, tested)) + " |")
    return "\n".join(lines)


def _range(definition: Definition) -> str:
    low, high = ("" if end is None else f"{end:g}" for end in (definition.low, definition.high))
    return f"{low} to {high}" if high else f"from {low}" if low else "any"


def with_table(page: str, findings: Findings | None = None) -> str:
    """The page with the current table between its two marks; ValueError where they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the table; write these two lines into it: {BEGIN} and {END}")
    return f"{before}{begin}\n\n{catalogue_table(findings)}\n\n{end}{after}"


def main(arguments: list[str]) -> None:
    """Write the table into the page that is named, or print it."""
    if not arguments:
        print(catalogue_table())
        return
    page = Path(arguments[0])
    text = with_table(page.read_text(encoding="utf-8"), read_findings(page.parent))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
