"""Arithmetic on logits that methods and the model runner share."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float32(logits: Tensor) -> Tensor:
    """Half-precision logits as float32; wider ones untouched (a bf16 log-softmax loses about three digits)."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log p(target) [nats] of logits (..., V) at targets (...): a gather and a logsumexp."""
    wide = to_float32(logits)
    return wide.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - wide.logsumexp(-1)
