"""The limit of a training step: the seconds that its matrix products alone take on this machine.

Real tokens only, each product once: forward, and backward one for the weights' gradient and one for the inputs'. Rates
are measured at the model's own shapes, since a machine's best rate is not that of narrow ones. Attention within rows,
norms, the softmax of the loss and the optimizer count as nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lume_run.models.rows.tokenise import TokenRow

Shape = tuple[int, int, int]  # (m, k, n) of a product of (m, k) with (k, n)
REPEATS, SHORTEST = 3, 0.02  # measurements, and seconds that each must take


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What the products of a step need: floating-point operations, and seconds at the measured rates."""

    flops: float
    seconds: float

    @property
    def rate(self) -> float:
        """FLOPs a second."""
        return self.flops / self.seconds


def products_of(model: nn.Module, rows: Sequence[TokenRow]) -> Counter[Shape]:
    """Every product of one forward and backward pass over these rows, the head on labels only, by its shape."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    tokens, labels = sum(len(row.ids) for row in rows), sum(row.labels for row in rows)
    shapes: Counter[Shape] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            count, width, out = labels if module is head else tokens, module.in_features, module.out_features
            shapes.update([(count, width, out), (count, out, width), (out, count, width)])
    return shapes


def now(device: torch.device) -> float:
    """Seconds for differences of work: of a CPU those that this process had of it, whatever else runs there."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of one product of this shape, the least of some measurements."""
    m, k, n = shape
    left, right = (torch.randn(size, dtype=dtype, device=device) for size in ((m, k), (k, n)))
    repeats, best = 1, float("inf")
    measured = 0
    while measured < REPEATS:
        began = now(device)
        for _ in range(repeats):
            left @ right
        spent = now(device) - began
        if spent < SHORTEST:
            repeats *= 2
            continue
        best, measured = min(best, spent / repeats), measured + 1
    return best


def step_limit(model: nn.Module, micro_batches: Sequence[Sequence[TokenRow]], dtype: torch.dtype) -> Limit:
    """The limit of one optimizer step that is forwarded as these micro-batches."""
    device = next(model.parameters()).device
    products = Counter[Shape]()
    for rows in micro_batches:
        products += products_of(model, rows)
    seconds = sum(count * seconds_of(shape, dtype, device) for shape, count in products.items())
    return Limit(flops=float(sum(2 * m * k * n * count for (m, k, n), count in products.items())), seconds=seconds)
