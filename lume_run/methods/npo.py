"""Negative preference optimisation (Zhang et al., arXiv:2404.05868, eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lume_run.contracts import Needs, Signals


@dataclass(frozen=True, kw_only=True)
class NPO:
    """Forget: -(2/beta) mean over rows of log sigmoid(-beta log(pi/ref)), log pi summed over the answer.

    At the first step pi equals ref, so the loss is 2/beta x log 2. `beta` is the inverse temperature:
    towards 0 NPO becomes gradient ascent.
    """

    beta: float = 0.1
    needs: ClassVar[Needs] = Needs(reference_logps=True)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError("beta must be greater than 0")

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        assert s.ref_logps is not None  # granted by needs
        log_ratio = (s.logps - s.ref_logps).sum(1)[s.is_forget]  # (B,) log pi/ref [nats]
        return -F.logsigmoid(-self.beta * log_ratio).sum() * (2 / self.beta) / max(1, s.totals.forget_rows)
