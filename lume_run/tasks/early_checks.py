"""Faults of rows that are at hand, told before what takes seconds to import is asked about a model's folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lume_run.common.errors import Problem, ProblemsError, RunError
from lume_run.config.settings import Task

LIBRARY_OF_MODELS = "transformers"
CUSTOM_SOURCES = ("forget", "retain", "holdout")  # names in its settings


def early_row_problems(task: Task, data: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the rows of files, where they are not read later as soon.

    Rows of the hub are not asked for here, and none once the library of models is imported: the run reads them anyway.
    Texts are cut without a tokenizer, so that what has no room in the model is seen later.
    """
    if LIBRARY_OF_MODELS in sys.modules or not _are_files(data):
        return
    try:
        with suppress(RunError):  # which the run meets again
            task.load(int(data["seed"]))
    except ProblemsError as error:
        yield from error.problems


def _are_files(data: Mapping[str, Any]) -> bool:
    """Whether all that the task reads is a folder or files here."""
    task = data["task"]
    if "data_dir" in task:
        return task["data_dir"] is not None
    sides = [task[side] for side in CUSTOM_SOURCES if task.get(side)]
    places = [place for side in sides for place in (side if isinstance(side, list) else [side])]
    return bool(places) and all(Path(place).exists() for place in places)
