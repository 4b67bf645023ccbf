"""What the ranks of a training decide together."""

from __future__ import annotations

from collections.abc import Sequence
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


def read_together(
    here: Sequence[Tensor], shares: Sequence[Tensor], device: torch.device
) -> tuple[list[float], list[float]]:
    """(numbers of this rank, sums of shares over all ranks), for which the host waits for the device once."""
    import torch

    if not is_distributed():
        values = torch.stack([value.double() for value in (*here, *shares)]).tolist()
        return values[: len(here)], values[len(here) :]
    sums = torch.stack([value.float().to(device) for value in shares])
    torch.distributed.all_reduce(sums)
    values = torch.cat([torch.stack([value.double() for value in here]), sums.double()]).tolist()
    return values[: len(here)], values[len(here) :]
