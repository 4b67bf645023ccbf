"""An unlearning method is a weighted forget objective plus a weighted retain regulariser.

GradDiff, NPO+GD, GA+KL and their kin are pairs of parts, so the parts are written once and
paired in YAML (`conf/method/*.yaml`, or `method/forget=... method/retain=...` on the command line).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from lume_run.contracts import Losses, Needs, Signals


class Part(Protocol):
    """A forget objective or a retain regulariser: a micro-batch's share of the step's loss."""

    needs: ClassVar[Needs]

    def __call__(self, s: Signals) -> Tensor:
        """A scalar; summed over the micro-batches of a step it is the step's loss."""
        ...


@dataclass(frozen=True, kw_only=True)
class Objective:
    """`forget_weight` x forget + `retain_weight` x retain. Without a retain part no retain row is read."""

    name: str
    forget: Part
    retain: Part | None = None
    forget_weight: float = 1.0
    retain_weight: float = 1.0

    @property
    def needs(self) -> Needs:
        """What both parts need together."""
        return self.forget.needs | (self.retain.needs if self.retain else Needs())

    def __call__(self, s: Signals) -> Losses:
        """The weighted sum, with both parts for the log."""
        forget = self.forget(s)
        if self.retain is None:
            return Losses(total=self.forget_weight * forget, parts={"forget_loss": forget.detach()})
        retain = self.retain(s)
        total = self.forget_weight * forget + self.retain_weight * retain
        return Losses(total=total, parts={"forget_loss": forget.detach(), "retain_loss": retain.detach()})
