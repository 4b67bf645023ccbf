"""Negative preference optimisation: NPO (Zhang, arXiv:2404.05868, eq. 3), SimNPO (Fan, arXiv:2410.07163)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lume_run.common.lazy import F
from lume_run.config.fields import setting
from lume_run.methods.base import Signals
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NPO:
    """Forget: -(2/beta) mean over rows of log sigmoid(-beta log(pi/ref)), log pi summed over the answer.

    At the first step pi equals ref, so the loss is 2/beta x log 2. `beta` is the inverse temperature:
    towards 0 NPO becomes gradient ascent.
    """

    beta: float = setting(0.1, low=0, open_low=True, help="inverse temperature")
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET}, reference_logps={Role.FORGET})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        log_ratio = s.sums(Role.FORGET) - s.ref_sums(Role.FORGET)  # (b,) log pi/ref [nats]
        return -F.logsigmoid(-self.beta * log_ratio).sum() * (2 / self.beta) / s.totals.of(Role.FORGET).rows


@dataclass(frozen=True, kw_only=True)
class SimNPO:
    """Forget: -(2/beta) mean over rows of log sigmoid(beta (NLL / length - delta)): no reference at all.

    A row without answer tokens counts as one of NLL 0; the released code gives NaN for it.
    """

    beta: float = setting(4.5, low=0, open_low=True, help="inverse temperature")
    delta: float = setting(0.0, low=0, help="margin [nats a token] the NLL should exceed")
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        nll = -s.sums(Role.FORGET) / s.lengths(Role.FORGET).clamp(min=1)  # (b,) [nats a token]
        return -F.logsigmoid(self.beta * (nll - self.delta)).sum() * (2 / self.beta) / s.totals.of(Role.FORGET).rows
