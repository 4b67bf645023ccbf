"""Quantisation: the forgotten may be back in fewer bits (Zhang et al., ICLR 2025, arXiv:2410.16454).

Unlearning moves weights by less than the distance of two 8- or 4-bit numbers, and rounding undoes it. Weights are
rounded to the nearest number of bitsandbytes' grids, in plain torch, and written down as an ordinary model whose
weights lie on the grid: it can be evaluated everywhere. Activations are not rounded (LLM.int8() rounds them too), and
4-bit scales are not quantised again (`model.quantize=4bit` does that).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from lume_run.attacks.base import Edit, Strength
from lume_run.attacks.edit import linear_weights
from lume_run.common.lazy import nn, torch
from lume_run.config.fields import setting
from lume_run.models.precision import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

INT8_MAX = 127
NF4 = (  # quantiles of a normal distribution, zero among them (Dettmers et al., arXiv:2305.14314, appendix E)
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FP4_MAGNITUDES = (
    0.0,
    0.0625,
    2.0,
    3.0,
    4.0,
    6.0,
    8.0,
    12.0,
)  # bitsandbytes' four-bit floats, before they are scaled to 1
FP4 = tuple(sorted({sign * magnitude / 12 for magnitude in FP4_MAGNITUDES for sign in (-1, 1)}))
Format = Literal["int8", "nf4", "fp4"]
BITS: dict[Format, int] = {"int8": 8, "nf4": 4, "fp4": 4}


def nearest(values: Tensor, grid: tuple[float, ...]) -> Tensor:
    """Each value's nearest number of a rising grid; half-way between two the lower one."""
    levels = torch.tensor(grid, dtype=values.dtype, device=values.device)
    between = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(values, between)]


def round_to_grid(weight: Tensor, grid: tuple[float, ...]) -> Tensor:
    """The weight rounded to absmax x grid, absmax over each block of 64 in memory's order; the last may be short."""
    flat = weight.flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    rounded = nearest(blocks / scale.clamp_min(torch.finfo(weight.dtype).tiny), grid) * scale
    return rounded.flatten()[: len(flat)].view_as(weight)


def round_to_int8(weight: Tensor) -> Tensor:
    """The weight (out, in) rounded to a 127th of each row's absmax (LLM.int8(), arXiv:2208.07339)."""
    scale = weight.abs().amax(-1, keepdim=True) / INT8_MAX
    return (weight / scale.clamp_min(torch.finfo(weight.dtype).tiny)).round() * scale


ROUNDINGS: dict[Format, Callable[[Tensor], Tensor]] = {
    "int8": round_to_int8,
    "nf4": partial(round_to_grid, grid=NF4),
    "fp4": partial(round_to_grid, grid=FP4),
}


@dataclass(frozen=True, kw_only=True)
class Quantise:
    """Round the weights of all linear layers but the head to the nearest number of a format."""

    formats: tuple[Format, ...] = setting(
        ("int8", "nf4", "fp4"), help="formats of numbers; results differ by them (bitsandbytes' own 4 bits are fp4)"
    )
    measures: ClassVar[str] = "quantisation"

    def __post_init__(self) -> None:
        """Raises ValueError for no formats, or one twice."""
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats are {list(self.formats)}; give some of {', '.join(BITS)}, each once")

    def edits(self) -> list[Edit]:
        """One for each format."""
        return [
            Edit(
                strength=Strength(label=name, amount=BITS[name], series=name),
                identity={"round_to": name, "block": BLOCK if BITS[name] == 4 else None},
                apply=partial(round_weights, rounding=ROUNDINGS[name]),
            )
            for name in self.formats
        ]


def round_weights(model: nn.Module, rounding: Callable[[Tensor], Tensor]) -> None:
    """Round every linear weight but the head's, in place."""
    with torch.no_grad():
        for weight in linear_weights(model).values():
            weight.copy_(rounding(weight))
