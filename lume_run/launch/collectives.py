"""What the ranks of a training decide together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def is_distributed() -> bool:
    """Whether other ranks train with this one."""
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    """Wait for all ranks."""
    import torch

    if is_distributed():
        torch.distributed.barrier()


def any_rank(here: bool | Tensor, device: torch.device) -> bool:
    """Whether it is true on some rank: all ranks must decide the same, or some would wait for ever."""
    return bool(all_reduce_max(float(here), device))


def all_reduce_max(value: float, device: torch.device) -> float:
    """The largest value of all ranks."""
    import torch

    if not is_distributed():
        return value
    maximum = torch.tensor(value, device=device, dtype=torch.float32)
    torch.distributed.all_reduce(maximum, op=torch.distributed.ReduceOp.MAX)
    return float(maximum)


def all_reduce_sum(parts: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
    """Shares of a step's loss parts, added over ranks."""
    import torch

    if not is_distributed() or not parts:
        return {name: float(value) for name, value in parts.items()}
    values = torch.stack([value.float().to(device) for value in parts.values()])
    torch.distributed.all_reduce(values)
    return dict(zip(parts, values.tolist(), strict=True))
