"""Plots of a sweep that are lines: training curves, and a score by one setting that was varied."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from lume_run.report.comparison.plots.style import (
    MOST_CURVES,
    TALL,
    assign_looks,
    format_log_ticks,
    legend_label,
    new_figure,
)
from lume_run.report.comparison.run_folders import training_curves
from lume_run.report.comparison.summary import Section, Spread, badness, settings_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 80  # points of a curve
BENT = 20.0  # nats from which on a logarithmic scale shows more
Curves = dict[str, list[list[float]]]
Line = tuple[str, list[tuple[float, Spread]]]  # label, points by the setting's value


def curves_of(section: Section) -> list[tuple[str, Curves]]:
    """The curves of the best group of each method, of its first seed that has any."""
    found = []
    for method in dict.fromkeys(group.method for group in section.groups):
        group = next(group for group in section.groups if group.method == method)
        own = next((curve for run in group.runs if (curve := training_curves(run, STEPS))), None)
        if own and ("forget_nll" in own or "retain_nll" in own):
            found.append((method, own))
    return found[:MOST_CURVES]


def draw_curves(curves: Sequence[tuple[str, Curves]]) -> Figure:
    """Forget and retain loss by step; logarithmic where some method drives it very high."""
    made, grid = new_figure(1, 2, height=0.85 * TALL)
    look = assign_looks(sorted(method for method, _ in curves))
    for axes, name in zip(grid[0], ("forget", "retain"), strict=True):
        for method, own in curves:
            points = own.get(f"{name}_nll", [])
            axes.plot([x for x, _ in points], [y for _, y in points], color=look[method][0], linewidth=1.5)
        if max((y for _, own in curves for _, y in own.get(f"{name}_nll", [])), default=0.0) > BENT:
            axes.set_yscale("symlog", linthresh=1.0)
            format_log_ticks(axes.yaxis)
        axes.set_title(f"{name} answers", fontsize=10)
        axes.set_xlabel("optimizer step")
    grid[0, 0].set_ylabel("loss per token [nats]")
    handles = [grid[0, 0].plot([], [], color=look[method][0], linewidth=1.5)[0] for method, _ in curves]
    made.legend(handles, [legend_label(method) for method, _ in curves], loc="outside lower center", ncols=4)
    return made


# ------------------------------------------------------------------------------------------------------- settings


def setting_effects(section: Section) -> dict[str, list[Line]]:
    """For each numeric setting that was varied the groups that agree in all else, as lines of two points or more."""
    numeric = dict.fromkeys(
        path
        for group in section.groups
        for path, value in group.varied.items()
        if is_number(value) and not path.startswith("evaluator.")
    )
    found = {path: effect_lines(section, path) for path in numeric}
    return {path: lines for path, lines in found.items() if lines}


def effect_lines(section: Section, path: str) -> list[Line]:
    """The lines of one setting, of each method the one that reaches the best score, and the best first."""
    lines: dict[tuple[str, str], list[tuple[float, Spread]]] = {}
    labels: dict[tuple[str, str], str] = {}
    for group in section.groups:
        value, score = group.varied.get(path), group.values.get(section.sort)
        if is_number(value) and score is not None:
            others = {other: own for other, own in group.varied.items() if other != path}
            key = (group.method, json.dumps(others, sort_keys=True))
            lines.setdefault(key, []).append((float(value), score))
            labels[key] = f"{group.method} {settings_label(others)}".strip()
    long = {key: sorted(points, key=lambda point: point[0]) for key, points in lines.items() if len(points) > 1}
    best = sorted(long, key=lambda key: min(badness(section.sort, own.mean) for _, own in long[key]))
    chosen = {key[0]: key for key in reversed(best)}
    return [(labels[key], long[key]) for key in best if chosen[key[0]] == key]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a setting can be an axis."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def draw_effect(section: Section, path: str, lines: Sequence[Line]) -> Figure:
    """A score by one setting."""
    made, grid = new_figure()
    axes, values = grid[0, 0], [x for _, points in lines for x, _ in points]
    look = assign_looks(sorted({label for label, _ in lines[:MOST_CURVES]}))
    for label, points in lines[:MOST_CURVES]:
        bars = [own.deviation or 0.0 for _, own in points]
        colour, shape = look[label]
        xs, ys = [x for x, _ in points], [own.mean for _, own in points]
        axes.errorbar(xs, ys, yerr=bars, color=colour, marker=shape, markersize=5, capsize=2, label=legend_label(label))
    if min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
        format_log_ticks(axes.xaxis)
        ticks = sorted(set(values))
        axes.set_xticks(ticks if len(ticks) <= 6 else [10.0**n for n in powers_of_ten(values)])
    axes.set_xlabel(path)
    axes.set_ylabel(section.sort)
    made.legend(loc="outside lower center", ncols=2)
    return made


def powers_of_ten(values: Sequence[float]) -> range:
    """Powers of ten that hold the values."""
    return range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
