"""Rows that others published, to stand beside ours: the data file `published.yaml` and which of it fits a section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lume_run.report.comparison.summary import Section

MARK = "published, not run here"
PUBLISHED_FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One published table; `rows` are names with values by the names our reports give the scores.

    `match` are config values that our runs must have for their scores to be of the same thing. With `attacks` the
    numbers are of models under attack, and our runs must try one of them. Columns that are no scores of ours stand
    `beside` runs that have one of these scores.
    """

    id: str
    title: str
    source: str
    how: str
    task: str
    model: str
    match: Mapping[str, Any]
    scores: tuple[str, ...]
    rows: tuple[tuple[str, Mapping[str, float]], ...]
    attacks: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def titles(self) -> list[str]:
        """The heads of its columns."""
        after = f" after {' or '.join(self.attacks)}" if self.attacks and not self.beside else ""
        return [f"{score}{after}" for score in self.scores]


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Everything in the data file."""
    tables = []
    for entry in yaml.safe_load(PUBLISHED_FILE.read_text(encoding="utf-8")):
        scores = tuple(entry.pop("scores"))
        rows = tuple((name, dict(zip(scores, values, strict=True))) for name, *values in entry.pop("rows"))
        attacks, beside = (tuple(entry.pop(name, ())) for name in ("attacks", "beside"))
        tables.append(PublishedTable(scores=scores, rows=rows, attacks=attacks, beside=beside, **entry))
    return tuple(tables)


def tables_for(section: Section) -> list[PublishedTable]:
    """The tables of a section's task that have a score of it."""
    config = section.runs[0].config
    return [
        table
        for table in published_tables()
        if table.task == section.task
        and all(config.get(path) == value for path, value in table.match.items())
        and not set(table.beside or table.scores).isdisjoint(section.columns)
        and (not table.attacks or tries_any(section, table.attacks))
    ]


def tries_any(section: Section, attacks: Sequence[str]) -> bool:
    """Whether one of these attacks is tried on a run of the section."""
    tried = tuple(f"attack.attacks.{name}." for name in attacks)
    return any(path.startswith(tried) for run in section.runs for path in run.config)
