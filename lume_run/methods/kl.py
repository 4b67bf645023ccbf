"""Retain regulariser: stay close to the frozen target on retain rows.

KL(ref || pi), as paired with gradient ascent by TOFU (arXiv:2401.06121) and LUME (arXiv:2502.15097).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lume_run.contracts import Needs, Signals
from lume_run.numerics import widened


def forward_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """sum_v p_ref (log p_ref - log p) at each position: (..., V), (..., V) -> (...) [nats]."""
    log_p = widened(logits).log_softmax(-1)
    log_ref = widened(ref_logits).log_softmax(-1)
    return (log_ref.exp() * (log_ref - log_p)).sum(-1)


@dataclass(frozen=True, kw_only=True)
class RetainKL:
    """Mean KL over the answer positions of retain rows: prompt and padding never enter."""

    needs: ClassVar[Needs] = Needs(retain_rows=True, reference_logits=True)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        assert s.ref_logits is not None  # granted by needs
        kept = s.mask & ~s.is_forget[:, None]
        ours, theirs = s.at_labels(s.logits)[kept], s.at_labels(s.ref_logits)[kept]  # (N, V)
        return forward_kl(ours, theirs).sum() / max(1, s.totals.retain_tokens)


@dataclass(frozen=True, kw_only=True)
class RetainKLEveryPosition:
    """The released behaviour of closer-look and open-unlearning: mean over all B x T positions, padding included.

    Its value depends on how much padding a batch holds, hence on the micro-batch size. For reproducing
    published numbers only; `RetainKL` is the stated mathematics.
    """

    needs: ClassVar[Needs] = Needs(retain_rows=True, reference_logits=True, every_position=True)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        assert s.ref_logits is not None  # granted by needs
        retain = ~s.is_forget
        return forward_kl(s.logits[retain], s.ref_logits[retain]).sum() / max(1, s.totals.retain_positions)
