"""Steering hidden states: RMU (Li et al., arXiv:2403.03218), its adaptive form (Dang et al., arXiv:2408.06223).

The output of one decoder layer on forget answers is pushed to a fixed random direction; on retain answers it
stays where the frozen target has it. No logits are needed: layers above the chosen one neither run nor train.
Squared differences are means over the hidden size, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from lume_run.common.lazy import torch
from lume_run.common.logits import to_float32
from lume_run.config.fields import setting
from lume_run.methods.base import Signals, require
from lume_run.methods.needs import MIDDLE, Needs, Role

if TYPE_CHECKING:
    from torch import Tensor

Mean = Literal["rows", "released"]
MEAN_HELP = "rows: of each row's mean; released: the released code's broadcast, see released_mean"
LAYER_HELP = "decoder layer whose output is steered; -1: the other part's, or the middle one"


def at_answers(s: Signals, hidden: Tensor) -> Tensor:
    """The part of `hidden` (B, T, H) at label positions, not shifted: (B, R, H)."""
    return hidden[:, -s.mask.shape[1] :]


def row_sums(s: Signals, role: Role, goal: Tensor) -> Tensor:
    """Squared distance to `goal` (broadcast to (b, R, H)), mean over H, summed over each row's answer: (b,)."""
    hidden = to_float32(s.of_role(role, at_answers(s, require(s.hidden))))
    distance = ((hidden - goal) ** 2).mean(-1)  # (b, R)
    return (distance * s.of_role(role, s.is_answer)).sum(1)


def mean_of_rows(s: Signals, role: Role, sums: Tensor, mean: Mean = "rows") -> Tensor:
    """Mean over rows of each row's mean over its answer tokens (this micro-batch's share)."""
    if mean == "released":
        return released_mean(s, role, sums)
    return (sums / s.lengths(role).clamp(min=1)).sum() / s.totals.of(role).rows


def released_mean(s: Signals, role: Role, sums: Tensor) -> Tensor:
    """mean(row sums) x mean(1 / row lengths): what broadcasting [B] against [B, 1] comes to in the released code.

    NaN with a row without answer tokens, as there. Not separable, so it depends on the micro-batch.
    """
    if not len(sums):
        return sums.sum()
    return (sums / s.lengths(role)[:, None]).mean(0).sum() / s.totals.of(role).rows


def direction(size: int, seed: int, like: Tensor) -> Tensor:
    """The random unit vector (H,) of positive entries that forget states are pushed to, fixed by the seed."""
    return _unit_vector(size, seed, like.device)


@cache
def _unit_vector(size: int, seed: int, device: torch.device) -> Tensor:
    """The same, sent to a device once."""
    positive = torch.rand(1, 1, size, generator=torch.Generator().manual_seed(seed))[0, 0]
    unit: Tensor = positive / positive.norm()
    return unit.to(device)


def frozen_states(s: Signals, role: Role) -> Tensor:
    """The frozen target's states at label positions of this role's rows: (b, R, H)."""
    return to_float32(s.of_reference(role, at_answers(s, require(s.ref_hidden))))


@dataclass(frozen=True, kw_only=True)
class RMU:
    """Forget: mean over rows and answer tokens of |h - c u|^2 / H."""

    layer: int = setting(MIDDLE, low=-1, help=LAYER_HELP)
    steering: float = setting(2.0, low=0, open_low=True, help="length c of the vector states are pushed to")
    vector_seed: int = setting(0, low=0, help="seed of the random direction u")
    mean: Mean = setting("rows", help=MEAN_HELP)

    @property
    def needs(self) -> Needs:
        """Forget states of one layer, no logits."""
        released = self.mean == "released"
        return Needs(rows={Role.FORGET}, hidden_layer=self.layer, logits=False, released_means=released)

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        states = require(s.hidden)
        goal = self.steering * direction(states.shape[-1], self.vector_seed, states)
        return mean_of_rows(s, Role.FORGET, row_sums(s, Role.FORGET, goal), self.mean)


@dataclass(frozen=True, kw_only=True)
class AdaptiveRMU:
    """Forget: RMU whose length is `scale` times the norm of the frozen target's own state at each token."""

    layer: int = setting(MIDDLE, low=-1, help=LAYER_HELP)
    scale: float = setting(5.0, low=0, open_low=True, help="multiple of the frozen state's norm")
    vector_seed: int = setting(0, low=0, help="seed of the random direction u")

    @property
    def needs(self) -> Needs:
        """Forget states of one layer in both models, no logits."""
        return Needs(rows={Role.FORGET}, hidden_layer=self.layer, logits=False, reference_hidden={Role.FORGET})

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        theirs = frozen_states(s, Role.FORGET)
        goal = self.scale * theirs.norm(dim=-1, keepdim=True) * direction(theirs.shape[-1], self.vector_seed, theirs)
        return mean_of_rows(s, Role.FORGET, row_sums(s, Role.FORGET, goal))


@dataclass(frozen=True, kw_only=True)
class EmbeddingDistance:
    """Retain: mean over rows and answer tokens of |h - h_ref|^2 / H at the same layer."""

    layer: int = setting(MIDDLE, low=-1, help=LAYER_HELP)
    mean: Mean = setting("rows", help=MEAN_HELP)

    @property
    def needs(self) -> Needs:
        """Retain states of one layer in both models, no logits."""
        states = Needs(rows={Role.RETAIN}, hidden_layer=self.layer, logits=False, reference_hidden={Role.RETAIN})
        return replace(states, released_means=self.mean == "released")

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return mean_of_rows(s, Role.RETAIN, row_sums(s, Role.RETAIN, frozen_states(s, Role.RETAIN)), self.mean)
