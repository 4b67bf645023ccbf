"""Rows that others published, to stand beside ours: the data file `published.yaml` and which of it fits a section."""

from __future__ import annotations

from collections.abc import Mapping
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

    `match` are config values that our runs must have for their scores to be of the same thing.
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


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Everything in the data file."""
    tables = []
    for entry in yaml.safe_load(PUBLISHED_FILE.read_text(encoding="utf-8")):
        scores = tuple(entry.pop("scores"))
        rows = tuple((name, dict(zip(scores, values, strict=True))) for name, *values in entry.pop("rows"))
        tables.append(PublishedTable(scores=scores, rows=rows, **entry))
    return tuple(tables)


def tables_for(section: Section) -> list[PublishedTable]:
    """The tables of a section's task that have a score of it."""
    config = section.runs[0].config
    return [
        table
        for table in published_tables()
        if table.task == section.task
        and all(config.get(path) == value for path, value in table.match.items())
        and not set(table.scores).isdisjoint(section.columns)
    ]
