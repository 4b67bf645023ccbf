"""Arithmetic on logits that methods and the model runner share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from lume_run.common.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_NUMBERS = 2**24  # logits that are widened at once: 64 MiB in float32
KEPT_NUMBERS = {"cpu": 2**25, "cuda": 2**28}  # logits that are kept for the backward pass at most
PART_NUMBERS = {"cpu": 2**23, "cuda": 2**26}  # logits at once: a GPU is busy with many rows only
CACHED_NUMBERS = 2**18  # the same on a CPU, whose cache holds 1 MiB: what is made of them is read from there


def to_float32(logits: Tensor) -> Tensor:
    """Half-precision logits as float32; wider ones untouched (a bf16 log-softmax loses about three digits)."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log p(target) [nats] of logits (..., V) at targets (...), float32 or wider.

    A part of the rows at a time, so that there is never a float32 copy of all logits, nor one of their softmax: the
    backward pass computes it anew.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    logps: Tensor = _token_logps_function().apply(flat, targets.reshape(-1))
    return logps.view(targets.shape)


@cache
def _token_logps_function() -> Any:
    """The function that torch differentiates by its own backward pass; a class of torch's, so made when first used."""

    class TokenLogps(torch.autograd.Function):
        """`token_logps` of logits (N, V) at targets (N,)."""

        @staticmethod
        def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
            sums = [to_float32(part).logsumexp(-1) for part in torch.split(logits, rows_at_once(logits))]
            total = torch.cat(sums)
            ctx.save_for_backward(logits, targets, total)
            return to_float32(logits.gather(-1, targets[:, None])[:, 0]) - total

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
            logits, targets, total = ctx.saved_tensors
            (of_logps,) = gradients
            result = torch.empty_like(logits)
            for part in row_slices(logits):
                weight = of_logps[part, None]
                wide = result[part] if result.dtype == total.dtype else None  # else in a copy that is wider
                softmax = torch.sub(to_float32(logits[part]), total[part, None], out=wide).exp_()
                softmax.mul_(-weight).scatter_add_(1, targets[part, None], weight)
                if wide is None:
                    result[part] = softmax
            return result, None

    return TokenLogps


def likeliest(logits: Tensor) -> Tensor:
    """The index of the largest logit (...,) of (..., V), the first of equal ones; numpy's on a CPU, which is faster."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.as_tensor(to_float32(logits).numpy(force=True).argmax(-1))


def log_total(logits: Tensor) -> Tensor:
    """log of the summed exponentials (N,) of logits (N, V), with one copy of them; not finite where a logit is not."""
    peaks = logits.amax(-1, keepdim=True)
    return (logits - peaks).exp_().sum(-1).log_() + peaks[:, 0]


def rows_at_once(logits: Tensor) -> int:
    """How many rows of logits (..., V) are widened at once."""
    numbers = min(CHUNK_NUMBERS, CACHED_NUMBERS) if logits.device.type == "cpu" else CHUNK_NUMBERS
    return max(1, numbers // logits.shape[-1])


def row_slices(logits: Tensor) -> Iterator[slice]:
    """The rows of logits (N, V), as many at a time as are widened at once."""
    size = rows_at_once(logits)
    for begin in range(0, len(logits), size):
        yield slice(begin, begin + size)
