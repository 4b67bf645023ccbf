"""Pruning: setting the smallest weights to zero may undo what unlearning added.

Magnitude pruning (Han et al., arXiv:1506.02626), of each weight matrix by itself as is common for language models, or
of all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from lume_run.attacks.base import Edit, Strength
from lume_run.attacks.edit import linear_weights
from lume_run.common.lazy import nn, torch
from lume_run.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Set the weights of least magnitude in linear layers, the head's excepted, to zero."""

    shares: tuple[float, ...] = setting((0.1, 0.3, 0.5), help="shares of the weights that become zero")
    scope: Literal["matrix", "model"] = setting(
        "matrix", help="matrix: that share of each weight matrix; model: the smallest of all matrices together"
    )

    def __post_init__(self) -> None:
        """Raises ValueError for no shares, one twice, or one outside of 0 to 1."""
        shares = self.shares
        if not shares or len(set(shares)) < len(shares) or not all(0 < share < 1 for share in shares):
            raise ValueError(f"shares are {list(shares)}; give different numbers between 0 and 1, such as 0.1")

    def edits(self) -> list[Edit]:
        """One for each share."""
        return [
            Edit(
                strength=Strength(label=f"{100 * share:g}%", amount=share),
                identity={"prune": share, "scope": self.scope},
                apply=partial(prune_weights, share=share, scope=self.scope),
            )
            for share in self.shares
        ]


def prune_weights(model: nn.Module, share: float, scope: Literal["matrix", "model"]) -> None:
    """Set round(share x weights) of the least magnitude to zero, in place; of equal ones the first."""
    weights = list(linear_weights(model).values())
    groups = [weights] if scope == "model" else [[weight] for weight in weights]
    for group in groups:
        magnitudes = torch.cat([weight.detach().abs().flatten() for weight in group])
        smallest = magnitudes.argsort(stable=True)[: round(share * len(magnitudes))]
        dropped = torch.zeros_like(magnitudes, dtype=torch.bool).index_fill_(0, smallest, True)
        with torch.no_grad():
            for weight, mask in zip(group, torch.split(dropped, [weight.numel() for weight in group]), strict=True):
                weight.masked_fill_(mask.view_as(weight), 0.0)
