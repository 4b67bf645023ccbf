"""Flattening logits: the squared margin between the largest logit and the mean (PDU, arXiv:2506.05314).

The paper bounds the retain loss instead of weighing it: `method.dual` (`objective.Dual`) does that for any method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lume_run.common.logits import to_float32
from lume_run.methods.base import Needs, Role, Signals, require

if TYPE_CHECKING:
    from torch import Tensor


def squared_margin(logits: Tensor) -> Tensor:
    """(max_v z - mean_v z)^2: (..., V) -> (...)."""
    wide = to_float32(logits)
    return (wide.amax(-1) - wide.mean(-1)) ** 2


@dataclass(frozen=True, kw_only=True)
class LogitMargin:
    """Forget: mean squared margin of the logits that predict answer tokens."""

    role: ClassVar[Role] = Role.FORGET
    reads_reference: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """Forget rows and their distributions."""
        return Needs(rows={Role.FORGET}, token_losses=(self,))

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """The squared margin of each distribution."""
        return squared_margin(logits)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return s.at_tokens(self, s.answers(Role.FORGET)).sum() / s.totals.of(Role.FORGET).tokens


@dataclass(frozen=True, kw_only=True)
class LogitMarginCompat:
    """As released: the mask is not shifted, so logits AT answer tokens count, which predict the token after."""

    needs: ClassVar[Needs] = Needs(rows={Role.FORGET}, distributions=True, every_position=True)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        after = require(s.logits)[:, -s.mask.shape[1] :][s.answers(Role.FORGET)]  # (N, V)
        return squared_margin(after).sum() / s.totals.of(Role.FORGET).tokens
