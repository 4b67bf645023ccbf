"""Records as JSON lines: one object a line, types checked when they are read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lume_run.common.files import replace_file
from lume_run.common.records import Ask, Example, Kind, Response, Score, Split

TUPLE_FIELDS = (
    *("choices", "choice_logps", "paraphrases", "perturbed", "rephrasings"),
    *("logps", "hits", "means", "variances", "token_ids", "layer_logps", "layer_ranks"),
)
Record = TypeVar("Record", Example, Response, Score)


def to_json(record: Example | Response | Score) -> str:
    """One line of strict JSON (NaN is refused), keys in field order; fields at their default and draws are left out."""
    fields = {
        field.name: getattr(record, field.name)
        for field in dataclasses.fields(record)
        if field.compare and (field.default is dataclasses.MISSING or getattr(record, field.name) != field.default)
    }
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def from_json(cls: type[Record], line: str) -> Record:
    """The record written by `to_json`; raises ValueError, KeyError or TypeError on anything else."""
    fields: dict[str, Any] = json.loads(line)
    for enum_name, enum in (("split", Split), ("kind", Kind), ("ask", Ask)):
        if enum_name in fields:
            fields[enum_name] = enum(fields[enum_name])
    for sequence in TUPLE_FIELDS:
        if sequence in fields:
            fields[sequence] = tuple(fields[sequence])
    if "further_facts" in fields:
        fields["further_facts"] = tuple((name, value) for name, value in fields["further_facts"])
    return cls(**fields)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of every non-blank line, split at newlines only.

    `str.splitlines` would also cut at U+2028, which is inside some released rows.
    """
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def write_jsonl(path: Path, records: Iterable[Example | Response | Score]) -> None:
    """Write records, one per line, replacing `path` in one step."""
    replace_file(path, "".join(to_json(record) + "\n" for record in records))


def read_jsonl(path: Path, cls: type[Record]) -> list[Record]:
    """Every record of a file written by `write_jsonl`."""
    return [from_json(cls, line) for _, line in numbered_lines(path)]
