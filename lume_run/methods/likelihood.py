"""Gradient ascent and descent on the answer's likelihood, and fine-tuning itself.

GA: Jang et al., arXiv:2210.01504. Gradient difference: Liu et al., arXiv:2203.12817; both as used
as baselines by LUME (arXiv:2502.15097). Token means run over all labels of the optimizer step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lume_run.contracts import Losses, Needs, Signals


@dataclass(frozen=True, kw_only=True)
class GradientAscent:
    """Forget: minus the mean token NLL, unbounded below (it is expected to collapse)."""

    needs: ClassVar[Needs] = Needs()

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return s.logps[s.is_forget].sum() / max(1, s.totals.forget_tokens)


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """Retain: the mean token NLL."""

    needs: ClassVar[Needs] = Needs(retain_rows=True)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return -s.logps[~s.is_forget].sum() / max(1, s.totals.retain_tokens)


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """The `train` stage: mean token NLL over every row, with the share of answer tokens already predicted."""

    name: str = "finetune"
    needs: ClassVar[Needs] = Needs(retain_rows=True)

    def __call__(self, s: Signals) -> Losses:
        """The micro-batch's share of the step's loss."""
        loss = -s.logps.sum() / max(1, s.totals.retain_tokens)
        hits = (s.at_labels(s.logits.detach()).argmax(-1) == s.targets) & s.is_answer
        return Losses(total=loss, parts={"answer_hits": hits.sum(), "answer_tokens": s.is_answer.sum()})
