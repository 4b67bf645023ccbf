"""Log-probabilities of given tokens, and their gradient: torch's own, in any number of parts."""

from __future__ import annotations

import pytest
import torch

from lume_run.common import logits as module
from lume_run.common.logits import likeliest, log_total, token_logps

V = 11


def case(dtype, shape=(3, 5)):
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(*shape, V, generator=generator)).to(dtype).requires_grad_(True)
    return logits, torch.randint(0, V, shape, generator=generator), torch.randn(shape, generator=generator)


def plain(logits, targets):
    return logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]


@pytest.mark.parametrize("numbers", [1, 3 * V, 2**24])
@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 4e-2)])
def test_value_and_gradient(dtype, exact, numbers, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_NUMBERS", numbers)
    logits, targets, weights = case(dtype)
    ours, theirs = token_logps(logits, targets), plain(logits, targets)
    assert ours.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(ours.double(), theirs, atol=min(exact, 1e-5), rtol=0)
    ((ours_gradient,), (theirs_gradient,)) = (
        torch.autograd.grad((logps * weights).sum(), logits) for logps in (ours, theirs)
    )
    torch.testing.assert_close(ours_gradient, theirs_gradient, atol=exact, rtol=exact)


def test_impossible_tokens_and_no_rows():
    logits, targets, _ = case(torch.float64)
    with torch.no_grad():
        logits[..., 0] = -torch.inf
        targets[0, 0] = 0
    logps = token_logps(logits, targets)
    assert logps[0, 0] == -torch.inf
    gradient = torch.autograd.grad(logps[1:].sum(), logits)[0]
    assert gradient.isfinite().all()
    assert token_logps(torch.zeros(0, V, requires_grad=True), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_no_wide_copy_is_kept():
    """Between forward and backward there are the logits and one number a row."""
    logits, targets, _ = case(torch.bfloat16, (64,))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        token_logps(logits, targets)
    assert sum(tensor.nbytes for tensor in saved if tensor.data_ptr() != logits.data_ptr()) <= 64 * (8 + 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_likeliest_is_the_first_of_equal_ones(dtype):
    logits = torch.tensor([[1, 3, 3, 2], [0, 0, 0, 0], [-1, -2, -torch.inf, 5], [1, torch.nan, 9, 0]], dtype=dtype)
    assert likeliest(logits).tolist() == [1, 0, 3, 1] == logits.argmax(-1).tolist()
    assert likeliest(logits.requires_grad_()[None]).shape == (1, 4)


def test_log_total():
    logits, _, _ = case(torch.float64)
    torch.testing.assert_close(log_total(logits.flatten(0, 1)), logits.flatten(0, 1).logsumexp(-1))
    assert log_total(torch.tensor([[900.0, 900.0]])).item() == pytest.approx(900.6931, abs=1e-3)
    assert not log_total(torch.tensor([[1.0, torch.nan], [1.0, torch.inf]])).isfinite().any()
