"""Plots of a sweep (matplotlib, extra `plots`): forgetting against retention, scores, curves, settings.

One figure each as PNG and SVG. Marks of groups carry links (`#group=...`) that the page follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lume_run.evaluation.definitions import Wanted
from lume_run.report.comparison.fronts import Plane, pareto_front, planes_of
from lume_run.report.comparison.plots.curves import curves_of, draw_curves, draw_effect, setting_effects
from lume_run.report.comparison.plots.style import (
    COLOURS,
    FAINT,
    INK,
    MOST_CURVES,
    SHAPES,
    WIDE,
    assign_looks,
    format_log_ticks,
    legend_label,
    new_figure,
)
from lume_run.report.comparison.published import tables_for
from lume_run.report.comparison.summary import (
    AGGREGATE,
    FORGOTTEN,
    KEPT,
    PREFERRED,
    Section,
    Spread,
    column_direction,
    may_win,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MOST_FIGURES = 18
MOST_NAMED = 12  # published models that are named in a plot
MOST_LETTERS = 30  # of a label in one of two columns
LEAST_SPAN = 0.1  # of an axis, so that noise does not fill it
MOST_METHODS = 3 * MOST_CURVES  # in a legend
PLANE_CAPTION = "Up and right is better. Dashed: groups that none beats in both. Bars: standard deviation over seeds."
PUBLISHED_CAPTION = " Crosses: published, not run here."
SCORES_CAPTION = "The best group of each method and task, by the score its task is sorted by."
CURVES_CAPTION = "While unlearning: the best group of each method, one seed."
EFFECT_CAPTION = (
    "All else alike along a line, of each method the line with the best score. Bars: standard deviation over seeds."
)
Look = dict[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One plot: a file name, a title and a sentence on how to read it; `draw` makes the figure."""

    name: str
    title: str
    told: str
    draw: Callable[[], Figure]


def build_charts(sections: Sequence[Section]) -> list[Chart]:
    """Every plot there is something to draw for, what answers the question first."""
    found = [chart for number, section in enumerate(sections) for chart in plane_charts(section, number)]
    if any(section.ranked for section in sections):
        draw = partial(draw_scores, sections)
        found.append(Chart(name="scores", title="Scores per task", told=SCORES_CAPTION, draw=draw))
    return [*found, *(chart for number, section in enumerate(sections, 1) for chart in line_charts(section, number))]


def plane_charts(section: Section, number: int) -> Iterator[Chart]:
    """Forgetting against retention of the section with this number, in every plane it has."""
    for plane in planes_of(section):
        yield Chart(
            name=f"{plane.name}-{number + 1}",
            title=f"{section.title}: {plane.y_label} against {plane.x_label}",
            told=PLANE_CAPTION + (PUBLISHED_CAPTION if published_points(section, plane) else ""),
            draw=partial(draw_plane, section, plane, number),
        )


def line_charts(section: Section, number: int) -> Iterator[Chart]:
    """Settings that were varied, and training curves."""
    for at, (path, lines) in enumerate(setting_effects(section).items(), 1):
        title = f"{section.title}: {section.sort} by {path}"
        draw = partial(draw_effect, section, path, lines)
        yield Chart(name=f"effect-{number}-{at}", title=title, told=EFFECT_CAPTION, draw=draw)
    if curves := curves_of(section):
        title = f"{section.title}: training curves"
        yield Chart(name=f"training-{number}", title=title, told=CURVES_CAPTION, draw=partial(draw_curves, curves))


# ----------------------------------------------------------------------------------- forgetting against retention


def methods_of(section: Section) -> list[str]:
    """The methods of a section, always in the same order."""
    return sorted({group.method for group in section.groups if not group.reference})


def published_points(section: Section, plane: Plane) -> list[tuple[str, float, float]]:
    """Published models that were scored by both scores of a plane: name, x, y."""
    return [
        (name, values[plane.x], values[plane.y])
        for table in tables_for(section)
        for name, values in table.rows
        if plane.x in values and plane.y in values
    ]


def draw_plane(section: Section, plane: Plane, number: int) -> Figure:
    """Groups in a plane, their front, the references and what others published."""
    made, grid = new_figure()
    axes, look = grid[0, 0], assign_looks(methods_of(section))
    floor = float("-inf") if plane.floor is None else plane.floor
    draw_published(axes, section, plane, floor)
    places = {}
    for at, group in enumerate(section.groups):
        x_own, y_own = group.values.get(plane.x), group.values.get(plane.y)
        if x_own is not None and y_own is not None:
            places[at] = (x_own.mean, max(y_own.mean, floor))
            mark_group(axes, section, at, (x_own, y_own), places[at], look, f"#group={number}.{at}")
    best = pareto_front(section, plane)
    if len(best) > 1:
        axes.plot(*zip(*(places[at] for at in best), strict=True), color=INK, linewidth=1.1, linestyle="--", zorder=2)
    for subject, marker, size in (("target", "s", 7), ("retrained", "*", 13)):
        own = section.references.get(subject, {})
        if plane.x in own and plane.y in own:
            axes.plot(own[plane.x], max(own[plane.y], floor), marker=marker, color=INK, markersize=size, zorder=4)
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
    label_front(axes, section, best, places)
    add_legend(made, section, plane, look)
    return made


