"""Every expected number here is arithmetic to redo by hand; then a method of one's own, written inside the test."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lume_run.contracts import Losses, Needs, Signals, Totals
from lume_run.methods.kl import RetainKL, RetainKLEveryPosition, forward_kl
from lume_run.methods.likelihood import FineTune, GradientAscent, GradientDescent
from lume_run.methods.npo import NPO
from lume_run.methods.objective import Objective
from lume_run.numerics import token_logps, widened
from lume_run.signals import read_signals
from lume_run.text import TokenRow, collate

LOG2 = math.log(2)

# Two forget rows (2 and 1 label) and two retain rows (1 and 3 labels), R = 3, V = 2.
LOGPS = [[0.0, -1.0, -2.0], [0.0, 0.0, -3.0], [0.0, 0.0, -0.5], [-1.0, -1.5, -2.0]]
MASK = [[0, 1, 1], [0, 0, 1], [0, 0, 1], [1, 1, 1]]
TOTALS = Totals(forget_rows=2, forget_tokens=3, retain_rows=2, retain_tokens=4, forget_positions=6, retain_positions=6)


def hand_signals(**changed) -> Signals:
    mask = torch.tensor(MASK, dtype=torch.bool)
    fields = {
        "logps": torch.tensor(LOGPS),
        "mask": mask,
        "is_answer": mask,
        "targets": torch.zeros(4, 3, dtype=torch.long),
        "is_forget": torch.tensor([True, True, False, False]),
        "totals": TOTALS,
        "logits": torch.zeros(4, 3, 2),
    }
    return Signals(**(fields | changed))


def rows_of(s: Signals, rows: list[int]) -> Signals:
    """A micro-batch of some rows; the totals stay those of the whole step."""
    picked = {
        name: value[rows] if isinstance(value := getattr(s, name), Tensor) else value for name in Signals.__slots__
    }
    return replace(s, **picked)


# ---------------------------------------------------------------------------------------------- likelihood


def test_gradient_ascent_is_the_mean_log_probability_of_forget_tokens():
    assert float(GradientAscent()(hand_signals())) == pytest.approx((-1 - 2 - 3) / 3)


def test_gradient_descent_is_the_mean_nll_of_retain_tokens():
    assert float(GradientDescent()(hand_signals())) == pytest.approx((0.5 + 1 + 1.5 + 2) / 4)


def test_means_run_over_tokens_not_rows():
    """Row means would give (-1.5 - 3) / 2 = -2.25."""
    assert float(GradientAscent()(hand_signals())) == pytest.approx(-2.0)


def test_fine_tuning_counts_the_answer_tokens_predicted():
    """Logits favour token 1; of the labels (1) and (1, 0, 1) three are predicted, two of those in answers."""
    retain = rows_of(hand_signals(), [2, 3])
    s = replace(
        retain,
        targets=torch.tensor([[0, 0, 1], [1, 0, 1]]),
        is_answer=torch.tensor([[False, False, True], [False, True, True]]),
        logits=torch.tensor([0.0, 1.0]).expand(2, 3, 2),
        totals=replace(TOTALS, forget_rows=0, forget_tokens=0),
    )
    losses = FineTune()(s)
    assert float(losses.total) == pytest.approx((0.5 + 1 + 1.5 + 2) / 4)
    assert {name: int(value) for name, value in losses.parts.items()} == {"answer_hits": 2, "answer_tokens": 3}


# ----------------------------------------------------------------------------------------------------- NPO


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 1.0])
def test_first_npo_step_is_two_over_beta_log_two(beta):
    s = hand_signals(ref_logps=torch.tensor(LOGPS))
    assert float(NPO(beta=beta)(s)) == pytest.approx(2 / beta * LOG2)


def test_npo_by_hand():
    """One row: log pi = -1 - 2 = -3, log ref = -0.5 - 0.5 = -1, so log pi/ref = -2. With beta 0.5 the loss is
    -(2 / 0.5) log sigmoid(-0.5 x -2) = 4 log(1 + e^-1) = 1.2530467."""
    s = rows_of(hand_signals(ref_logps=torch.tensor([[0.0, -0.5, -0.5], [9.0] * 3, [9.0] * 3, [9.0] * 3])), [0])
    s = replace(s, totals=replace(TOTALS, forget_rows=1))
    assert float(NPO(beta=0.5)(s)) == pytest.approx(4 * math.log(1 + math.exp(-1)))
    assert float(NPO(beta=0.5)(s)) == pytest.approx(1.2530467)


def test_npo_is_a_mean_over_rows():
    """Ratios -2 and 0 at beta 0.5: (1.2530467 + 4 log 2) / 2."""
    s = hand_signals(ref_logps=torch.tensor([[0.0, -0.5, -0.5], [0.0, 0.0, -3.0], [0.0] * 3, [0.0] * 3]))
    assert float(NPO(beta=0.5)(s)) == pytest.approx((4 * math.log(1 + math.exp(-1)) + 4 * LOG2) / 2)


def test_npo_gradient_fades_where_the_answer_is_forgotten():
    """d loss / d log pi = 2 sigmoid(beta log pi/ref) per row: 1 at the start, 2 sigmoid(-50) far below it."""
    for ratio, slope in ((0.0, 1.0), (-100.0, 2 / (1 + math.exp(50))), (2.0, 2 / (1 + math.exp(-1)))):
        logps = torch.tensor([[ratio - 1.0]], requires_grad=True)
        mask = torch.ones(1, 1, dtype=torch.bool)
        s = Signals(
            logps=logps,
            mask=mask,
            is_answer=mask,
            targets=torch.zeros(1, 1, dtype=torch.long),
            is_forget=torch.tensor([True]),
            totals=Totals(forget_rows=1, forget_tokens=1, retain_rows=0, retain_tokens=0),
            logits=torch.zeros(1, 1, 2),
            ref_logps=torch.tensor([[-1.0]]),
        )
        NPO(beta=0.5)(s).backward()
        assert float(logps.grad) == pytest.approx(slope, rel=1e-5)


def test_small_beta_npo_has_the_gradient_of_summed_gradient_ascent():
    """Towards beta 0 the slope per row is 1, as for the summed log-probability."""
    logps = torch.tensor(LOGPS, dtype=torch.float64, requires_grad=True)
    s = hand_signals(logps=logps, ref_logps=torch.full((4, 3), -0.7, dtype=torch.float64))
    NPO(beta=1e-9)(s).backward()
    assert logps.grad[:2] == pytest.approx(torch.full((2, 3), 1 / 2, dtype=torch.float64))  # mean over two rows
    assert not logps.grad[2:].any()


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_npo_needs_a_positive_beta(beta):
    with pytest.raises(ValueError, match="beta must be greater than 0"):
        NPO(beta=beta)


# ------------------------------------------------------------------------------------------------------ KL


def log(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def test_kl_by_hand_and_its_direction():
    """Reference (3/4, 1/4), model (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2) = 0.1308120; the other direction is
    1/2 log(2/3) + 1/2 log 2 = 0.1438410."""
    model, reference = log(0.5, 0.5), log(0.75, 0.25)
    assert float(forward_kl(model, reference)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(forward_kl(model, reference)) == pytest.approx(0.1308120, abs=1e-6)
    assert float(forward_kl(reference, model)) == pytest.approx(0.1438410, abs=1e-6)


def test_kl_does_not_see_a_constant_added_to_logits():
    model, reference = log(0.5, 0.5) + 7, log(0.75, 0.25) - 3
    assert float(forward_kl(model, reference)) == pytest.approx(0.1308120, abs=1e-6)


@pytest.mark.parametrize("part", [RetainKL(), RetainKLEveryPosition()])
def test_kl_of_identical_models_is_zero_with_zero_gradient(part):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator).requires_grad_()
    loss = part(hand_signals(logits=logits, ref_logits=logits.detach()))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert logits.grad == pytest.approx(torch.zeros(4, 3, 5), abs=1e-7)


def test_kl_by_hand_over_two_tokens():
    """Model (1/2, 1/2) everywhere. Reference: (3/4, 1/4) at one of the 4 retain labels, (1/4, 3/4) at another
    and at every position that must not count (forget rows, outside the mask): 2 x 0.1308120 / 4."""
    reference = log(0.5, 0.5).repeat(4, 3, 1)
    reference[:2] = log(0.25, 0.75)
    reference[2, :2] = log(0.25, 0.75)
    reference[2, 2] = log(0.75, 0.25)
    reference[3, 1] = log(0.25, 0.75)
    s = hand_signals(logits=log(0.5, 0.5).repeat(4, 3, 1), ref_logits=reference)
    assert float(RetainKL()(s)) == pytest.approx(2 * 0.1308120 / 4, abs=1e-6)
    # released behaviour: all 2 x 3 retain positions count, padding too, of which four differ
    assert float(RetainKLEveryPosition()(s)) == pytest.approx(4 * 0.1308120 / 6, abs=1e-6)


# ----------------------------------------------------------------------------------------------- Objective


def test_objective_weighs_its_parts():
    s = hand_signals()
    losses = Objective(
        name="x", forget=GradientAscent(), retain=GradientDescent(), forget_weight=0.7, retain_weight=2.0
    )(s)
    assert float(losses.total) == pytest.approx(0.7 * -2 + 2 * 1.25)
    assert {name: float(value) for name, value in losses.parts.items()} == pytest.approx(
        {"forget_loss": -2.0, "retain_loss": 1.25}
    )
    assert not any(value.requires_grad for value in losses.parts.values())


def test_objective_without_retain_part():
    losses = Objective(name="x", forget=GradientAscent(), forget_weight=0.5)(hand_signals())
    assert float(losses.total) == pytest.approx(-1.0)
    assert list(losses.parts) == ["forget_loss"]


def test_needs_are_those_of_both_parts():
    assert Objective(name="x", forget=GradientAscent()).needs == Needs()
    assert Objective(name="x", forget=NPO()).needs == Needs(reference_logps=True)
    assert Objective(name="x", forget=NPO(), retain=GradientDescent()).needs == Needs(
        reference_logps=True, retain_rows=True
    )
    assert Objective(name="x", forget=GradientAscent(), retain=RetainKLEveryPosition()).needs == Needs(
        retain_rows=True, reference_logits=True, every_position=True
    )


OBJECTIVES = [
    Objective(name="ga", forget=GradientAscent()),
    Objective(name="graddiff", forget=GradientAscent(), retain=GradientDescent(), forget_weight=0.7),
    Objective(name="ga+kl", forget=GradientAscent(), retain=RetainKL(), retain_weight=2.0),
    Objective(name="ga+released kl", forget=GradientAscent(), retain=RetainKLEveryPosition()),
    Objective(name="npo+gd", forget=NPO(beta=0.5), retain=GradientDescent()),
]


@pytest.mark.parametrize("method", OBJECTIVES, ids=lambda method: method.name)
@pytest.mark.parametrize(
    "groups", [[[0], [1], [2], [3]], [[0, 2], [1, 3]], [[3], [2, 0, 1]], [[0, 1], [2, 3]]], ids=str
)
def test_shares_of_micro_batches_sum_to_the_step(method, groups):
    """Also where a micro-batch holds forget rows only, or retain rows only."""
    generator = torch.Generator().manual_seed(1)
    s = hand_signals(
        logits=torch.randn(4, 3, 5, generator=generator),
        ref_logits=torch.randn(4, 3, 5, generator=generator),
        ref_logps=-torch.rand(4, 3, generator=generator) * torch.tensor(MASK),
    )
    whole, shares = method(s), [method(rows_of(s, group)) for group in groups]
    assert float(sum(share.total for share in shares)) == pytest.approx(float(whole.total), rel=1e-6)
    for name, value in whole.parts.items():
        assert float(sum(share.parts[name] for share in shares)) == pytest.approx(float(value), rel=1e-6)


# ------------------------------------------------------------------------------------------------ numerics


def test_token_logps_by_hand():
    """Probabilities (1/4, 3/4): log 1/4 and log 3/4, whatever constant the logits carry."""
    logits = (log(0.25, 0.75) + 5).expand(1, 2, 2)
    assert token_logps(logits, torch.tensor([[0, 1]])).tolist() == [
        pytest.approx([math.log(0.25), math.log(0.75)], abs=1e-6)
    ]


def test_half_precision_is_widened_before_the_softmax():
    """257 equal bf16 logits: log 1/257 = -5.5490761; rounded to bf16 it would be -5.5625 or -5.53125."""
    logps = token_logps(torch.zeros(1, 257, dtype=torch.bfloat16), torch.tensor([3]))
    assert logps.dtype == torch.float32
    assert float(logps) == pytest.approx(-math.log(257), abs=1e-6)
    assert widened(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


# ---------------------------------------------------------------------------------------- a method of one's own


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Keep every forget token's log-probability below the reference by `margin` [nats]: a hinge."""

    margin: float = 1.0
    needs: ClassVar[Needs] = Needs(reference_logps=True)

    def __call__(self, s: Signals) -> Tensor:
        assert s.ref_logps is not None
        above = (s.logps - s.ref_logps + self.margin).clamp(min=0) * s.mask
        return above[s.is_forget].sum() / max(1, s.totals.forget_tokens)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A method that is no pair of parts: mean log-probability of forget rows minus that of retain rows."""

    name: str = "whole"
    needs: ClassVar[Needs] = Needs(retain_rows=True)

    def __call__(self, s: Signals) -> Losses:
        sums = s.logps.sum(1)
        return Losses(
            total=sums[s.is_forget].sum() / 2 - sums[~s.is_forget].sum() / 2, parts={"rows": s.mask.any(1).sum()}
        )


@pytest.fixture
def tiny_model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny)


@pytest.fixture
def tiny_batch():
    rows = [
        TokenRow(
            example_id=str(number),
            ids=tuple(range(300, 305 + number)),
            answer_start=3,
            label_start=3,
            is_forget=number < 2,
        )
        for number in range(4)
    ]
    labels = [row.labels for row in rows]
    totals = Totals(forget_rows=2, forget_tokens=sum(labels[:2]), retain_rows=2, retain_tokens=sum(labels[2:]))
    return collate(rows, pad_id=1, totals=totals)


def test_a_new_forget_objective_pairs_with_what_is_there(tiny_model, tiny_batch):
    method = Objective(name="margin+gd", forget=Margin(margin=0.25), retain=GradientDescent())
    with torch.no_grad():
        before = read_signals(tiny_model, tiny_batch, needs=Needs()).logps
    s = read_signals(tiny_model, replace(tiny_batch, ref_logps=before), needs=method.needs)
    losses = method(s)
    assert float(losses.parts["forget_loss"]) == pytest.approx(0.25, abs=1e-5)  # pi = ref: the margin itself
    retain_nll = -float(before[2:].sum()) / tiny_batch.totals.retain_tokens
    assert losses.total.item() == pytest.approx(0.25 + retain_nll, rel=1e-5)
    losses.total.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in tiny_model.parameters())


def test_a_whole_new_method(tiny_model, tiny_batch):
    losses = Whole()(read_signals(tiny_model, tiny_batch, needs=Whole().needs))
    assert losses.total.requires_grad
    assert int(losses.parts["rows"]) == 4


def test_a_missing_reference_is_an_error_not_a_default(tiny_model, tiny_batch):
    with pytest.raises(ValueError, match="cached reference log-probs"):
        read_signals(tiny_model, tiny_batch, needs=Needs(reference_logps=True))
    with pytest.raises(ValueError, match="live reference"):
        read_signals(tiny_model, tiny_batch, needs=Needs(reference_logits=True))


def test_kl_on_answers_is_the_same_when_every_position_was_computed():
    """A partner that needs every position hands RetainKL logits of all T positions; it reads the labelled ones."""
    torch.manual_seed(0)
    logits, reference = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    mask = torch.tensor([[False, True, True, False], [False, False, False, True]])
    own = {
        "logps": torch.zeros(2, 4),
        "mask": mask,
        "is_answer": mask,
        "targets": torch.zeros(2, 4, dtype=torch.long),
        "is_forget": torch.tensor([False, False]),
        "totals": Totals(forget_rows=0, forget_tokens=0, retain_rows=2, retain_tokens=3),
    }
    wide = RetainKL()(Signals(logits=logits, ref_logits=reference, **own))
    narrow = RetainKL()(Signals(logits=logits[:, :-1], ref_logits=reference[:, :-1], **own))
    assert wide.item() == narrow.item() > 0
