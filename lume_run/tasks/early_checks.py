"""Rows that are at hand, whose faults are told before what takes seconds to import is asked about a model's folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lume_run.common.errors import RunError
from lume_run.common.records import TaskData
from lume_run.config.settings import Task
from lume_run.tasks.custom.task import SIDES

LIBRARY_OF_MODELS = "transformers"
EARLY_BYTES, EARLY_FILES = 2**26, 1000


def rows_at_hand(task: Task, data: Mapping[str, Any]) -> TaskData | None:
    """The rows of files, where they are not read later as soon; ProblemsError for what is wrong with them.

    Rows of the hub are not asked for here, nor large files read, and none once the library of models is imported: the
    run reads them anyway. Texts are cut without a tokenizer, so that what has no room in the model is seen later.
    """
    places = _places_of(data["task"])
    if LIBRARY_OF_MODELS in sys.modules or not places or not _are_small(places):
        return None
    with suppress(RunError):  # which the run meets again
        rows: TaskData = task.load(int(data["seed"]))
        return rows
    return None


def _places_of(task: Mapping[str, Any]) -> list[Path]:
    """The folders and files that hold all that a task reads; none where some of it is on the hub."""
    if "data_dir" in task:
        return [Path(task["data_dir"])] if task["data_dir"] is not None else []
    sides = [task[side] for side in SIDES if task.get(side)]
    places = [Path(place) for side in sides for place in (side if isinstance(side, list) else [side])]
    return places if all(place.exists() for place in places) else []


def _are_small(places: Sequence[Path]) -> bool:
    """Whether all files there are read within a second or two, and are few."""
    files = (file for place in places for file in ([place] if place.is_file() else place.rglob("*")))
    size = 0
    try:
        for number, file in enumerate(files, 1):
            size += file.stat().st_size if file.is_file() else 0
            if size > EARLY_BYTES or number > EARLY_FILES:
                return False
    except OSError:  # a folder within that may not be read, or a file that is gone
        return False
    return True
