"""Retain regulariser: stay close to the frozen target on retain rows.

KL(ref || pi), as paired with gradient ascent by TOFU (arXiv:2401.06121) and LUME (arXiv:2502.15097).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lume_run.common.logits import to_float32
from lume_run.config.fields import setting
from lume_run.methods.base import Signals, TokenMean, require
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor


def forward_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """sum_v p_ref (log p_ref - log p) at each position: (..., V), (..., V) -> (...) [nats]."""
    log_p = to_float32(logits).log_softmax(-1)
    log_ref = to_float32(ref_logits).log_softmax(-1)
    return (log_ref.exp() * (log_ref - log_p)).sum(-1)


@dataclass(frozen=True, kw_only=True)
class RetainKL(TokenMean):
    """Mean KL over the answer positions of retain rows: prompt and padding never enter."""

    role: ClassVar[Role] = Role.RETAIN
    reads_reference: ClassVar[bool] = True

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """KL(ref || pi) of each distribution [nats]."""
        return forward_kl(logits, require(reference))


@dataclass(frozen=True, kw_only=True)
class RetainKLCompat:
    """The released behaviour of closer-look and open-unlearning: mean over all B x T positions, padding included.

    Its value depends on how much padding a batch holds, hence on the micro-batch size. For reproducing
    published numbers only; `RetainKL` is the stated mathematics.
    """

    pad_to: int = setting(
        0, low=0, help="pad rows to at least so many tokens (closer-look: 500 on TOFU, 300 real-world)"
    )

    @property
    def needs(self) -> Needs:
        """Right-padded rows with all their logits, in both models."""
        return Needs(
            rows={Role.RETAIN},
            distributions=True,
            reference_logits={Role.RETAIN},
            every_position=True,
            pad_to=self.pad_to,
        )

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        ours = require(s.logits)[s.rows(Role.RETAIN)]
        theirs = require(s.ref_logits)[s.in_reference_of(Role.RETAIN)]
        return forward_kl(ours, theirs).sum() / s.totals.of(Role.RETAIN).positions
