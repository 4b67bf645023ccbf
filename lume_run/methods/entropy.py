"""Flattening predictions on forget rows: maximum entropy (ME, arXiv:2410.08109), logit margins (PDU, arXiv:2506.05314).

ME minimises KL(P || U) between each predicted distribution P and the uniform U over the vocabulary. Its released
code minimises KL(U || P), over the padding as well; `MaximumEntropyCompat` does the same. PDU minimises the squared
margin between the largest logit and the mean; it bounds the retain loss instead of weighing it, which `method.dual`
(`objective.Dual`) does for any method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lume_run.common.lazy import torch
from lume_run.common.logits import to_float32
from lume_run.config.fields import setting
from lume_run.methods.base import Signals, TokenMean, require
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-12  # added to probabilities by the released code


def kl_to_uniform(logits: Tensor) -> Tensor:
    """KL(P || U) = log V - H(P) at each position: (..., V) -> (...) [nats], at most log V."""
    divergence: Tensor = _kl_to_uniform_function().apply(logits)
    return divergence


@cache
def _kl_to_uniform_function() -> Any:
    """The divergence with its own backward pass, p (log p + H(P)): half the passes that torch's would take."""

    class KLToUniform(torch.autograd.Function):
        """`kl_to_uniform` of logits (..., V)."""

        @staticmethod
        def forward(ctx: Any, logits: Tensor) -> Tensor:
            logps = to_float32(logits).log_softmax(-1)
            negative_entropy = logps.exp().mul_(logps).sum(-1)
            ctx.dtype = logits.dtype
            ctx.save_for_backward(logps, negative_entropy)
            return math.log(logits.shape[-1]) + negative_entropy

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            logps, negative_entropy = ctx.saved_tensors
            (of_divergence,) = gradients
            gradient = logps - negative_entropy[..., None]
            of_logits: Tensor = gradient.mul_(logps.exp()).mul_(of_divergence[..., None]).to(ctx.dtype)
            return of_logits

    return KLToUniform


def kl_from_uniform(logits: Tensor) -> Tensor:
    """KL(U || P) = logsumexp(z) - mean(z) - log V at each position: (..., V) -> (...) [nats], unbounded."""
    wide = to_float32(logits)
    return wide.logsumexp(-1) - wide.mean(-1) - math.log(logits.shape[-1])


@dataclass(frozen=True, kw_only=True)
class MaximumEntropy(TokenMean):
    """Forget: mean over rows of the mean KL over a row's tokens, padding never entering."""

    direction: Literal["to_uniform", "from_uniform"] = setting(
        "to_uniform", help="to_uniform: KL(P || U), the paper's; from_uniform: KL(U || P), the released code's"
    )
    prompts: bool = setting(True, help="prompt tokens too, as in the paper; false: answers only")

    @property
    def needs(self) -> Needs:
        """Forget rows, their prompts labelled when those count."""
        return replace(super().needs, whole_rows={Role.FORGET} if self.prompts else frozenset())

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """The divergence of each distribution from the uniform one [nats]."""
        return kl_to_uniform(logits) if self.direction == "to_uniform" else kl_from_uniform(logits)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        counted = s.mask & s.rows(Role.FORGET)[:, None] if self.prompts else s.answers(Role.FORGET)  # (B, R)
        means = s.at_tokens(self, counted).sum(1) / counted.sum(1).clamp(min=1)  # (B,)
        return means.sum() / s.totals.of(Role.FORGET).rows


@dataclass(frozen=True, kw_only=True)
class MaximumEntropyCompat:
    """Forget: mean KL(U || P + 1e-12) over every position but the last of each padded row.

    With `masked` over the answer tokens of the step only (closer-look's `mask: true`).
    """

    masked: bool = setting(False, help="answer tokens only")
    pad_to: int = setting(
        0, low=0, help="pad rows to at least so many tokens (closer-look: 500 on TOFU, 300 real-world)"
    )

    @property
    def needs(self) -> Needs:
        """Right-padded rows with all their logits."""
        return Needs(rows={Role.FORGET}, distributions=True, every_position=True, pad_to=self.pad_to)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        totals = s.totals.of(Role.FORGET)
        if self.masked:
            return released_kl(s.logits_at(s.answers(Role.FORGET))).sum() / totals.tokens
        predictions = require(s.logits)[s.rows(Role.FORGET)][:, :-1]
        return released_kl(predictions).sum() / max(1, totals.positions - totals.rows)


def released_kl(logits: Tensor) -> Tensor:
    """KL(U || P + 1e-12): (..., V) -> (...) [nats]."""
    return -(to_float32(logits).softmax(-1) + SMALLEST).log().mean(-1) - math.log(logits.shape[-1])


def squared_margin(logits: Tensor) -> Tensor:
    """(max_v z - mean_v z)^2: (..., V) -> (...)."""
    wide = to_float32(logits)
    return (wide.amax(-1) - wide.mean(-1)) ** 2


@dataclass(frozen=True, kw_only=True)
class LogitMargin(TokenMean):
    """Forget: mean squared margin of the logits that predict answer tokens."""

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """The squared margin of each distribution."""
        return squared_margin(logits)


@dataclass(frozen=True, kw_only=True)
class LogitMarginCompat:
    """As released: the mask is not shifted, so logits AT answer tokens count, which predict the token after."""

    needs: ClassVar[Needs] = Needs(rows={Role.FORGET}, distributions=True, every_position=True)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        after = require(s.logits)[:, -s.mask.shape[1] :][s.answers(Role.FORGET)]  # (N, V)
        return squared_margin(after).sum() / s.totals.of(Role.FORGET).tokens
