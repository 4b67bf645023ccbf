"""What a task refuses of its files, by place."""

from __future__ import annotations

from pathlib import Path

import pytest

from lume_run.common.errors import DataError
from lume_run.config.settings import Task


def problems_by_place(task: Task, folder: Path, suffix: str) -> dict[str, list[str]]:
    """Every problem that loading a task names, by place ("forget10:3" is line 3 of that file), each with a remedy."""
    with pytest.raises(DataError) as caught:
        task.load(0)
    problems: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        assert problem.remedy, problem
        place, what = (text.replace(f"{folder}/", "").replace(suffix, "") for text in (problem.where, problem.what))
        problems.setdefault(place, []).append(what)
    return problems
