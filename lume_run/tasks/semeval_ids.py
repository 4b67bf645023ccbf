"""How LUME and SemEval-2025 Task 4 name things: task labels and row ids, read in one place by loaders and metrics."""

from __future__ import annotations

import re

from lume_run.common.records import Kind

SUBTASK_OF_LABEL = {"Task1": "novels", "Task2": "bios", "Task3": "wiki"}
KIND_OF_SUFFIX = {"sc": Kind.COMPLETION, "qa": Kind.QUESTION}
ID = re.compile(r"(?P<document>.+?)(?P<kind>sc|qa)(?P<index>\d+)")


def document_and_kind(id: str) -> tuple[str, Kind]:
    """The document an id belongs to and what it asks: `a1sc1` is a completion about `a1`.

    Raises ValueError for an id without a known suffix.
    """
    match = ID.fullmatch(id.replace('"', ""))
    if match is None:
        raise ValueError(f"the id {id!r} ends neither in sc<number> nor in qa<number>")
    return match["document"], KIND_OF_SUFFIX[match["kind"]]
