"""Scores over requests as a plot: curves of each headline score, and a heat map of request x time beside them."""

from __future__ import annotations

import importlib.util
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.common.files import replace_file
from lume_run.report.plots import is_share
from lume_run.report.sequence.scores import WHAT_IS_KEPT, SequenceResults, cells_of
from lume_run.report.sequence.tables import shown_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES_DRAWN = 4  # of scores of forgetting
PANEL = (5.2, 3.0)  # inches
COLORS = {"current": "#2166ac", "earlier": "#d95f02", "to_come": "#1b7837"}
LABELS = {"current": "this request", "earlier": "earlier requests", "to_come": "requests to come"}


def write_sequence_plot(results: SequenceResults | None, path: Path) -> bool:
    """Write it to `path`; False where matplotlib is not installed or there is nothing to draw."""
    names = [] if results is None else shown_names(results, forgetting=True)[:SCORES_DRAWN]
    if results is None or not names or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure  # late: slow to import, and no window is wanted

    figure = Figure(figsize=(2 * PANEL[0], PANEL[1] * (len(names) + 1)), layout="constrained")
    panels = figure.subplots(len(names) + 1, 2, squeeze=False)
    for (curves, heat), name in zip(panels, names, strict=False):
        _draw_curves(curves, results, name)
        _draw_heat(heat, results, name)
    _draw_kept(panels[-1][0], results)
    panels[-1][1].set_axis_off()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    replace_file(path, picture.getvalue())
    return True


def _draw_curves(axes: Axes, results: SequenceResults, name: str) -> None:
    for kind, color in COLORS.items():
        points = [(done, results.mean(name, cells_of(kind, results.count, done))) for done in range(results.count + 1)]
        known = [(done, value) for done, value in points if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", color=color, label=LABELS[kind])
    axes.set_title(name, fontsize=9)
    if None not in _ends(results, name):
        axes.set_ylim(-0.03, 1.03)
    _label_times(axes, results)
    axes.legend(fontsize=7)


def _ends(results: SequenceResults, name: str) -> tuple[float | None, float | None]:
    """(0, 1) of a score that lies between; of others no ends are known."""
    values = (score.value for score in results.scores.get(name, {}).values())
    return (0, 1) if is_share(name, values) else (None, None)


def _draw_heat(axes: Axes, results: SequenceResults, name: str) -> None:
    """Lines are requests, columns times; what is not known is white."""
    times, numbers = range(results.count + 1), range(1, results.count + 1)
    values = [[results.value(name, done, number) for done in times] for number in numbers]
    shown = [[math.nan if value is None else value for value in row] for row in values]
    edge, ends = results.count + 0.5, _ends(results, name)
    extent = (-0.5, edge, edge, 0.5)
    image = axes.imshow(shown, aspect="auto", cmap="viridis", extent=extent, vmin=ends[0], vmax=ends[1])
    axes.plot(numbers, numbers, "w.", markersize=6)
    axes.set_yticks(numbers)
    axes.set_ylabel("documents of request", fontsize=8)
    axes.set_title(f"{name}; a dot where they were asked for", fontsize=9)
    axes.figure.colorbar(image, ax=axes)
    _label_times(axes, results)


def _draw_kept(axes: Axes, results: SequenceResults) -> None:
    for name in shown_names(results, forgetting=False):
        points = [(done, results.value(name, done, WHAT_IS_KEPT)) for done in range(results.count + 1)]
        known = [(done, value) for done, value in points if value is not None and 0 <= value <= 1]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", label=name)
    axes.set_title("what is to be kept", fontsize=9)
    _label_times(axes, results)
    axes.legend(fontsize=7)


def _label_times(axes: Axes, results: SequenceResults) -> None:
    axes.set_xlabel("requests done", fontsize=8)
    axes.set_xticks(range(results.count + 1))
    axes.tick_params(labelsize=7)
