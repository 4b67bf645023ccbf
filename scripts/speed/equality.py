"""Packed rows against padded ones in the dtype that is trained in: how far either is from float32."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lume_run.common.devices import dtype_of
from lume_run.methods.needs import Role
from lume_run.models.forward import forward, label_logps
from lume_run.models.load import load_model
from lume_run.models.rows.batch import NO_TOTALS, Batch, collate
from speed.shapes import Case, lume_rows

ROWS = 8


class Pass(NamedTuple):
    """Log-probs (B, R) of the labels, 0 elsewhere, and the gradient of their sum by each weight."""

    logps: Tensor
    gradients: list[Tensor]


def run_pass(model: nn.Module, batch: Batch, dtype: torch.dtype) -> Pass:
    """One forward and backward pass, under autocast where weights are wider than `dtype`."""
    device = batch.input_ids.device
    narrow = torch.autocast(device.type, dtype) if dtype is not torch.float32 else nullcontext()
    with narrow:
        outputs = forward(model, batch)
    assert outputs.logits is not None  # no method asks for less
    logps = label_logps(outputs.logits, batch).masked_fill(~batch.mask, 0.0)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(logps.sum(), weights, allow_unused=True)
    known = [gradient.detach() for gradient in gradients if gradient is not None]
    return Pass(logps.detach(), known)


def distance(ours: Pass, theirs: Pass) -> tuple[float, float]:
    """(largest difference of a log-prob [nats], difference of all gradients relative to their norm)."""
    worst = float((ours.logps - theirs.logps).abs().max())
    pairs = zip(ours.gradients, theirs.gradients, strict=True)
    apart = sum(float((mine - other).float().square().sum()) for mine, other in pairs)
    norm = sum(float(gradient.float().square().sum()) for gradient in theirs.gradients)
    return worst, (apart / norm) ** 0.5


def equality_lines(case: Case) -> list[str]:
    """The lines to print: packed rows are right where they are no further from float32 than padded ones are."""
    run = case.run
    dtype = dtype_of(run.settings.model.dtype, run.device)
    halves = (lume_rows(run, ROWS, role) for role in (Role.FORGET, Role.RETAIN))
    batch = collate([row for half in halves for row in half], pad_id=1, totals=NO_TOTALS).to(run.device)
    padded = replace(batch, packing=None)
    model = load_model(str(case.folder / "model"), run.settings.model, run.device, dtype=torch.float32)
    exact = run_pass(model, padded, torch.float32)
    lines = [f"{case.title}: log-probs and gradients of {2 * ROWS} rows against float32 padded rows"]
    passes = [("packed", batch, torch.float32)]
    passes += [("padded", padded, dtype), ("packed", batch, dtype)] if dtype is not torch.float32 else []
    for name, rows, number in passes:
        worst, relative = distance(run_pass(model, rows, number), exact)
        title = f"{name}, {str(number).removeprefix('torch.')}"
        lines.append(f"  {title:18} log-probs within {worst:.2e} nats, gradients within {relative:.2e} of their norm")
    return lines
