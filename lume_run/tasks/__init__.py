"""Tasks: raw files, or a built-in generator, to `records.TaskData`; one file per benchmark.

The label map stands here because both the loaders and the metrics need it: the LUME and SemEval-2025 Task 4
releases write `Task1` to `Task3` where this project says what the documents are.
"""

from __future__ import annotations

SUBTASK_OF_LABEL = {"Task1": "novels", "Task2": "bios", "Task3": "wiki"}
