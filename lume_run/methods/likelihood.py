"""Likelihood of answers: ascent, weighted too, descent, refusals, mismatched answers, and fine-tuning itself.

GA: Jang et al., arXiv:2210.01504. Gradient difference: Liu et al., arXiv:2203.12817. IDK: arXiv:2401.06121.
LLMU: Yao et al., arXiv:2310.10683. WGA and SatImp weigh each token by how likely it still is, so that ascent slows down
where it has won. Token means run over all answer tokens of the optimizer step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lume_run.config.fields import setting
from lume_run.methods.base import Losses, Signals
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor


def mean_nll(s: Signals, role: Role) -> Tensor:
    """This micro-batch's share of the mean NLL [nats a token] of this role's answers."""
    return -s.sums(role).sum() / s.totals.of(role).tokens


@dataclass(frozen=True, kw_only=True)
class GradientAscent:
    """Forget: minus the mean token NLL, unbounded below (it is expected to collapse)."""

    needs: ClassVar[Needs] = Needs(rows={Role.FORGET})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return -mean_nll(s, Role.FORGET)


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """Retain: the mean token NLL."""

    needs: ClassVar[Needs] = Needs(rows={Role.RETAIN})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return mean_nll(s, Role.RETAIN)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Forget: the mean token NLL of a refusal in the place of the answer (IDK)."""

    needs: ClassVar[Needs] = Needs(rows={Role.FORGET_IDK})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return mean_nll(s, Role.FORGET_IDK)


@dataclass(frozen=True, kw_only=True)
class MismatchedAscent:
    """Forget: ascent on the answer, descent on the answer of a random retain example (the forget half of LLMU)."""

    mismatch_weight: float = setting(1.0, low=0, help="weight of the mismatched answer's NLL")
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET, Role.FORGET_MISMATCH})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return -mean_nll(s, Role.FORGET) + self.mismatch_weight * mean_nll(s, Role.FORGET_MISMATCH)


def ascent(s: Signals, weights: Tensor) -> Tensor:
    """Minus the weighted mean NLL of forget answers; `weights` (B, R) are constants to the gradient."""
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


@dataclass(frozen=True, kw_only=True)
class Hits:
    """1 for each retain label that has the largest logit, else 0."""

    role: ClassVar[Role] = Role.RETAIN
    reads_reference: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """Of each distribution."""
        return (logits.argmax(-1) == targets).float()


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """The `train` stage: mean token NLL over every row, with the share of answer tokens already predicted."""

    name: str = "finetune"
    needs: ClassVar[Needs] = Needs(rows={Role.RETAIN}, token_losses=(Hits(),))

    def __call__(self, s: Signals) -> Losses:
        """The micro-batch's share of the step's loss."""
        loss = -s.of_role(Role.RETAIN, s.logps).sum() / s.totals.of(Role.RETAIN).labels
        answers = s.answers(Role.RETAIN)
        hits = s.at_tokens(Hits(), answers).detach()
        return Losses(total=loss, parts={"answer_hits": hits.sum(), "answer_tokens": answers.sum()})
