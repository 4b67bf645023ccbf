"""Forgetting against retention: which pairs of scores are plotted, and the groups that no other group beats in both.

Every benchmark has its own pair; published models can be drawn only where they were scored by the same two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lume_run.report.comparison.summary import AGGREGATE, FORGOTTEN, KEPT, Section, badness, may_win


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Two scores: `x` is retention, `y` is forgetting. `floor` makes y logarithmic, and is its smallest value shown."""

    name: str
    x: str
    y: str
    x_label: str
    y_label: str
    floor: float | None = None


PLANES = (
    Plane(name="kept", x=KEPT, y=FORGOTTEN, x_label="kept", y_label="forgotten"),
    Plane(name="semeval", x="mmlu.accuracy", y=AGGREGATE, x_label="MMLU accuracy", y_label="task aggregate"),
    Plane(
        name="closer-look",
        x="closer_look.model_utility",
        y="closer_look.forget_efficacy",
        x_label="model utility",
        y_label="forget efficacy",
    ),
    Plane(
        name="tofu",
        x="tofu.model_utility",
        y="tofu.forget_quality",
        x_label="model utility",
        y_label="forget quality (p-value)",
        floor=1e-30,
    ),
    Plane(
        name="muse",
        x="muse.retain.knowledge",
        y="muse.forget.knowledge",
        x_label="knowledge of the retain set",
        y_label="knowledge of the forget set",
    ),
)


def planes_of(section: Section) -> list[Plane]:
    """The planes that at least one group lies in."""
    return [
        plane
        for plane in PLANES
        if any(one.mean(plane.x) is not None and one.mean(plane.y) is not None for one in section.groups)
    ]


def pareto_front(section: Section, plane: Plane) -> tuple[int, ...]:
    """Positions of the groups of which no other is at least as good in both scores and better in one, by x."""
    places = {
        number: (badness(plane.x, x), badness(plane.y, y))
        for number, one in enumerate(section.groups)
        if may_win(one) and (x := one.mean(plane.x)) is not None and (y := one.mean(plane.y)) is not None
    }
    best = [number for number, own in places.items() if not any(dominates(other, own) for other in places.values())]
    return tuple(sorted(best, key=lambda number: places[number]))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether it is nowhere worse and somewhere better; smaller is better."""
    return all(x <= y for x, y in zip(one, other, strict=True)) and tuple(one) != tuple(other)
