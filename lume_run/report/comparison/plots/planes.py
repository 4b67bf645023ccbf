"""Plots of forgetting against retention: groups as marks, their Pareto front, references, published models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lume_run.evaluation.definitions import Wanted
from lume_run.report.comparison.columns import column_direction
from lume_run.report.comparison.fronts import Plane, pareto_front
from lume_run.report.comparison.plots.style import (
    FAINT,
    INK,
    MOST_CURVES,
    MOST_METHODS,
    Look,
    assign_looks,
    format_log_ticks,
    legend_label,
    new_figure,
)
from lume_run.report.comparison.published import tables_for
from lume_run.report.comparison.summary import RunGroup, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MOST_NAMED = 12  # published models that are named in a plot
LEAST_SPAN = 0.1  # of an axis, so that noise does not fill it
UNRANKED = Look(FAINT, "o")  # of methods that are references
Points = dict[int, tuple[float, float]]  # where the groups lie, by their position


class PublishedPoint(NamedTuple):
    """A published model in a plane."""

    name: str
    x: float
    y: float


def methods_of(section: Section) -> list[str]:
    """The methods of a section, always in the same order."""
    return sorted({group.method for group in section.groups if not group.is_reference})


def published_points(section: Section, plane: Plane) -> list[PublishedPoint]:
    """Published models that were scored by both scores of a plane."""
    return [
        PublishedPoint(name, values[plane.x], values[plane.y])
        for table in tables_for(section)
        if not table.attacks
        for name, values in table.rows
        if plane.x in values and plane.y in values
    ]


def draw_plane(section: Section, plane: Plane, number: int) -> Figure:
    """Groups in a plane, their front, the references and what others published; `number` of the section."""
    figure, grid = new_figure()
    axes, looks = grid[0, 0], assign_looks(methods_of(section))
    floor = float("-inf") if plane.floor is None else plane.floor
    draw_published(axes, section, plane, floor)
    points: Points = {}
    for place, group in enumerate(section.groups):
        x, y = group.mean(plane.x), group.mean(plane.y)
        if x is not None and y is not None:
            points[place] = (x, max(y, floor))
            mark_group(axes, group, plane, points[place], looks.get(group.method, UNRANKED), f"#group={number}.{place}")
    front = pareto_front(section, plane)
    if len(front) > 1:
        line = zip(*(points[place] for place in front), strict=True)
        axes.plot(*line, color=INK, linewidth=1.1, linestyle="--", zorder=2)
    for subject, marker, size in (("target", "s", 7), ("retrained", "*", 13)):
        scores = section.references.get(subject, {})
        if plane.x in scores and plane.y in scores:
            point = (scores[plane.x], max(scores[plane.y], floor))
            axes.plot(*point, marker=marker, color=INK, markersize=size, zorder=4)
    set_axes(axes, plane)
    label_front(axes, section, front, points)
    add_legend(figure, section, plane, looks)
    return figure


def set_axes(axes: Axes, plane: Plane) -> None:
    """Labels and scales; better is up."""
    axes.set_xlabel(plane.x_label)
    axes.set_ylabel(plane.y_label)
    axes.margins(0.07)
    widen(axes.xaxis)
    if plane.floor is None:
        widen(axes.yaxis)
    else:
        axes.set_yscale("log")
        format_log_ticks(axes.yaxis)
    if column_direction(plane.y) is Wanted.LOWER:
        axes.invert_yaxis()


def widen(axis: Axis) -> None:
    """At least `LEAST_SPAN` between the ends of an axis."""
    low, high = axis.get_view_interval()
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        axis.set_view_interval(middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2, ignore=True)


def draw_published(axes: Axes, section: Section, plane: Plane, floor: float) -> None:
    """Crosses of what others published, named where they are few."""
    points = published_points(section, plane)
    for name, x, y in points:
        axes.plot(x, max(y, floor), marker="x", color=FAINT, linestyle="none", markersize=5, zorder=1)
        if len(points) <= MOST_NAMED:
            place = (x, max(y, floor))
            axes.annotate(name, place, xytext=(4, 3), textcoords="offset points", fontsize=7, color=FAINT)


def mark_group(axes: Axes, group: RunGroup, plane: Plane, point: tuple[float, float], look: Look, link: str) -> None:
    """One group as a linked mark with bars; hollow where it may not win."""
    x_bar, y_bar = (group.values[name].deviation or 0.0 for name in (plane.x, plane.y))
    if x_bar or y_bar:
        axes.errorbar(*point, xerr=x_bar, yerr=y_bar, color=look.colour, alpha=0.45, linewidth=1, zorder=2)
    face = look.colour if group.may_win else "none"
    mark = axes.scatter(*point, marker=look.shape, s=34, facecolors=face, edgecolors=look.colour, zorder=3)
    mark.set_urls([link])


def label_front(axes: Axes, section: Section, front: Sequence[int], points: Points) -> None:
    """The names of the front's members, where they are few enough to be read; on the side with more room."""
    low, high = sorted(axes.get_xlim())
    for turn, place in enumerate(front if len(front) <= MOST_CURVES else ()):
        right = points[place][0] < (low + high) / 2
        axes.annotate(
            legend_label(section.groups[place].method),
            points[place],
            xytext=(6 if right else -6, -12 if turn % 2 else 6),
            textcoords="offset points",
            ha="left" if right else "right",
            fontsize=9,
            color=INK,
        )


def add_legend(figure: Figure, section: Section, plane: Plane, looks: Mapping[str, Look]) -> None:
    """Methods by colour and shape, and the marks that are not groups."""
    from matplotlib.lines import Line2D

    def mark(label: str, colour: str, marker: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, linestyle="none", label=legend_label(label), markersize=6)

    handles = [mark(method, *look) for method, look in looks.items()][:MOST_METHODS]
    handles += [mark("retrained", INK, "*")] if "retrained" in section.references else []
    handles += [mark("before", INK, "s")] if "target" in section.references else []
    handles += [mark("published", FAINT, "x")] if published_points(section, plane) else []
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.0, handletextpad=0.3)
