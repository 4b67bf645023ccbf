"""Gradient ascent that weighs each token by how likely it still is, so that it slows down where it has won.

Both weights are constants to the gradient. Token means run over all forget answer tokens of the optimizer step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lume_run.config.fields import setting
from lume_run.methods.base import Needs, Role, Signals

if TYPE_CHECKING:
    from torch import Tensor


def ascent(s: Signals, weights: Tensor) -> Tensor:
    """Minus the weighted mean NLL of forget answers; `weights` (B, R)."""
    return (weights.detach() * s.logps * s.answers(Role.FORGET)).sum() / s.totals.of(Role.FORGET).tokens


@dataclass(frozen=True, kw_only=True)
class WeightedAscent:
    """Forget: -mean p^beta NLL (WGA, Wang et al., arXiv:2502.19301)."""

    beta: float = setting(1.0, low=0, help="power of the token's probability; 0 is gradient ascent")
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return ascent(s, s.logps.exp() ** self.beta)


@dataclass(frozen=True, kw_only=True)
class SaturationImportance:
    """Forget: -mean p^beta1 (1 - p)^beta2 NLL (SatImp, Yang et al., arXiv:2505.11953)."""

    beta1: float = setting(5.0, low=0, help="saturation: power of p; tokens still likely count more")
    beta2: float = setting(1.0, low=0, help="importance: power of 1 - p; tokens known by heart count less")
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        p = s.logps.exp()
        return ascent(s, p**self.beta1 * (1 - p) ** self.beta2)
