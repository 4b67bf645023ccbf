"""What the loss tests share: one optimizer step through our own path, and everything it came to."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.methods import altpo, distillation, dpo, entropy, jensun, kl, likelihood, npo, objective, rmu
from lume_run.methods.base import Signals
from lume_run.methods.likelihood import FineTune
from lume_run.methods.objective import Objective, Part, Sum
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.reference import ReferenceCache, live_reference, row_logps
from lume_run.training.signals import read_signals

PAD = 2
MODULES = (altpo, distillation, entropy, jensun, kl, likelihood, npo, objective, dpo, rmu)
NOT_PARTS = (Objective, FineTune, Part)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one optimizer step came to; a parameter without gradient has gradient 0."""

    loss: float
    parts: dict[str, float]
    gradients: dict[str, Tensor]


def signals_of(
    method: Objective,
    model: nn.Module,
    frozen: nn.Module,
    batches: Iterable[Batch],
    last: Mapping[str, float] | None = None,
) -> Iterator[Signals]:
    """Forwards the micro-batches one by one, with the frozen model beside them where the method needs it."""
    reference = live_reference(model, frozen) if method.needs.live_reference else None
    for batch in batches:
        yield read_signals(model, batch, needs=method.needs, reference=reference, last=last)


def run_step(method: Objective, model: nn.Module, signals: Iterable[Signals]) -> Outcome:
    """Losses and gradients summed over the micro-batches of one step."""
    model.zero_grad(set_to_none=True)
    loss, parts = 0.0, {}
    for s in signals:
        losses = method(s)
        losses.total.backward()
        loss += losses.total.item()
        for name, value in losses.parts.items():
            parts[name] = parts.get(name, 0.0) + value.item()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }
    return Outcome(loss=loss, parts=parts, gradients=gradients)


def cached_reference(frozen: nn.Module, rows: Sequence[TokenRow]) -> ReferenceCache:
    """What `ReferenceCache.compute` would write, all rows in one forward."""
    logps = row_logps(frozen, rows, pad_id=PAD)
    return ReferenceCache({row.key: values for row, values in zip(rows, logps, strict=True)})


def parts_of(method: Objective) -> set[type]:
    """The classes of parts that a method is made of."""
    parts: set[type] = set()
    waiting: list[Any] = [method.forget, method.retain]
    while waiting:
        part = waiting.pop()
        if part is not None:
            parts.add(type(part))
            waiting += [term.part for term in part.terms] if isinstance(part, Sum) else []
    return parts


def all_parts() -> set[type]:
    """Every forget objective and retain regulariser there is."""
    return {
        member
        for module in MODULES
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and member not in NOT_PARTS
        and any("__call__" in vars(base) for base in member.__mro__)
        and hasattr(member, "needs")
    }
