"""Responses read back from a run's folder or from the official CSV files."""

from __future__ import annotations

import json
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lume_run.common.errors import DataError, Problem
from lume_run.common.jsonl import from_json
from lume_run.common.records import Ask, Response
from lume_run.common.text_files import utf8_lines
from lume_run.evaluation.metrics.semeval_files import responses_from_official
from lume_run.tasks.row_files import parse_json, refuse
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL, document_and_kind

RANGES = {  # of the numbers in responses
    "tokens": (0, inf),
    "token_ids": (0, inf),
    **dict.fromkeys(("logp_sum", "logps", "means", "choice_logps", "layer_logps"), (-inf, 0)),
    "variances": (0, inf),
    "gradient": (0, inf),
    "cosine": (-1, 1),
    "clean": (0, 1),
    "layer_ranks": (0, 1),
}
ROUNDING = 0.01  # by which a number may miss its range
COST = "cost.json"  # beside responses.jsonl


def read_cost(folder: Path) -> dict[str, dict[str, Any]]:
    """By ask: model runs (`prompts`), forward `passes` of batches, generated `tokens`, `seconds`; {} where unknown."""
    return read_cost_file(folder / COST)


def read_cost_file(path: Path) -> dict[str, dict[str, Any]]:
    """The costs in one file, {} where there is none."""
    cost: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return cost


def read_responses(path: Path) -> list[Response]:
    """Responses from our own jsonl, or from a folder of CSVs the official script wrote.

    Raises DataError with every bad line.
    """
    if path.is_dir():
        return responses_from_official(path)
    problems: list[Problem] = []
    responses: list[Response] = []
    for number, line in utf8_lines(path):
        if isinstance(line, Problem):
            problems.append(line)
            continue
        try:
            row = parse_json(line)
            if not isinstance(row, dict):
                raise ValueError("the line holds no JSON object")
            text = json.dumps(complete_fields(row), ensure_ascii=False, allow_nan=False)
            text.encode()  # half of a surrogate pair could be read, but not written down again
            response = from_json(Response, text)
            check_types(response)
            check_ranges(response)
            responses.append(response)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            remedy = (
                "one JSON object a line, at least: id (...sc1 or ...qa0), split, subtask (or task), expected, output; "
                "numbers that are not finite are left out"
            )
            problems.append(Problem(where=f"{path}:{number}", what=f"{type(error).__name__}: {error}", remedy=remedy))
    if problems:
        refuse(problems)
    if not responses:
        raise DataError([Problem(where=str(path), what="holds no responses", remedy="give another file")])
    return responses


def check_types(response: Response) -> None:
    """TypeError naming a field that holds something else than it should."""
    for name, types in field_types().items():
        value = getattr(response, name)
        for member in value if isinstance(value, tuple) else (value,):
            if not isinstance(member, types):
                raise TypeError(f"{name} holds {str(member)[:40]!r}, which is no {types[0].__name__}")


def check_ranges(response: Response) -> None:
    """ValueError naming a number that no model and no judge gives."""
    for name, (low, high) in RANGES.items():
        value = getattr(response, name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            if not low - ROUNDING <= number <= high + ROUNDING:
                raise ValueError(f"{name} holds {number:g}, which is not between {low:g} and {high:g}")


@cache
def field_types() -> dict[str, tuple[type, ...]]:
    """What the fields of a response, or their members, may be; a whole number will do for a number."""
    types: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(Response).items():
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not Ellipsis]
        types[name] = (*kinds, int) if float in kinds else tuple(kinds)
    return types


def complete_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """A response someone else wrote, with what follows from the rest filled in.

    `kind` and `document` follow from the id's suffix, `subtask` from a `task` label such as Task2,
    `ask` is greedy generation. Raises ValueError for an id without a known suffix.
    """
    complete = dict(fields)
    label = complete.pop("task", None)
    if label is not None:
        complete.setdefault("subtask", SUBTASK_OF_LABEL.get(label, label))
    complete.setdefault("ask", Ask.GENERATE.value)
    complete.setdefault("prompt", "")
    if "kind" not in complete or "document" not in complete:
        document, kind = document_and_kind(str(complete["id"]))
        complete.setdefault("kind", kind.value)
        complete.setdefault("document", document)
    return complete
