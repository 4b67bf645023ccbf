"""Plots of a sweep that are lines: training curves, and a score by one setting that was varied."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from lume_run.report.comparison.columns import badness
from lume_run.report.comparison.configs import settings_label
from lume_run.report.comparison.curves import training_curves
from lume_run.report.comparison.plots.style import (
    MOST_CURVES,
    TALL,
    assign_looks,
    format_log_ticks,
    legend_label,
    new_figure,
)
from lume_run.report.comparison.summary import Section, Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 80  # points of a curve
LARGE_LOSS = 20.0  # nats from which on a logarithmic scale shows more
Curves = dict[str, list[list[float]]]


class EffectLine(NamedTuple):
    """A score by the values of one setting, all else alike."""

    label: str
    points: list[tuple[float, Spread]]


def curves_of(section: Section) -> list[tuple[str, Curves]]:
    """The curves of the best group of each method, of its first seed that has any."""
    by_method = []
    for method in dict.fromkeys(group.method for group in section.groups):
        group = next(group for group in section.groups if group.method == method)
        curves = next((curves for run in group.runs if (curves := training_curves(run, STEPS))), None)
        if curves and ("forget_nll" in curves or "retain_nll" in curves):
            by_method.append((method, curves))
    return by_method[:MOST_CURVES]


def draw_curves(by_method: Sequence[tuple[str, Curves]]) -> Figure:
    """Forget and retain loss by step; logarithmic where some method drives it very high."""
    figure, grid = new_figure(1, 2, height=0.85 * TALL)
    looks = assign_looks(sorted(method for method, _ in by_method))
    for axes, name in zip(grid[0], ("forget", "retain"), strict=True):
        for method, curves in by_method:
            points = curves.get(f"{name}_nll", [])
            axes.plot([x for x, _ in points], [y for _, y in points], color=looks[method].colour, linewidth=1.5)
        losses = [loss for _, curves in by_method for _, loss in curves.get(f"{name}_nll", [])]
        if max(losses, default=0.0) > LARGE_LOSS:
            axes.set_yscale("symlog", linthresh=1.0)
            format_log_ticks(axes.yaxis)
        axes.set_title(f"{name} answers", fontsize=10)
        axes.set_xlabel("optimizer step")
    grid[0, 0].set_ylabel("loss per token [nats]")
    handles = [grid[0, 0].plot([], [], color=looks[method].colour, linewidth=1.5)[0] for method, _ in by_method]
    labels = [legend_label(method) for method, _ in by_method]
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


# ------------------------------------------------------------------------------------------------------- settings


def setting_effects(section: Section) -> dict[str, list[EffectLine]]:
    """For each numeric setting that was varied the groups that agree in all else, as lines of two points or more."""
    numeric = dict.fromkeys(
        path
        for group in section.groups
        for path, value in group.varied.items()
        if is_number(value) and not path.startswith("evaluator.")
    )
    effects = {path: effect_lines(section, path) for path in numeric}
    return {path: lines for path, lines in effects.items() if lines}


def effect_lines(section: Section, path: str) -> list[EffectLine]:
    """The lines of one setting, of each method the one that reaches the best score, and the best first."""
    lines: dict[tuple[str, str], list[tuple[float, Spread]]] = {}
    labels: dict[tuple[str, str], str] = {}
    for group in section.groups:
        value, spread = group.varied.get(path), group.values.get(section.sort)
        if is_number(value) and spread is not None:
            others = {other: setting for other, setting in group.varied.items() if other != path}
            key = (group.method, json.dumps(others, sort_keys=True))
            lines.setdefault(key, []).append((float(value), spread))
            labels[key] = f"{group.method} {settings_label(others)}".strip()
    long = {key: sorted(points, key=lambda point: point[0]) for key, points in lines.items() if len(points) > 1}
    best = sorted(long, key=lambda key: min(badness(section.sort, spread.mean) for _, spread in long[key]))
    chosen = {key[0]: key for key in reversed(best)}
    return [EffectLine(labels[key], long[key]) for key in best if chosen[key[0]] == key]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a setting can be an axis."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def draw_effect(section: Section, path: str, lines: Sequence[EffectLine]) -> Figure:
    """A score by one setting."""
    figure, grid = new_figure()
    axes, values = grid[0, 0], [x for _, points in lines for x, _ in points]
    looks = assign_looks(sorted({label for label, _ in lines[:MOST_CURVES]}))
    for label, points in lines[:MOST_CURVES]:
        bars = [spread.deviation or 0.0 for _, spread in points]
        style = {"color": looks[label].colour, "marker": looks[label].shape, "markersize": 5, "capsize": 2}
        xs, ys = [x for x, _ in points], [spread.mean for _, spread in points]
        axes.errorbar(xs, ys, yerr=bars, label=legend_label(label), **style)
    if min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
        format_log_ticks(axes.xaxis)
        ticks = sorted(set(values))
        axes.set_xticks(ticks if len(ticks) <= 6 else [10.0**n for n in powers_of_ten(values)])
    axes.set_xlabel(path)
    axes.set_ylabel(section.sort)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def powers_of_ten(values: Sequence[float]) -> range:
    """Powers of ten that hold the values."""
    return range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
