"""The plot of a report: every headline score before and after unlearning, with 95 % intervals, group by group.

One panel a group on the scale 0 to 1; a score on another scale has a panel of its own. Needs matplotlib (extra
`plots`).
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lume_run.common.files import replace_file
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.definitions import Wanted
from lume_run.report.results import SUBJECTS, Report, direction_of, names_by_group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = tuple[str, list[str]]  # title and score names
ARROWS = {Wanted.LOWER: " ↓", Wanted.HIGHER: " ↑", Wanted.HALF: " → 0.5", Wanted.ZERO: " → 0"}
IDEALS = {Wanted.HALF: 0.5, Wanted.ZERO: 0.0}
BEFORE, AFTER, RETRAINED = "#666666", "#2166ac", "#7b3294"
BETTER, WORSE, WITHIN_NOISE = "#1b7837", "#d95f02", "#bbbbbb"
OFFSETS = {"target": -0.22, "retrained": 0.34}  # of an interval from its line; below it for the model that is judged
LINE, HEAD, TICKS = 0.26, 0.46, 0.22  # inches of a score; of a panel's title and numbers; of the numbers alone
PICTURE_WIDTH, TITLE, LEGEND, MARGIN = 8.0, 0.3, 0.36, 0.08  # inches of the picture and of what is around its panels
LABEL_POINTS = 8


def write_plot(report: Report, path: Path) -> bool:
    """Write it to `path`; False where matplotlib is not installed or there is no number to draw."""
    panels = panels_of(report)
    if importlib.util.find_spec("matplotlib") is None or not panels:
        return False
    from matplotlib.figure import Figure  # late: slow to import, and no window is wanted

    height = TITLE + LEGEND + sum(HEAD + LINE * len(names) for _, names in panels)
    figure = Figure(figsize=(PICTURE_WIDTH, height))
    left = label_inches(figure, [_score_label(name) for _, names in panels for name in names])
    top = height - TITLE
    for number, (title, names) in enumerate(panels):
        top -= HEAD + LINE * len(names)
        place = (
            left / PICTURE_WIDTH,
            (top + TICKS) / height,
            (PICTURE_WIDTH - left - MARGIN) / PICTURE_WIDTH,
            LINE * len(names) / height,
        )
        again = [title] == [last for last, _ in panels[number - 1 : number]]
        _draw_panel(figure.add_axes(place), report, "" if again else title, names)
    figure.suptitle(report.name, fontsize=10, y=1 - MARGIN / height)
    handles = _legend_marks(report)
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    replace_file(path, picture.getvalue())
    return True


def _score_label(name: str) -> str:
    return name + ARROWS.get(direction_of(name), "")


def label_inches(figure: Figure, labels: Sequence[str]) -> float:
    """The room that the longest label takes left of its panel, at most two thirds of the picture.

    Measured here, since matplotlib's own layout draws everything twice: half of the time of a report.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties

    renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    font = FontProperties(size=LABEL_POINTS)
    pixels: float = max(renderer.get_text_width_height_descent(label, font, ismath=False)[0] for label in labels)
    return min(pixels / figure.dpi + 2 * MARGIN, PICTURE_WIDTH * 2 / 3)


def panels_of(report: Report) -> list[Panel]:
    """Headline scores with a value by group; those on another scale than 0 to 1 each for itself."""
    panels: list[Panel] = []
    for group, names in names_by_group(report, most=0).items():
        known = [name for name in names if any(report.value(subject, name) is not None for subject in report.subjects)]
        shares = [name for name in known if _is_share(report, name)]
        panels += [(str(group), shares)] if shares else []
        panels += [(str(group), [name]) for name in known if name not in shares]
    return panels


def is_share(name: str, values: Iterable[float | None]) -> bool:
    """Whether a score lies within 0 to 1 by definition or, where no upper bound is known, by its values."""
    definition = definition_of(name)
    if definition is not None and (definition.low != 0 or definition.high is not None):
        return (definition.low, definition.high) == (0, 1)
    return all(0 <= (value or 0) <= 1 for value in values)


def _is_share(report: Report, name: str) -> bool:
    return is_share(name, (report.value(subject, name) for subject in report.subjects))


def _draw_panel(axes: Axes, report: Report, title: str, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        _draw_dumbbell(axes, report, name, place)
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.set_yticks(range(len(names)), [_score_label(name) for name in names], fontsize=LABEL_POINTS)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first score on top
    if _is_share(report, names[0]):
        axes.set_xlim(-0.03, 1.03)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_dumbbell(axes: Axes, report: Report, name: str, place: int) -> None:
    """One score: a line from before to after, a marker and an interval for every model."""
    before, after = report.value("target", name), report.value("unlearned", name)
    color = color_of(report, name)
    if before is not None and after is not None:
        axes.plot([before, after], [place, place], color=color, linewidth=2, zorder=1)
    styles = {"target": (BEFORE, "white", "o"), "retrained": (RETRAINED, "none", "D")}
    for subject in report.subjects:
        value, interval = report.value(subject, name), report.interval(subject, name)
        edge, face, marker = styles.get(subject, (color, color, "o"))
        if interval is not None:
            style = ":" if report.has_few_documents(name) else "-"
            axes.plot(interval, [place + OFFSETS.get(subject, 0.22)] * 2, color=edge, linewidth=1, linestyle=style)
        if value is not None:
            axes.plot(value, place, marker=marker, color=edge, markerfacecolor=face, markersize=6, zorder=2)
    if (ideal := IDEALS.get(direction_of(name))) is not None:
        axes.plot([ideal] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1, linestyle=":")


def color_of(report: Report, name: str) -> str:
    """The color of a score that got better or worse, or did not leave the noise."""
    change, after, ideal = report.change(name), report.value("unlearned", name), IDEALS.get(direction_of(name))
    if change is None or after is None or direction_of(name) is Wanted.NONE:
        return AFTER
    if report.inside_noise(name) or not change:
        return WITHIN_NOISE
    if ideal is not None:
        return BETTER if abs(after - ideal) < abs(after - change - ideal) else WORSE
    return BETTER if (change < 0) == (direction_of(name) is Wanted.LOWER) else WORSE


def _legend_marks(report: Report) -> list[object]:
    from matplotlib.lines import Line2D

    def mark(color: str, label: str, marker: str = "o", face: str | None = None) -> Line2D:
        return Line2D([], [], color=color, marker=marker, markerfacecolor=face or color, linestyle="none", label=label)

    marks: list[object] = [mark(BEFORE, SUBJECTS["target"], face="white")] if "target" in report.scores else []
    labels = {BETTER: "after: better", WORSE: "after: worse", WITHIN_NOISE: "after: inside the noise", AFTER: "after"}
    names = [name for _, names in panels_of(report) for name in names if report.value("unlearned", name) is not None]
    colors = set(map(partial(color_of, report), names))
    if "unlearned" in report.scores:
        marks += [mark(color, label) for color, label in labels.items() if color in colors]
    elif report.main_subject == "model":
        marks.append(mark(AFTER, SUBJECTS["model"]))
    if "retrained" in report.scores:
        marks.append(mark(RETRAINED, SUBJECTS["retrained"], marker="D", face="none"))
    return marks
