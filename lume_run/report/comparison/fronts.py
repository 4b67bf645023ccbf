"""Forgetting against retention: which pairs of scores are plotted, and the groups that no other group beats in both.

Every benchmark has its own pair; published models appear only where they were scored by the same two.
"""

from __future__ import annotations

from dataclasses import dataclass

from lume_run.report.comparison.columns import AGGREGATE, FORGOTTEN, KEPT, badness
from lume_run.report.comparison.summary import RunGroup, Section


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


def point_of(group: RunGroup, plane: Plane) -> tuple[float, float] | None:
    """Where a group lies in a plane, None where one of the scores is missing."""
    x, y = group.mean(plane.x), group.mean(plane.y)
    return None if x is None or y is None else (x, y)


def planes_of(section: Section) -> list[Plane]:
    """The planes that at least one group lies in."""
    return [plane for plane in PLANES if any(point_of(group, plane) for group in section.groups)]


def pareto_front(section: Section, plane: Plane) -> tuple[int, ...]:
    """Positions of the groups of which no other is at least as good in both scores and better in one, by x."""
    costs = {
        place: (badness(plane.x, point[0]), badness(plane.y, point[1]))
        for place, group in enumerate(section.groups)
        if group.may_win and (point := point_of(group, plane))
    }
    front = [place for place, cost in costs.items() if not any(dominates(other, cost) for other in costs.values())]
    return tuple(sorted(front, key=lambda place: costs[place]))


def dominates(costs: tuple[float, float], others: tuple[float, float]) -> bool:
    """Whether it is nowhere worse and somewhere better; smaller is better."""
    return all(cost <= other for cost, other in zip(costs, others, strict=True)) and costs != others
