"""Plots of a sweep (matplotlib, extra `plots`): forgetting against retention, scores, curves, settings.

One figure each as PNG and SVG. Marks of groups carry links (`#group=...`) that the page follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lume_run.report.comparison.fronts import planes_of
from lume_run.report.comparison.plots.curves import curves_of, draw_curves, draw_effect, setting_effects
from lume_run.report.comparison.plots.planes import draw_plane, published_points
from lume_run.report.comparison.plots.scores import choose_scores, draw_scores
from lume_run.report.comparison.summary import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FIGURES = 18
PLANE_CAPTION = "Up and right is better. Dashed: groups that none beats in both. Bars: standard deviation over seeds."
PUBLISHED_CAPTION = " Crosses: published, not run here."
SCORES_CAPTION = "The best group of each method and task, by the score its task is sorted by."
CURVES_CAPTION = "While unlearning: the best group of each method, one seed."
EFFECT_CAPTION = (
    "All else alike along a line, of each method the line with the best score. Bars: standard deviation over seeds."
)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One plot: a file name, a title and a sentence on how to read it; `draw` makes the figure."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def build_charts(sections: Sequence[Section]) -> list[Chart]:
    """Every plot there is something to draw for, what answers the question first."""
    charts = [chart for number, section in enumerate(sections) for chart in plane_charts(section, number)]
    if choose_scores([section for section in sections if section.ranking]):
        draw = partial(draw_scores, sections)
        charts.append(Chart(name="scores", title="Scores per task", caption=SCORES_CAPTION, draw=draw))
    return [*charts, *(chart for number, section in enumerate(sections, 1) for chart in line_charts(section, number))]


def plane_charts(section: Section, number: int) -> Iterator[Chart]:
    """Forgetting against retention of the section with this number, in every plane it has."""
    for plane in planes_of(section):
        yield Chart(
            name=f"{plane.name}-{number + 1}",
            title=f"{section.title}: {plane.y_label} against {plane.x_label}",
            caption=PLANE_CAPTION + (PUBLISHED_CAPTION if published_points(section, plane) else ""),
            draw=partial(draw_plane, section, plane, number),
        )


def line_charts(section: Section, number: int) -> Iterator[Chart]:
    """Settings that were varied, and training curves."""
    for position, (path, lines) in enumerate(setting_effects(section).items(), 1):
        title = f"{section.title}: {section.sort} by {path}"
        draw = partial(draw_effect, section, path, lines)
        yield Chart(name=f"effect-{number}-{position}", title=title, caption=EFFECT_CAPTION, draw=draw)
    if curves := curves_of(section):
        title = f"{section.title}: training curves"
        draw = partial(draw_curves, curves)
        yield Chart(name=f"training-{number}", title=title, caption=CURVES_CAPTION, draw=draw)
