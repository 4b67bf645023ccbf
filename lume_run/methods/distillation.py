"""Distilling a distribution in which the true token is pushed down: UNDIAL and CE-U.

UNDIAL: Dong et al., arXiv:2402.10052. CE-U: Yang, arXiv:2503.01224.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lume_run.common.lazy import torch
from lume_run.common.logits import to_float32
from lume_run.config.fields import setting
from lume_run.methods.base import Signals, TokenMean, require
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor

RELEASED_IGNORED = -100  # the label of ignored positions, which the released code takes for a vocabulary index


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """-sum_v q log p with q = softmax(target_logits): (..., V), (..., V) -> (...) [nats]."""
    return -(to_float32(target_logits).softmax(-1) * to_float32(logits).log_softmax(-1)).sum(-1)


def lower_logits(logits: Tensor, tokens: Tensor, by: float) -> Tensor:
    """`logits` (..., V) with those of `tokens` (...) lowered by `by`."""
    wide, index = to_float32(logits), tokens[..., None]
    return wide.scatter_add(-1, index, torch.full_like(index, -by, dtype=wide.dtype))


@dataclass(frozen=True, kw_only=True)
class UNDIAL(TokenMean):
    """Forget: mean cross entropy of answer tokens to the target's distribution with the true logit `beta` lower."""

    beta: float = setting(10.0, low=0, help="how much the frozen target's logit of the true token is lowered")
    reads_reference: ClassVar[bool] = True

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """Cross entropy of each distribution [nats]."""
        return soft_cross_entropy(logits, lower_logits(require(reference), targets, self.beta))


@dataclass(frozen=True, kw_only=True)
class UNDIALCompat:
    """The same as released: mean over every position but the last, prompt and padding included.

    Where nothing is labelled, the label -100 counts from the end of the vocabulary: token V - 100 is lowered.
    """

    beta: float = setting(10.0, low=0, help="how much the frozen target's logit of the label is lowered")
    needs: ClassVar[Needs] = Needs(
        rows={Role.FORGET}, distributions=True, reference_logits={Role.FORGET}, every_position=True
    )

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss. Raises ValueError for a vocabulary below 100 tokens."""
        forget, totals = s.rows(Role.FORGET), s.totals.of(Role.FORGET)
        logits = require(s.logits)[forget][:, :-1]  # (b, T - 1, V)
        vocabulary = logits.shape[-1]
        if vocabulary + RELEASED_IGNORED < 0:
            raise ValueError(f"the released UNDIAL needs a vocabulary of at least 100 tokens, not {vocabulary}")
        labels = s.targets.masked_fill(~s.is_answer, vocabulary + RELEASED_IGNORED)[forget]
        teacher = lower_logits(require(s.ref_logits)[s.in_reference_of(Role.FORGET)][:, :-1], labels, self.beta)
        return soft_cross_entropy(logits, teacher).sum() / max(1, totals.positions - totals.rows)


@dataclass(frozen=True, kw_only=True)
class CEU(TokenMean):
    """Forget: mean cross entropy to the model's own distribution without the true token, itself held constant.

    The first `ignore_first` answer tokens of each row do not count. The released code counts a label on a row's first
    token among them; our rows never have one, so both definitions are the same here.
    """

    ignore_first: int = setting(1, low=0, help="answer tokens at the start of each row that do not count")

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """Cross entropy of each distribution [nats]."""
        others = to_float32(logits).detach().scatter(-1, targets[:, None], float("-inf"))
        return soft_cross_entropy(logits, others)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        answers = s.answers(Role.FORGET)
        counted = answers & (answers.cumsum(1) > self.ignore_first)  # (B, R)
        tokens = sum(max(0, length - self.ignore_first) for length in s.totals.of(Role.FORGET).lengths)
        return s.at_tokens(self, counted).sum() / max(1, tokens)