def widen(axis: Axis) -> None:
    """At least `LEAST_SPAN` between the ends of an axis."""
    low, high = axis.get_view_interval()
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        axis.set_view_interval(middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2, ignore=True)


def draw_published(axes: Axes, section: Section, plane: Plane, floor: float) -> None:
    """Crosses of what others published, named where they are few."""
    rows = published_points(section, plane)
    for name, x, y in rows:
        axes.plot(x, max(y, floor), marker="x", color=FAINT, linestyle="none", markersize=5, zorder=1)
        if len(rows) <= MOST_NAMED:
            place = (x, max(y, floor))
            axes.annotate(name, place, xytext=(4, 3), textcoords="offset points", fontsize=7, color=FAINT)


def mark_group(
    axes: Axes,
    section: Section,
    at: int,
    spreads: tuple[Spread, Spread],
    place: tuple[float, float],
    look: Look,
    link: str,
) -> None:
    """One group as a linked mark with bars; hollow where it may not win."""
    group = section.groups[at]
    colour, shape = look.get(group.method, (FAINT, "o"))
    x_bar, y_bar = (one.deviation or 0.0 for one in spreads)
    if x_bar or y_bar:
        axes.errorbar(*place, xerr=x_bar, yerr=y_bar, color=colour, alpha=0.45, linewidth=1, zorder=2)
    face = colour if may_win(group) else "none"
    mark = axes.scatter(*place, marker=shape, s=34, facecolors=face, edgecolors=colour, zorder=3)
    mark.set_urls([link])


def label_front(axes: Axes, section: Section, best: Sequence[int], places: dict[int, tuple[float, float]]) -> None:
    """The names of the front's members, where they are few enough to be read; on the side with more room."""
    low, high = sorted(axes.get_xlim())
    for turn, at in enumerate(best if len(best) <= MOST_CURVES else ()):
        right = places[at][0] < (low + high) / 2
        axes.annotate(
            legend_label(section.groups[at].method),
            places[at],
            xytext=(6 if right else -6, -12 if turn % 2 else 6),
            textcoords="offset points",
            ha="left" if right else "right",
            fontsize=9,
            color=INK,
        )


def add_legend(made: Figure, section: Section, plane: Plane, look: Look) -> None:
    """Methods by colour and shape, and the marks that are not groups."""
    from matplotlib.lines import Line2D

    def mark(label: str, colour: str, marker: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, linestyle="none", label=legend_label(label), markersize=6)

    handles = [mark(method, *own) for method, own in look.items()][:MOST_METHODS]
    handles += [mark("retrained", INK, "*")] if "retrained" in section.references else []
    handles += [mark("before", INK, "s")] if "target" in section.references else []
    handles += [mark("published", FAINT, "x")] if published_points(section, plane) else []
    made.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.0, handletextpad=0.3)


# ------------------------------------------------------------------------------------------------ scores per task


def draw_scores(sections: Sequence[Section]) -> Figure:
    """A panel a score, a line a method, a mark a section."""
    sections = [section for section in sections if section.ranked][:MOST_CURVES]
    names, methods = choose_scores(sections), methods_by_rank(sections)
    best = {(at, group.method): group for at, own in enumerate(sections) for group in reversed(own.ranked)}
    down = (len(names) + 1) // 2
    made, grid = new_figure(down, 2, width=1.15 * WIDE, height=1.0 + down * (0.7 + 0.24 * len(methods)))
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for place, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        for (at, method), group in best.items():
            own = group.values.get(name)
            if own is not None and method in methods:
                look = {"fmt": SHAPES[at % len(SHAPES)], "color": COLOURS[at], "markersize": 5}
                axes.errorbar(own.mean, methods.index(method), xerr=own.deviation or None, **look)
        axes.set_title(name, fontsize=10)
        axes.set_yticks(
            range(len(methods)), [""] * len(methods) if place % 2 else [legend_label(name, 20) for name in methods]
        )
        axes.set_ylim(len(methods) - 0.5, -0.5)
    marks = [
        grid[0, 0].plot([], [], SHAPES[at % len(SHAPES)], color=COLOURS[at], markersize=5)[0]
        for at in range(len(sections))
    ]
    labels = [legend_label(section.title, 60) for section in sections]
    columns = 2 if len(labels) > 1 and max(map(len, labels)) <= MOST_LETTERS else 1
    made.legend(marks, labels, loc="outside lower center", ncols=columns)
    return made


def methods_by_rank(sections: Sequence[Section]) -> list[str]:
    """Methods by their mean rank over the sections."""
    ranks: dict[str, list[int]] = {}
    for section in sections:
        for rank, method in enumerate(dict.fromkeys(group.method for group in section.ranked)):
            ranks.setdefault(method, []).append(rank)
    return sorted(ranks, key=lambda method: sum(ranks[method]) / len(ranks[method]))[:MOST_METHODS]


def choose_scores(sections: Sequence[Section]) -> list[str]:
    """Up to four scores: those that sections are sorted by first, then those preferred."""
    preferred = [*(section.sort for section in sections), AGGREGATE, FORGOTTEN, KEPT, *PREFERRED]
    present = {name for section in sections for name in section.columns if not name.startswith("cost.")}
    return [name for name in dict.fromkeys(preferred) if name in present][:4]
