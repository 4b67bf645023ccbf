"""What all plots of a sweep are drawn with: inks, sizes, marks, figures without a window.

The page replaces these inks by its own, light and dark, so every colour of a plot is one of these. Text comes from run
folders and is never read as mathematics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#1c2024", "#7d858d", "#dfe2e6", "#fffffe"
COLOURS = ("#2563a8", "#c2571a", "#2f7d4f", "#8a4fbf", "#b8860c", "#c23b6d", "#1f8a8a", "#6b6f1d")
SHAPES = "osD^vP"
WIDE, TALL = 5.0, 3.8  # inches
MOST_CURVES = 8  # in one plot; more are too alike
MOST_METHODS = 3 * MOST_CURVES  # in a legend
MATPLOTLIB: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@contextmanager
def plot_style() -> Iterator[None]:
    """matplotlib as these plots want it, and as it was before afterwards."""
    import matplotlib

    with matplotlib.rc_context(MATPLOTLIB):
        yield


def legend_label(label: str, most: int = 30) -> str:
    """A label of at most `most` letters that begins with no underscore: matplotlib leaves those out of legends."""
    return f"\u200b{label if len(label) <= most else label[: most - 1] + '…'}"


def new_figure(rows: int = 1, columns: int = 1, *, width: float = WIDE, height: float = TALL) -> tuple[Figure, Any]:
    """A figure without a window, and its axes as a grid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


class Look(NamedTuple):
    """How the marks of a method look."""

    colour: str
    shape: str


def assign_looks(names: Sequence[str]) -> dict[str, Look]:
    """Colour and shape of each name, all pairs used before one repeats."""
    count = len(COLOURS)
    return {name: Look(COLOURS[at % count], SHAPES[at // count % len(SHAPES)]) for at, name in enumerate(names)}


def format_log_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis without mathematics."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
