"""The plot of scores per task: a panel a score, a line a method, a mark a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lume_run.report.comparison.columns import AGGREGATE, FORGOTTEN, KEPT, PREFERRED
from lume_run.report.comparison.plots.style import (
    COLOURS,
    MOST_CURVES,
    MOST_METHODS,
    SHAPES,
    WIDE,
    legend_label,
    new_figure,
)
from lume_run.report.comparison.summary import RunGroup, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LETTERS = 30  # of a label in one of two columns


def draw_scores(sections: Sequence[Section]) -> Figure:
    """A panel a score, a line a method, a mark a section."""
    sections = [section for section in sections if section.ranking][:MOST_CURVES]
    names, methods = choose_scores(sections), methods_by_rank(sections)
    down = (len(names) + 1) // 2
    figure, grid = new_figure(down, 2, width=1.15 * WIDE, height=1.0 + down * (0.7 + 0.24 * len(methods)))
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for place, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        draw_panel(axes, name, sections, methods)
        labels = [""] * len(methods) if place % 2 else [legend_label(method, 20) for method in methods]
        axes.set_yticks(range(len(methods)), labels)
        axes.set_ylim(len(methods) - 0.5, -0.5)
    marks = [
        grid[0, 0].plot([], [], SHAPES[place % len(SHAPES)], color=COLOURS[place], markersize=5)[0]
        for place in range(len(sections))
    ]
    labels = [legend_label(section.title, 60) for section in sections]
    columns = 2 if len(labels) > 1 and max(map(len, labels)) <= MOST_LETTERS else 1
    figure.legend(marks, labels, loc="outside lower center", ncols=columns)
    return figure


def draw_panel(axes: Axes, name: str, sections: Sequence[Section], methods: Sequence[str]) -> None:
    """One score of the best group of each method and section."""
    for place, section in enumerate(sections):
        for method, group in best_groups(section).items():
            spread = group.values.get(name)
            if spread is not None and method in methods:
                axes.errorbar(
                    spread.mean,
                    methods.index(method),
                    xerr=spread.deviation or None,
                    fmt=SHAPES[place % len(SHAPES)],
                    color=COLOURS[place],
                    markersize=5,
                )
    axes.set_title(name, fontsize=10)


def best_groups(section: Section) -> dict[str, RunGroup]:
    """The best group of each method."""
    return {group.method: group for group in reversed(section.ranking)}


def methods_by_rank(sections: Sequence[Section]) -> list[str]:
    """Methods by their mean rank over the sections."""
    ranks: dict[str, list[int]] = {}
    for section in sections:
        for rank, method in enumerate(dict.fromkeys(group.method for group in section.ranking)):
            ranks.setdefault(method, []).append(rank)
    return sorted(ranks, key=lambda method: sum(ranks[method]) / len(ranks[method]))[:MOST_METHODS]


def choose_scores(sections: Sequence[Section]) -> list[str]:
    """Up to four scores: those that sections are sorted by first, then those preferred."""
    preferred = [*(section.sort for section in sections), AGGREGATE, FORGOTTEN, KEPT, *PREFERRED]
    present = {name for section in sections for name in section.columns if not name.startswith("cost.")}
    return [name for name in dict.fromkeys(preferred) if name in present][:4]
