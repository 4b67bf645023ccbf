"""JensUn: Jensen-Shannon divergences on both sides, which log 2 bounds, so that no step can run away.

Singh et al., "Unlearning That Lasts", arXiv:2509.02820: L = forget_weight L_F + retain_weight L_R, both weights 1.
L_F is the mean over forget answer tokens of JS(P_t, delta of a fixed token), the tokens of a refusal ("No idea") one
after another, again and again, whatever the true answer before them says. L_R is the mean over retain answer tokens of
JS(P_t, P_ref,t). JS(P, Q) = KL(P || M) / 2 + KL(Q || M) / 2 with M = (P + Q) / 2. The released code averages over
prompts and padding too and gives every token of the refusal the probability 1 everywhere, which is no distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lume_run.common.lazy import torch
from lume_run.common.logits import to_float32
from lume_run.config.fields import setting
from lume_run.methods.base import Signals, TokenMean, require
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 40.0  # difference of log-probabilities beyond which 1 + e^d is e^d in float64 too


def js_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """JS of the two distributions at each position: (..., V), (..., V) -> (...) [nats], at most log 2.

    Its slope by P_v is log(P_v / M_v) / 2. The log ratios are held constant, which gives just that: what further they
    contribute cancels, and would leave rounding errors where P is near Q.
    """
    log_p, log_q = to_float32(logits).log_softmax(-1), to_float32(other).log_softmax(-1)
    of_p, of_q = (log_to_middle(difference.detach()) for difference in (log_q - log_p, log_p - log_q))
    return (log_p.exp() * of_p + log_q.exp() * of_q).sum(-1) / 2


def log_to_middle(difference: Tensor) -> Tensor:
    """log(p / m) with m = (p + q) / 2 from log q - log p, which is -log((1 + e^difference) / 2): accurate near 0."""
    near = difference.clamp(max=LARGEST)
    return near - difference - (near.expm1() / 2).log1p()


def js_to_certainty(logps: Tensor) -> Tensor:
    """JS of a distribution and the certainty of a token, from the token's log-probability: (...) -> (...) [nats].

    With p = exp(logps) it is log 2 - ((1 + p) log(1 + p) - p log p) / 2: log 2 at p = 0, and 0 at p = 1. Its slope by
    log p is -p log((1 + p) / p) / 2, so a token that the model all but excludes is hardly pulled.
    """
    p = logps.exp()
    return math.log(2) - ((1 + p) * p.log1p() - p * logps) / 2


@dataclass(frozen=True, kw_only=True)
class TokenLogProb:
    """The log-probability [nats] of one token at every forget label."""

    token: int
    role: ClassVar[Role] = Role.FORGET
    reads_reference: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """Of each distribution."""
        wide = to_float32(logits)
        return wide[..., self.token] - wide.logsumexp(-1)


@dataclass(frozen=True, kw_only=True)
class JensUn:
    """Forget: mean JS divergence of answer predictions from the certainty of refusal tokens, in turn.

    The first answer token is drawn to the first token of `target`, the next to the next, and after the last one it
    begins again. `tokens` are those of `target` in the vocabulary of the model, unless ids are given.
    """

    target: str = setting("No idea", help="the refusal whose tokens take the place of the answer's, again and again")
    tokens: tuple[int, ...] = setting((), help="ids of its tokens; none: what the model's tokenizer makes of target")

    def __post_init__(self) -> None:
        """Raises ValueError for ids below 0."""
        if any(token < 0 for token in self.tokens):
            raise ValueError(f"tokens are ids from 0 on, not {min(self.tokens)}")

    @property
    def token_losses(self) -> tuple[TokenLogProb, ...]:
        """What is read for each token of the target; of the first one where they are not known yet."""
        return tuple(TokenLogProb(token=token) for token in self.tokens or (0,))

    @property
    def needs(self) -> Needs:
        """Forget rows, and the log-probabilities of the target's tokens."""
        return Needs(rows={Role.FORGET}, token_losses=tuple(dict.fromkeys(self.token_losses)))

    def with_token_ids(self, ids_of: Callable[[str], tuple[int, ...]]) -> JensUn:
        """The same with the ids of its tokens. Raises ValueError for a target without any."""
        ids = self.tokens or ids_of(self.target)
        if not ids:
            raise ValueError(f"method.forget.target={self.target!r} has no tokens in this model's vocabulary")
        return replace(self, tokens=ids)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        assert self.tokens, "the ids of the target's tokens were not asked for"
        answers = s.answers(Role.FORGET)
        turns = (answers.cumsum(1) - 1) % len(self.tokens)  # (B, R) which token is next
        divergence = torch.zeros_like(s.logps)
        for turn, loss in enumerate(self.token_losses):
            here = answers & (turns == turn)
            divergence = divergence + js_to_certainty(s.at_tokens(loss, here)).where(here, 0.0)
        return divergence.sum() / s.totals.of(Role.FORGET).tokens


@dataclass(frozen=True, kw_only=True)
class RetainJS(TokenMean):
    """Retain: mean JS divergence between the model and the frozen target over the answer tokens of retain rows."""

    role: ClassVar[Role] = Role.RETAIN
    reads_reference: ClassVar[bool] = True

    def at_tokens(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """JS(P, P_ref) of each distribution [nats]."""
        return js_divergence(logits, require(reference))
