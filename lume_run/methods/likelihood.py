"""Likelihood of answers: ascent, descent, refusals, mismatched answers, and fine-tuning itself.

GA: Jang et al., arXiv:2210.01504. Gradient difference: Liu et al., arXiv:2203.12817. IDK: arXiv:2401.06121.
LLMU: Yao et al., arXiv:2310.10683. Token means run over all answer tokens of the optimizer step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lume_run.config.fields import setting
from lume_run.methods.base import Losses, Needs, Role, Signals

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
