"""Scores against the strength of an attack: the curves of relearning, as data and as a plot with the control's band."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.attacks.results import AttackedScore, AttackResults
from lume_run.common.files import replace_file
from lume_run.common.records import Score
from lume_run.evaluation.catalogue import definition_of
from lume_run.report.plots import AFTER, BEFORE, RETRAINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE_DETAIL = 1  # of scores with a curve, as in `Definition`
MOST_PANELS = 8
COLUMNS, PANEL_SIZE = 2, (4.2, 2.6)  # panels in a line, inches of each
STYLES = ("-", "--", "-.", ":")  # of series


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackCurve:
    """A score of one series of an attack: (amount, attacked, control attacked) by amount, 0 being before the attack.

    `target` is the score before unlearning. A number that is not there is None.
    """

    attack: str
    series: str
    score: str
    target: float | None
    points: tuple[tuple[float, float | None, float | None], ...]


def attack_curves(results: AttackResults) -> list[AttackCurve]:
    """A curve for each series of two or more strengths and each score of what was to be forgotten."""
    by_series: dict[tuple[str, str, str], list[AttackedScore]] = {}
    for row in results.rows:
        definition = definition_of(row.score)
        if row.strength.series and row.recovered is not None and definition and definition.detail <= CURVE_DETAIL:
            by_series.setdefault((row.attack, row.strength.series, row.score), []).append(row)
    return [
        AttackCurve(
            attack=attack,
            series=series,
            score=score,
            target=number_of(rows[0].target),
            points=(
                (0.0, number_of(rows[0].before), number_of(rows[0].control_before)),
                *((row.strength.amount, number_of(row.after), number_of(row.control_after)) for row in rows),
            ),
        )
        for (attack, series, score), rows in by_series.items()
        if len(rows) > 1
    ]


def number_of(score: Score | None) -> float | None:
    """The number of a score that may be missing."""
    return None if score is None else score.value


def write_attack_plot(results: AttackResults | None, path: Path) -> bool:
    """Draw the curves of headline scores of which something could come back to `path`; False where there are none, or
    matplotlib is not installed."""
    panels: dict[tuple[str, str], list[AttackCurve]] = {}
    for curve in attack_curves(results) if results is not None else ():
        definition, share = definition_of(curve.score), f"attack.{curve.attack}.{curve.score}.recovered"
        assert results is not None
        if definition is not None and definition.detail == 0 and number_of(results.worst.get(share)) is not None:
            panels.setdefault((curve.attack, curve.score), []).append(curve)
    if importlib.util.find_spec("matplotlib") is None or not panels:
        return False
    from matplotlib.figure import Figure  # late: slow to import, and no window is wanted

    shown = list(panels.values())[:MOST_PANELS]
    lines = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * PANEL_SIZE[0], lines * PANEL_SIZE[1]), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for panel, curves in zip(axes, shown, strict=False):
        draw_attack_curves(panel, curves)
    for panel in axes[len(shown) :]:
        panel.set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    replace_file(path, picture.getvalue())
    return True


def draw_attack_curves(axes: Axes, curves: Sequence[AttackCurve]) -> None:
    """The series of one score as lines, the controls under the same attack as a band, the target as a level."""
    for curve, style in zip(curves, STYLES, strict=False):
        known = [(amount, value) for amount, value, _ in curve.points if value is not None]
        axes.plot(*zip(*known, strict=True), color=AFTER, linestyle=style, marker="o", markersize=3, label=curve.series)
    if band := control_band(curves):
        amounts, lows, highs = zip(*band, strict=True)
        axes.fill_between(amounts, lows, highs, color=RETRAINED, alpha=0.2, linewidth=1.5, label="control")
    if (level := curves[0].target) is not None:
        axes.axhline(level, color=BEFORE, linestyle=":", linewidth=1, label="before unlearning")
    axes.set_title(f"{curves[0].attack}: {curves[0].score}", loc="left", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, frameon=False)


def control_band(curves: Sequence[AttackCurve]) -> list[tuple[float, float, float]]:
    """(amount, least, most) of the control over the series, by amount."""
    by_amount: dict[float, list[float]] = {}
    for curve in curves:
        for amount, _, control in curve.points:
            if control is not None:
                by_amount.setdefault(amount, []).append(control)
    return [(amount, min(values), max(values)) for amount, values in sorted(by_amount.items())]
