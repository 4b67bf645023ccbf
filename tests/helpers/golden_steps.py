"""One step of a golden case through our own path, and its loss and gradients against the golden ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.golden_cases import SETTLED, Case
from helpers.golden_losses import (
    end_id,
    golden_rows,
    golden_tensors,
    golden_totals,
    loss_model,
    pads_left,
    with_first_label,
)
from helpers.losses import Outcome, cached_reference, run_step, signals_of
from lume_run.methods.needs import Needs, Role
from lume_run.models.rows.batch import collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.reference import ReferenceCache
from lume_run.training.schedule import totals_of
from lume_run.training.signals import read_signals


@cache
def reference_logps(vocabulary: str, dtype: str, name: str, role: Role):
    """The cache is always computed from left-padded rows."""
    frozen = pads_left(vocabulary, "ref_model", dtype)
    return cached_reference(frozen, golden_rows(vocabulary, name, role)).logps


def golden_cache(case: Case, dtype: str) -> ReferenceCache:
    """The cached log-probs of all rows that need them."""
    logps: dict[str, Tensor] = {}
    for role in case.method.needs.reference_logps:
        logps |= reference_logps(case.vocabulary, dtype, case.batches[role], role)
    return ReferenceCache(logps)


def rows_of_case(case: Case) -> list[TokenRow]:
    """The rows of all roles."""
    return [row for role, name in case.batches.items() for row in golden_rows(case.vocabulary, name, role)]


def from_rows(
    case: Case, dtype: str, side: str, *, frozen: nn.Module | None = None, cache: ReferenceCache | None = None
) -> Outcome:
    """One batch of TokenRows in all roles; the reference is `ref_model` and its log-probs, or those given."""
    rows, needs = rows_of_case(case), case.method.needs
    totals = totals_of(rows, [range(len(rows))])
    batch = collate(rows, pad_id=end_id(case.vocabulary), totals=totals, every_position=side == "right")
    batch = (cache or golden_cache(case, dtype)).attach(batch, needs.reference_logps)
    load = pads_left if side == "left" else loss_model
    model = load(case.vocabulary, "model", dtype)
    frozen = load(case.vocabulary, "ref_model", dtype) if frozen is None else frozen
    return run_step(case.method, model, signals_of(case.method, model, frozen, [batch]))


def from_tensors(
    case: Case, dtype: str, last: Mapping[str, float] | None = None, *, frozen: nn.Module | None = None
) -> Outcome:
    """The golden tensors, one micro-batch a side; the live reference is `ref_model`, or the one given."""
    model, target = (loss_model(case.vocabulary, folder, dtype) for folder in ("model", "ref_model"))
    totals = golden_totals(case.vocabulary, case.batches, from_index=0 if case.counts_first else 1)
    sides = [
        {role: name for role, name in case.batches.items() if role.is_forget == forget} for forget in (True, False)
    ]
    batches = [golden_tensors(case.vocabulary, side, totals) for side in sides if side]
    if case.method.needs.reference_logps:
        with torch.no_grad():
            batches = [replace(batch, ref_logps=read_signals(target, batch, needs=Needs()).logps) for batch in batches]
    signals = signals_of(case.method, model, target if frozen is None else frozen, batches, last)
    if case.counts_first:
        signals = (with_first_label(s) if s.rows(Role.FORGET).any() else s for s in signals)
    return run_step(case.method, model, signals)


def entry(gradients: dict[str, Tensor], place: str) -> float:
    """`parameter[3,7]` or `parameter[5]`."""
    name, _, index = place.partition("[")
    return float(gradients[name][tuple(int(number) for number in index.rstrip("]").split(","))])


def close(expected: float | str, absolute: float, relative: float) -> Any:
    """The golden README's bound: absolute + relative x |golden|; not-a-number equals itself."""
    value = float(expected)
    return pytest.approx(value, abs=absolute + (0 if math.isnan(value) else relative * abs(value)), rel=0, nan_ok=True)


def check_loss(ours: float, golden: float | str, dtype: str, what: str = "loss") -> None:
    absolute, relative = (1e-6, 1e-5) if dtype == "float64" else (2e-6, 2e-5)
    assert ours == close(golden, absolute, relative), what


def check_gradients(gradients: dict[str, Tensor], golden: dict[str, Any], dtype: str) -> None:
    """Global and per-parameter norms and single entries, at the tolerances of the golden README."""
    wide = dtype == "float64"
    norms = {name: gradient.double().norm().item() for name, gradient in gradients.items()}
    relative, whole = (1e-5 if wide else 1e-4), float(golden["grad_l2"])
    size = 0.0 if math.isnan(whole) else whole
    assert math.hypot(*norms.values()) == close(whole, 0, relative)
    for name, expected in golden.get("grad_l2_per_param", {}).items():
        assert norms[name] == close(expected, 1e-6 * size, relative), name
    relative, of_norm = (1e-4, 2e-6) if wide else (1e-3, 1e-5)
    for place, expected in golden.get("grad_entries", {}).items():
        assert entry(gradients, place) == close(expected, of_norm * size, relative), place


def check(outcome: Outcome, case: Case, dtype: str) -> None:
    golden = case.golden(dtype)
    loss = golden["loss"] if "loss" in golden else golden["value"]
    assert golden["grad_entries"]
    if dtype == "float64" and case.section == "losses":
        assert set(golden["grad_l2_per_param"]) == set(outcome.gradients)
    check_gradients(outcome.gradients, golden, dtype)
    if case in SETTLED:  # NaN there; here the row without labels counts as one of NLL 0
        assert loss == "NaN"
        assert math.isfinite(outcome.loss)
        return
    check_loss(outcome.loss, loss, dtype)
    for name, expected in case.golden_parts(dtype).items():
        check_loss(outcome.parts.get(name, 0.0), expected, dtype, name)
