"""Sharpness-aware unlearning: the forget loss where it is worst within a ball around the weights, for any loss.

Fan et al., arXiv:2502.05374 ("Towards LLM Unlearning Resilient to Relearning Attacks"), NPO+SAM; SAM: Foret et al.,
arXiv:2010.01412. A step descends along the gradient of forget(w + rho g / |g|) at these weights, g being the gradient
of forget(w), plus that of retain(w). Relearning is a step back along such a g, so that a flat loss is harder to undo.

All micro-batches of a step come before its perturbation, so how it is cut changes nothing: their forget rows run at w,
then again at w + rho g / |g|, then their retain rows at w.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.methods.needs import Role
from lume_run.models.precision import float64_norm
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.roles import HostBatch, plan_roles
from lume_run.training.schedule import IDLE_ROLE
from lume_run.training.trainer import UnlearnTrainer

FORGET_LOSS, PERTURBED_LOSS = "forget_loss", "perturbed_forget_loss"


class SharpnessTrainer(UnlearnTrainer):
    """Runs one method over one schedule, its forget loss at the worst weights within `rho` of those it has."""

    def __init__(self, *, rho: float, **fields: Any) -> None:
        super().__init__(**fields)
        self.rho = rho
        self._waiting: list[Batch] = []  # of the step under way

    def add_gradient(self, model: nn.Module, host: HostBatch) -> Tensor:
        """Nothing until the step's last micro-batch, and then all of them. Raises Diverged as without sharpness."""
        self._waiting.append(host.batch)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        step, self._waiting = self._waiting, []
        roles = step[0].totals.counts.keys()  # of the whole step, so all ranks do the same
        loss = torch.zeros((), device=self.args.device)
        has_retain = not all(role.is_forget for role in roles)
        if any(role.is_forget for role in roles):
            loss = loss + self._forget_at_worst(model, step, syncs=not has_retain)
        if has_retain:
            loss = loss + self._backward(model, [side_of(batch, forget=False) for batch in step], syncs=True)
        return loss

    def _forget_at_worst(self, model: nn.Module, step: Sequence[Batch], *, syncs: bool) -> Tensor:
        """Leaves the gradient of the forget loss at the perturbed weights; its value there."""
        batches = [side_of(batch, forget=True) for batch in step]
        self._backward(model, batches, syncs=True)
        parts, tokens = dict(self._parts), self._tokens  # as they are without sharpness
        with self._perturbed(model):
            loss = self._backward(model, batches, syncs=syncs)
        if FORGET_LOSS in parts:
            parts[PERTURBED_LOSS] = self._parts[FORGET_LOSS] - parts[FORGET_LOSS]
        self._parts, self._tokens = parts, tokens
        return loss

    def _backward(self, model: nn.Module, batches: Sequence[Batch], *, syncs: bool) -> Tensor:
        """Adds the gradients of these micro-batches, those of all ranks with `syncs`; the sum of their losses."""
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches, 1):
            is_last, host = syncs and number == len(batches), HostBatch(batch, plan_roles(batch, self.method.needs))
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                total = total + super().add_gradient(model, host)
        return total

    @contextmanager
    def _perturbed(self, model: nn.Module) -> Iterator[None]:
        """Moves the weights by `rho` along their gradient, which is forgotten, and puts them back exactly."""
        moved = [parameter for parameter in model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        kept = [parameter.detach().clone() for parameter in moved]
        self._norm = float64_norm(gradients)
        length = float(self._norm)
        if not math.isfinite(length):  # the same on all ranks
            self._refuse_gradient(model, list(self._results))
        with torch.no_grad():
            for parameter, gradient in zip(moved, gradients, strict=True):
                parameter.add_(gradient, alpha=self.rho / length if length else 0.0)
        model.zero_grad(set_to_none=True)
        try:
            yield
        finally:  # also where the perturbed loss diverges: the last good weights are saved then
            with torch.no_grad():
                for parameter, before in zip(moved, kept, strict=True):
                    parameter.copy_(before)


def side_of(batch: Batch, *, forget: bool) -> Batch:
    """The rows of one side; where there are none one that counts for nothing, so that all devices stay in step."""
    roles = batch.role.tolist()
    chosen = torch.tensor([role != IDLE_ROLE and Role(role).is_forget is forget for role in roles])
    if chosen.any():
        return batch.take(chosen)
    idle = batch.take(torch.arange(len(roles)) == 0)
    return replace(idle, role=torch.full_like(idle.role, IDLE_ROLE))
