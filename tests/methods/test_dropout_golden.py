"""Golden losses whose reference has dropout and was left in train mode: it must run without, live or cached.

The policy is trained at the same time: it stays in train mode (its own dropout is 0, as in the golden models).
"""

from __future__ import annotations

import pytest
import torch
from helpers.golden import GOLDEN_MARKS, PRECISIONS
from helpers.golden_cases import CASES, Case
from helpers.golden_losses import LOSSES, end_id, loss_model, pads_left
from helpers.golden_steps import check, from_rows, from_tensors, rows_of_case
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lume_run.training.reference import ReferenceCache

DTYPE = "float64"
DROPOUT = 0.5

pytestmark = [*GOLDEN_MARKS, pytest.mark.slow]


def dropping_reference(case: Case, attention: str) -> nn.Module:
    """`ref_model` with dropout on its attention, in train mode."""
    model = AutoModelForCausalLM.from_pretrained(
        LOSSES / case.vocabulary / "ref_model",
        dtype=PRECISIONS[DTYPE],
        attn_implementation=attention,
        attention_dropout=DROPOUT,
    )
    return model.train()


@pytest.fixture(autouse=True)
def policies_in_train_mode():
    """For the time of a test; they are shared with other tests."""
    models = [
        load(vocabulary, "model", DTYPE)
        for vocabulary in {case.vocabulary for case in CASES}
        for load in (loss_model, pads_left)
    ]
    for model in models:
        model.train()
    yield
    assert all(model.training for model in models)
    for model in models:
        model.eval()


LIVE = [case for case in CASES if case.method.needs.live_reference]
CACHED = [case for case in CASES if case.method.needs.reference_logps and case.sides]  # where TokenRows will do


@pytest.mark.parametrize("case", LIVE, ids=lambda case: case.id)
def test_a_live_reference_runs_without_dropout(case):
    frozen = dropping_reference(case, "sdpa" if case.sides else "eager")
    for side in case.sides:
        check(from_rows(case, DTYPE, side, frozen=frozen), case, DTYPE)
    if not case.sides:
        check(from_tensors(case, DTYPE, frozen=frozen), case, DTYPE)


@pytest.mark.parametrize("case", CACHED, ids=lambda case: case.id)
def test_the_cache_is_computed_without_dropout(case, tmp_path):
    needs, pad_id = case.method.needs, end_id(case.vocabulary)
    rows = [row for row in rows_of_case(case) if row.role in needs.reference_logps]
    ReferenceCache.compute(dropping_reference(case, "sdpa"), rows, pad_id=pad_id, batch_tokens=64, folder=tmp_path)
    for side in case.sides:
        check(from_rows(case, DTYPE, side, cache=ReferenceCache.load(tmp_path)), case, DTYPE)


def test_dropout_moves_the_loss_of_a_reference_in_train_mode(monkeypatch):
    """So that the tests above can fail."""
    monkeypatch.setattr(PreTrainedModel, "eval", lambda model: model)
    case = next(case for case in LIVE if not case.sides)
    outcomes = [from_tensors(case, DTYPE, frozen=dropping_reference(case, "eager")).loss for _ in range(2)]
    assert not torch.isclose(*map(torch.tensor, outcomes), rtol=1e-3)
