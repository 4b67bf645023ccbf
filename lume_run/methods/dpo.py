"""A refusal against the true answer: DPO on forget rows, answer preservation on retain rows.

DPO: Rafailov et al., arXiv:2305.18290, with the refusal preferred (arXiv:2401.06121). AP: arXiv:2410.08109.
Log-probabilities are sums over the answer, so both margins depend on its length.
"""

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
class DPO:
    """Forget: -(2/beta) mean over rows of log sigmoid(beta (log pi/ref of the refusal - log pi/ref of the answer)).

    The factor 2, not in the original DPO, makes it comparable with NPO; the first step is 2/beta x log 2.
    """

    beta: float = setting(0.1, low=0, open_low=True, help="inverse temperature")
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET, Role.FORGET_IDK}, reference_logps={Role.FORGET, Role.FORGET_IDK})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        refusal = s.sums(Role.FORGET_IDK) - s.ref_sums(Role.FORGET_IDK)  # (b,) log pi/ref [nats]
        answer = s.sums(Role.FORGET) - s.ref_sums(Role.FORGET)
        rows = s.totals.of(Role.FORGET).rows
        return -F.logsigmoid(self.beta * (refusal - answer)).sum() * (2 / self.beta) / rows


@dataclass(frozen=True, kw_only=True)
class AnswerPreservation:
    """Retain: -(1/beta) mean over rows of log sigmoid(beta (log p(answer) - log p(refusal))): no reference.

    It keeps a model that learns to refuse forget prompts from refusing retain prompts too.
    """

    beta: float = setting(0.1, low=0, open_low=True, help="inverse temperature")
    needs: ClassVar[Needs] = Needs(rows={Role.RETAIN, Role.RETAIN_IDK})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        margin = s.sums(Role.RETAIN) - s.sums(Role.RETAIN_IDK)  # (b,) [nats]
        return -F.logsigmoid(self.beta * margin).sum() / self.beta / s.totals.of(Role.RETAIN).rows
