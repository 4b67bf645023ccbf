"""The training curves of a run, read from its folder."""

from __future__ import annotations

import math

from lume_run.report.comparison.run_folders import RunRecord
from lume_run.report.comparison.untrusted import as_list, finite_number, read_json_if_sound

CURVE_NAMES = ("loss", "forget_nll", "retain_nll", "forget_loss", "retain_loss")


def training_curves(run: RunRecord, most: int) -> dict[str, list[list[float]]]:
    """Training curves of unlearning as [step, value] by name, at most `most` points each: means of neighbours."""
    history = as_list(read_json_if_sound(run.folder / "unlearned" / "history.json"))
    entries = [entry for entry in history if isinstance(entry, dict)]
    curves: dict[str, list[list[float]]] = {}
    for name in CURVE_NAMES:
        points = []
        for number, entry in enumerate(entries, 1):
            step, value = finite_number(entry.get("step", number)), finite_number(entry.get(name))
            if step is not None and value is not None:
                points.append([step, value])
        width = max(1, math.ceil(len(points) / most))
        parts = [points[start : start + width] for start in range(0, len(points), width)]
        if points:
            curves[name] = [[sum(point[axis] for point in part) / len(part) for axis in (0, 1)] for part in parts]
    return curves
