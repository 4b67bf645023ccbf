"""Every expected number here is arithmetic to redo by hand; then a method of one's own, written inside the test.

Rows are given by the distribution over a tiny vocabulary at each label, or by log-probabilities [nats] of their answer
tokens. Positions outside the labels hold logits that would be noticed in any result. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM

from lume_run.common.logits import to_float32, token_logps
from lume_run.common.records import Ask, Example, Kind, Split
from lume_run.config.overrides import conf_dir
from lume_run.methods.altpo import AltPO, alternate_of, altpo_in
from lume_run.methods.base import Losses, Signals
from lume_run.methods.baselines import Member, MergeAdapters
from lume_run.methods.distillation import CEU, UNDIAL, UNDIALCompat
from lume_run.methods.dpo import DPO, AnswerPreservation
from lume_run.methods.entropy import (
    LogitMargin,
    LogitMarginCompat,
    MaximumEntropy,
    MaximumEntropyCompat,
    kl_from_uniform,
    kl_to_uniform,
)
from lume_run.methods.jensun import JensUn, RetainJS, TokenLogProb, js_divergence, js_to_certainty
from lume_run.methods.kl import RetainKL, RetainKLCompat, forward_kl
from lume_run.methods.likelihood import (
    FineTune,
    GradientAscent,
    GradientDescent,
    MismatchedAscent,
    Refusal,
    SaturationImportance,
    WeightedAscent,
)
from lume_run.methods.needs import MIDDLE, Count, Needs, Role, Totals
from lume_run.methods.npo import NPO, SimNPO
from lume_run.methods.objective import Dual, Objective, StopWhen, Sum, Term, with_token_ids
from lume_run.methods.rmu import RMU, AdaptiveRMU, EmbeddingDistance, direction
from lume_run.models.rows.batch import collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.schedule import totals_of
from lume_run.training.signals import read_signals

LOG2, LOG3 = math.log(2), math.log(3)
HALVES = (0.5, 0.25, 0.25)  # entropy 1.5 log 2
THIRDS = (1 / 3, 1 / 3, 1 / 3)
WILD = 40.0  # logit of the first token wherever nothing may be read
SHIFT = 3.0  # a constant added to all logits, which changes no distribution
FORGET, RETAIN, FORGET_IDK, RETAIN_IDK, MISMATCH, ALTERNATE = Role


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: the distribution at each label position, the labels, and the same under the frozen target."""

    role: Role
    probs: Sequence[Sequence[float]]
    labels: Sequence[int]
    frozen: Sequence[Sequence[float]] | None = None
    prompt: int = 0  # labels that belong to the prompt


def row_of_logps(role: Role, *logps: float, frozen: Sequence[float] | None = None) -> Row:
    """A row whose answer tokens have these log-probabilities (under the frozen target those of `frozen`)."""

    def pairs(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(math.exp(value), 1 - math.exp(value)) for value in values]

    return Row(role=role, probs=pairs(logps), labels=[0] * len(logps), frozen=None if frozen is None else pairs(frozen))


def count_of(rows: Sequence[Row]) -> Count:
    lengths = tuple(len(row.probs) - row.prompt for row in rows)
    return Count(rows=len(rows), tokens=sum(lengths), labels=sum(len(row.probs) for row in rows), lengths=lengths)


def signals_of(*rows: Row, **changed: Any) -> Signals:
    """Left-padded signals with one column of padding at least; the rows are the whole optimizer step."""
    span = max(len(row.probs) for row in rows) + 1
    size = max((len(row.probs[0]) for row in rows if row.probs), default=2)

    def logits_of(distributions: Sequence[Sequence[float]]) -> Tensor:
        full = torch.zeros(span, size, dtype=torch.float64)
        full[:, 0] = WILD
        for place, probs in enumerate(distributions, span - len(distributions)):
            full[place] = torch.tensor(probs, dtype=torch.float64).log() + SHIFT
        return full

    logits = torch.stack([logits_of(row.probs) for row in rows])
    frozen = torch.stack([logits_of(row.frozen or row.probs) for row in rows])
    in_reference = torch.tensor([row.frozen is not None for row in rows])
    places = torch.arange(span).repeat(len(rows), 1)
    mask = places >= torch.tensor([[span - len(row.probs)] for row in rows])
    targets = torch.tensor([[1] * (span - len(row.labels)) + list(row.labels) for row in rows])
    fields = {
        "logps": token_logps(logits, targets).masked_fill(~mask, 0.0),
        "mask": mask,
        "is_answer": mask & (places >= torch.tensor([[span - len(row.probs) + row.prompt] for row in rows])),
        "targets": targets,
        "role": torch.tensor([row.role.value for row in rows]),
        "totals": Totals(
            counts={role: count_of([row for row in rows if row.role is role]) for role in {row.role for row in rows}}
        ),
        "logits": logits,
        "ref_logps": token_logps(frozen, targets).masked_fill(~mask, 0.0),
        "ref_logits": frozen[in_reference],
        "in_reference": in_reference,
    }
    return Signals(**(fields | changed))


def take_rows(s: Signals, numbers: Sequence[int]) -> Signals:
    """A micro-batch of some rows; the totals stay those of the whole step."""
    changed: dict[str, Any] = {}
    for name in Signals.__slots__:
        value = getattr(s, name)
        if name in ("ref_logits", "ref_hidden") and value is not None:
            stored = torch.arange(len(s.role))[s.in_reference].tolist()
            changed[name] = value[[stored.index(number) for number in numbers if number in stored]]
        elif isinstance(value, Tensor):
            changed[name] = value[list(numbers)]
    return replace(s, **changed)


def with_gradient(s: Signals) -> tuple[Signals, Tensor]:
    """(the signals with logits that record gradients, those logits)."""
    logits = s.logits.clone().requires_grad_()
    return replace(s, logits=logits, logps=token_logps(logits, s.targets).masked_fill(~s.mask, 0.0)), logits


# Two forget answers of 2 and 1 tokens, two retain answers of 1 and 3.
FOUR = (
    row_of_logps(FORGET, -1.0, -2.0),
    row_of_logps(FORGET, -3.0),
    row_of_logps(RETAIN, -0.5),
    row_of_logps(RETAIN, -1.0, -1.5, -2.0),
)


# ---------------------------------------------------------------------------------------------- the contract


def test_roles_know_whose_prompt_they_have():
    assert [role.name for role in Role if role.is_forget] == [
        *("FORGET", "FORGET_IDK", "FORGET_MISMATCH", "FORGET_ALTERNATE")
    ]
    assert [role.name for role in Role if not role.is_forget] == ["RETAIN", "RETAIN_IDK"]


def test_a_share_of_nothing_is_nothing():
    """Counts are at least 1, so that an absent role divides 0 by 1."""
    none = Totals().of(FORGET)
    assert (none.rows, none.tokens, none.labels, none.positions, none.lengths) == (1, 1, 1, 1, ())
    assert GradientAscent()(signals_of(row_of_logps(RETAIN, -1.0))).item() == 0


def test_signals_are_sums_and_lengths_of_answers():
    s = signals_of(
        Row(role=FORGET, probs=[(0.9, 0.1), (0.5, 0.5), (0.25, 0.75)], labels=[0, 0, 0], prompt=1), *FOUR[2:]
    )
    assert s.sums(FORGET).tolist() == pytest.approx([-3 * LOG2])
    assert s.lengths(FORGET).tolist() == [2]
    assert s.mask.sum().item() == 7 and s.is_answer.sum().item() == 6
    assert s.answers(RETAIN).sum(1).tolist() == [0, 1, 3]
    assert s.rows(RETAIN_IDK).tolist() == [False] * 3


def test_a_signal_that_was_not_asked_for_is_a_mistake_in_the_code():
    with pytest.raises(AssertionError, match="not asked for in `needs`"):
        NPO()(signals_of(*FOUR, ref_logps=None))


def test_needs_are_united():
    needs = Needs(rows={FORGET}, reference_logps={FORGET}, whole_rows={FORGET}, pad_to=300)
    other = Needs(rows={RETAIN}, reference_logits={RETAIN}, every_position=True, pad_to=500, logits=False)
    both = needs | other
    assert both == other | needs
    assert both == Needs(
        rows={FORGET, RETAIN},
        reference_logps={FORGET},
        reference_logits={RETAIN},
        whole_rows={FORGET},
        every_position=True,
        pad_to=500,
    )
    assert both.logits, "one of them reads logits"
    assert both.live_reference == {RETAIN}
    assert (Needs() | Needs(reference_hidden={RETAIN}, reference_logits={FORGET})).live_reference == {FORGET, RETAIN}


@pytest.mark.parametrize(
    ("layer", "other", "both"),
    [(None, None, None), (None, 3, 3), (MIDDLE, None, MIDDLE), (MIDDLE, 0, 0), (4, MIDDLE, 4), (4, 4, 4)],
)
def test_the_middle_layer_gives_way_to_a_number(layer, other, both):
    assert (Needs(hidden_layer=layer) | Needs(hidden_layer=other)).hidden_layer == both
    assert (Needs(hidden_layer=other) | Needs(hidden_layer=layer)).hidden_layer == both


def test_two_layers_cannot_be_read_at_once():
    with pytest.raises(ValueError, match=r"different layers \(0 and 2\); give both the same"):
        Needs(hidden_layer=0) | Needs(hidden_layer=2)
    with pytest.raises(ValueError, match=r"different layers \(7 and 5\)"):
        assert Objective(name="x", forget=RMU(layer=7), retain=EmbeddingDistance(layer=5)).needs
    needs = Objective(name="x", forget=RMU(layer=7), retain=EmbeddingDistance()).needs
    assert needs == Needs(rows={FORGET, RETAIN}, hidden_layer=7, logits=False, reference_hidden={RETAIN})


# ---------------------------------------------------------------------------------------------- likelihood


def test_gradient_ascent_is_the_mean_log_probability_of_forget_tokens():
    assert GradientAscent()(signals_of(*FOUR)).item() == pytest.approx((-1 - 2 - 3) / 3)


def test_gradient_descent_is_the_mean_nll_of_retain_tokens():
    assert GradientDescent()(signals_of(*FOUR)).item() == pytest.approx((0.5 + 1 + 1.5 + 2) / 4)


def test_means_run_over_tokens_not_rows():
    """Row means would give (-1.5 - 3) / 2 = -2.25."""
    assert GradientAscent()(signals_of(*FOUR)).item() == pytest.approx(-2.0)


def test_refusal_is_the_mean_nll_of_refusals_on_forget_prompts():
    """Refusals of 1 and 2 tokens: (0.5 + 1 + 3) / 3; the retain prompt's refusal and the answers do not count."""
    s = signals_of(
        *FOUR, row_of_logps(FORGET_IDK, -0.5), row_of_logps(FORGET_IDK, -1.0, -3.0), row_of_logps(RETAIN_IDK, -9.0)
    )
    assert Refusal()(s).item() == pytest.approx(1.5)


@pytest.mark.parametrize(("weight", "expected"), [(1.0, -2 + 2.5), (0.2, -2 + 0.5), (0.0, -2.0)])
def test_mismatched_ascent_adds_the_nll_of_anothers_answer(weight, expected):
    """Forget answers: -2 a token. Mismatched answers of 1 and 3 tokens: (1 + 2 + 3 + 4) / 4 = 2.5 a token."""
    s = signals_of(*FOUR, row_of_logps(MISMATCH, -1.0), row_of_logps(MISMATCH, -2.0, -3.0, -4.0))
    assert MismatchedAscent(mismatch_weight=weight)(s).item() == pytest.approx(expected)


def test_fine_tuning_counts_the_answer_tokens_predicted():
    """Token 1 is the likelier one everywhere. Labels 1 | 1, 0, 1, the first of the second row in its prompt: two of
    the three answer tokens are predicted. NLL: log 4 for the one 0, log 4/3 for the three 1, mean over labels."""
    likely = (0.25, 0.75)
    s = signals_of(
        Row(role=RETAIN, probs=[likely], labels=[1]),
        Row(role=RETAIN, probs=[likely] * 3, labels=[1, 0, 1], prompt=1),
    )
    losses = FineTune()(s)
    assert losses.total.item() == pytest.approx((math.log(4) + 3 * math.log(4 / 3)) / 4)
    assert {name: int(value) for name, value in losses.parts.items()} == {"answer_hits": 2, "answer_tokens": 3}


# ----------------------------------------------------------------------------------------------------- NPO


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 1.0])
def test_first_npo_step_is_two_over_beta_log_two(beta):
    s = signals_of(*FOUR)  # the frozen target is the model itself
    assert NPO(beta=beta)(s).item() == pytest.approx(2 / beta * LOG2)


def test_npo_by_hand():
    """log pi = -1 - 2 = -3, log ref = -0.5 - 0.5 = -1, so log pi/ref = -2. With beta 0.5 the loss is
    -(2 / 0.5) log sigmoid(-0.5 x -2) = 4 log(1 + e^-1) = 1.2530467."""
    s = signals_of(row_of_logps(FORGET, -1.0, -2.0, frozen=(-0.5, -0.5)))
    assert NPO(beta=0.5)(s).item() == pytest.approx(4 * math.log(1 + math.exp(-1)))
    assert NPO(beta=0.5)(s).item() == pytest.approx(1.2530467)


def test_npo_is_a_mean_over_rows():
    """Ratios -2 and 0 at beta 0.5: (1.2530467 + 4 log 2) / 2."""
    s = signals_of(row_of_logps(FORGET, -1.0, -2.0, frozen=(-0.5, -0.5)), row_of_logps(FORGET, -3.0), *FOUR[2:])
    assert NPO(beta=0.5)(s).item() == pytest.approx((4 * math.log(1 + math.exp(-1)) + 4 * LOG2) / 2)


def test_npo_gradient_fades_where_the_answer_is_forgotten():
    """d loss / d log pi = 2 sigmoid(beta log pi/ref) per row: 1 at the start, 2 sigmoid(-50) far below it."""
    for ratio, slope in ((0.0, 1.0), (-100.0, 2 / (1 + math.exp(50))), (2.0, 2 / (1 + math.exp(-1)))):
        s = signals_of(row_of_logps(FORGET, -1.0))
        logps = (s.ref_logps + ratio * s.is_answer).requires_grad_()
        NPO(beta=0.5)(replace(s, logps=logps)).backward()
        assert logps.grad[s.is_answer].item() == pytest.approx(slope, rel=1e-5)


def test_small_beta_npo_has_the_gradient_of_summed_gradient_ascent():
    """Towards beta 0 the slope per row is 1, as for the summed log-probability."""
    s = signals_of(*FOUR)
    logps = s.logps.clone().requires_grad_()
    NPO(beta=1e-9)(replace(s, logps=logps, ref_logps=s.ref_logps - 0.7)).backward()
    assert logps.grad[s.answers(FORGET)].tolist() == pytest.approx([1 / 2] * 3)  # mean over two rows
    assert not logps.grad[~s.answers(FORGET)].any()


@pytest.mark.parametrize(("beta", "delta"), [(4.5, 1.5), (2.5, 1.5), (1.0, 1.5)])
def test_simnpo_at_its_margin_is_two_over_beta_log_two(beta, delta):
    """NLL / length = (1 + 2) / 2 = 1.5 = delta."""
    s = signals_of(row_of_logps(FORGET, -1.0, -2.0))
    assert SimNPO(beta=beta, delta=delta)(s).item() == pytest.approx(2 / beta * LOG2)


def test_simnpo_by_hand():
    """NLL / length is 1.5 and 3, delta 0.5, beta 2: (log(1 + e^-2) + log(1 + e^-5)) / 2 = 0.0668216."""
    s = signals_of(*FOUR)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-5))) / 2
    assert SimNPO(beta=2.0, delta=0.5)(s).item() == pytest.approx(expected)
    assert expected == pytest.approx(0.0668216, abs=1e-7)


def test_simnpo_takes_a_row_without_answer_as_nll_zero():
    s = signals_of(row_of_logps(FORGET), row_of_logps(RETAIN, -1.0))
    assert SimNPO(beta=2.0, delta=0.5)(s).item() == pytest.approx(math.log(1 + math.exp(1)))


# ---------------------------------------------------------------------------------------------- preferences


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_first_dpo_step_is_two_over_beta_log_two(beta):
    s = signals_of(row_of_logps(FORGET, -1.0, -2.0), row_of_logps(FORGET_IDK, -4.0), *FOUR[2:])
    assert DPO(beta=beta)(s).item() == pytest.approx(2 / beta * LOG2)


def test_dpo_by_hand():
    """log pi/ref of the refusal is -1 + 2 = 1, of the answer -3 + 1 = -2; with beta 0.5 the loss is
    -(2 / 0.5) log sigmoid(0.5 x 3) = 4 log(1 + e^-1.5) = 0.8056531."""
    s = signals_of(
        row_of_logps(FORGET, -1.0, -2.0, frozen=(-0.5, -0.5)), row_of_logps(FORGET_IDK, -1.0, frozen=(-2.0,))
    )
    assert DPO(beta=0.5)(s).item() == pytest.approx(4 * math.log(1 + math.exp(-1.5)))
    assert DPO(beta=0.5)(s).item() == pytest.approx(0.8056531, abs=1e-7)


def test_dpo_is_a_mean_over_examples_and_pairs_them_in_order():
    """Margins 3 and -1 (the second: refusal 0, answer -1 + 2 = 1)."""
    s = signals_of(
        row_of_logps(FORGET, -1.0, -2.0, frozen=(-0.5, -0.5)),
        row_of_logps(FORGET, -1.0, frozen=(-2.0,)),
        row_of_logps(FORGET_IDK, -1.0, frozen=(-2.0,)),
        row_of_logps(FORGET_IDK, -1.0, -1.0),
    )
    expected = 4 * (math.log(1 + math.exp(-1.5)) + math.log(1 + math.exp(0.5))) / 2
    assert DPO(beta=0.5)(s).item() == pytest.approx(expected)


def test_dpo_prefers_the_refusal():
    """At the start d loss / d log pi is -1 for the refusal and +1 for the answer, at every token."""
    s = signals_of(row_of_logps(FORGET, -1.0, -2.0), row_of_logps(FORGET_IDK, -4.0))
    logps = s.logps.clone().requires_grad_()
    DPO(beta=0.1)(replace(s, logps=logps)).backward()
    assert logps.grad[s.answers(FORGET)].tolist() == pytest.approx([1.0, 1.0])
    assert logps.grad[s.answers(FORGET_IDK)].tolist() == pytest.approx([-1.0])


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_answer_preservation_at_equal_likelihood_is_log_two_over_beta(beta):
    s = signals_of(row_of_logps(RETAIN, -1.0, -2.0), row_of_logps(RETAIN_IDK, -3.0))
    assert AnswerPreservation(beta=beta)(s).item() == pytest.approx(LOG2 / beta)


def test_answer_preservation_by_hand():
    """Margins 2 and -1 at beta 0.5: (2 log(1 + e^-1) + 2 log(1 + e^0.5)) / 2; no factor 2, no reference."""
    s = signals_of(
        row_of_logps(RETAIN, -0.5, -0.5),
        row_of_logps(RETAIN, -3.0),
        row_of_logps(RETAIN_IDK, -3.0),
        row_of_logps(RETAIN_IDK, -2.0),
        ref_logps=None,
    )
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))
    assert AnswerPreservation(beta=0.5)(s).item() == pytest.approx(expected)
    assert expected == pytest.approx(1.2873387, abs=1e-7)


# ------------------------------------------------------------------------------------------ maximum entropy

TO_UNIFORM = LOG3 - 1.5 * LOG2  # KL(HALVES || U) = log 3 - H = 0.0588915
FROM_UNIFORM = 5 / 3 * LOG2 - LOG3  # KL(U || HALVES) = -log 3 + (log 2 + log 4 + log 4) / 3 = 0.0566330


def test_entropy_by_hand():
    logits = torch.tensor([HALVES, THIRDS], dtype=torch.float64).log() + SHIFT
    assert kl_to_uniform(logits).tolist() == pytest.approx([TO_UNIFORM, 0.0], abs=1e-12)
    assert kl_from_uniform(logits).tolist() == pytest.approx([FROM_UNIFORM, 0.0], abs=1e-12)
    divergences = [kl_to_uniform(logits)[0].item(), kl_from_uniform(logits)[0].item()]
    assert divergences == pytest.approx([0.0588915, 0.0566330], abs=1e-7)


def test_a_certain_prediction_is_log_v_from_uniform():
    """And without bound in the other direction."""
    certain = torch.tensor([300.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert kl_to_uniform(certain).item() == pytest.approx(math.log(5))
    assert kl_from_uniform(certain).item() == pytest.approx(300 * 4 / 5 - math.log(5))


@pytest.mark.parametrize(("direction", "divergence"), [("to_uniform", TO_UNIFORM), ("from_uniform", FROM_UNIFORM)])
def test_maximum_entropy_is_a_mean_over_rows_of_means_over_tokens(direction, divergence):
    """Two tokens of HALVES in one row, one uniform token in the other: (k + 0) / 2; a token mean would be 2 k / 3."""
    s = signals_of(
        Row(role=FORGET, probs=[HALVES, HALVES], labels=[0, 1]),
        Row(role=FORGET, probs=[THIRDS], labels=[2]),
        Row(role=RETAIN, probs=[(0.8, 0.1, 0.1)], labels=[0]),
    )
    assert MaximumEntropy(direction=direction)(s).item() == pytest.approx(divergence / 2)


@pytest.mark.parametrize(("prompts", "expected"), [(True, TO_UNIFORM * 2 / 3), (False, TO_UNIFORM / 2)])
def test_maximum_entropy_over_prompts_or_answers_alone(prompts, expected):
    """A prompt token of HALVES, then an answer of HALVES and a uniform token."""
    s = signals_of(Row(role=FORGET, probs=[HALVES, HALVES, THIRDS], labels=[0, 0, 0], prompt=1))
    method = MaximumEntropy(prompts=prompts)
    assert method(s).item() == pytest.approx(expected)
    assert method.needs == Needs(rows={FORGET}, token_losses=(method,), whole_rows={FORGET} if prompts else set())


def every_position(probs: Sequence[Sequence[float]], labels: Sequence[int], answers: range, **more: Any) -> Signals:
    """One right-padded forget row: distributions at all T positions, token t + 1 being labels[t]; `answers` say which
    labels belong to the answer."""
    is_answer = torch.tensor([[place in answers for place in range(len(labels))]])
    logits = torch.tensor([probs], dtype=torch.float64).log() + SHIFT
    count = Count(rows=1, tokens=len(answers), labels=len(answers), positions=len(probs), lengths=(len(answers),))
    fields = {
        "logps": torch.zeros(1, len(labels), dtype=torch.float64),
        "mask": is_answer,
        "is_answer": is_answer,
        "targets": torch.tensor([labels]),
        "role": torch.tensor([FORGET.value]),
        "totals": Totals(counts={FORGET: count}),
        "logits": logits,
        "ref_logits": logits,
        "in_reference": torch.tensor([True]),
    }
    return Signals(**(fields | more))


def test_released_maximum_entropy_counts_prompt_and_padding():
    """Positions: prompt HALVES, answer uniform, answer uniform, padding HALVES, and the last one, which never counts.
    Over every position (k + 0 + 0 + k) / 4; over the answer's two predictions 0. Nothing of 1e-12 is seen here."""
    probs = [HALVES, THIRDS, THIRDS, HALVES, (0.98, 0.01, 0.01)]
    s = every_position(probs, labels=[0, 1, 2, 0], answers=range(1, 3))
    assert MaximumEntropyCompat()(s).item() == pytest.approx(FROM_UNIFORM / 2, rel=1e-9)
    assert MaximumEntropyCompat(masked=True)(s).item() == pytest.approx(0, abs=1e-9)
    padded = every_position([*probs[:4], HALVES, probs[4]], labels=[0, 1, 2, 0, 0], answers=range(1, 3))
    assert MaximumEntropyCompat()(padded).item() == pytest.approx(3 / 5 * FROM_UNIFORM, rel=1e-9)
    assert MaximumEntropyCompat(masked=True)(padded).item() == pytest.approx(0, abs=1e-9)


def test_released_maximum_entropy_by_hand_on_answers():
    """The answer's two predictions are HALVES and uniform: k / 2."""
    s = every_position([THIRDS, HALVES, THIRDS, HALVES], labels=[0, 1, 2], answers=range(1, 3))
    assert MaximumEntropyCompat(masked=True)(s).item() == pytest.approx(FROM_UNIFORM / 2, rel=1e-9)


def test_released_maximum_entropy_is_bounded_by_what_it_adds():
    """p = (1, 0, 0) + 1e-12: -log 3 - (0 + 2 log 1e-12) / 3 = 17.3220685."""
    s = every_position([(1.0, 1e-300, 1e-300)] * 2, labels=[0], answers=range(1))
    assert MaximumEntropyCompat()(s).item() == pytest.approx(-LOG3 - 2 * math.log(1e-12) / 3)
    assert MaximumEntropyCompat()(s).item() == pytest.approx(17.3220685, abs=1e-6)


def test_released_maximum_entropy_asks_for_padding():
    assert MaximumEntropyCompat(pad_to=500).needs == Needs(
        rows={FORGET}, distributions=True, every_position=True, pad_to=500
    )


# --------------------------------------------------------------------------------------------- distillation


def entropy_of(*probs: float) -> float:
    return -sum(p * math.log(p) for p in probs)


def test_undial_without_lowering_is_the_entropy_of_the_target():
    """beta 0 and student = teacher: cross entropy of HALVES with itself is its entropy, 1.5 log 2."""
    s = signals_of(Row(role=FORGET, probs=[HALVES, HALVES], labels=[0, 2], frozen=[HALVES, HALVES]))
    assert UNDIAL(beta=0.0)(s).item() == pytest.approx(1.5 * LOG2)


def test_undial_by_hand():
    """Lowering the true token of (1/2, 1/4, 1/4) by log 2 makes the goal uniform: -(log 1/2 + 2 log 1/4) / 3 =
    5/3 log 2. A second token that is not lowered enough to matter: beta log 2 on a uniform teacher gives
    (1/5, 2/5, 2/5), against the uniform student log 3. Mean over the two tokens, retain rows aside."""
    s = signals_of(
        Row(role=RETAIN, probs=[HALVES], labels=[0]),
        Row(role=FORGET, probs=[HALVES, THIRDS], labels=[0, 0], frozen=[HALVES, THIRDS]),
    )
    assert UNDIAL(beta=LOG2)(s).item() == pytest.approx((5 / 3 * LOG2 + LOG3) / 2)


def test_undial_distils_the_frozen_target_not_the_model():
    """Student uniform, teacher HALVES: log 3 whatever the goal. Student HALVES, teacher uniform, true token 1 lowered
    by log 2: goal (2/5, 1/5, 2/5), so 2/5 log 2 + 3/5 log 4 = 8/5 log 2."""
    uniform_model = signals_of(Row(role=FORGET, probs=[THIRDS], labels=[0], frozen=[HALVES]))
    assert UNDIAL(beta=LOG2)(uniform_model).item() == pytest.approx(LOG3)
    uniform_target = signals_of(Row(role=FORGET, probs=[HALVES], labels=[1], frozen=[THIRDS]))
    assert UNDIAL(beta=LOG2)(uniform_target).item() == pytest.approx(8 / 5 * LOG2)


def test_released_undial_lowers_token_v_minus_100_where_nothing_is_labelled():
    """V = 100, so token 0 is lowered at the prompt and at the padding. p(0) = 1/2, the others 1/198 each; an infinite
    beta leaves a goal without the lowered token. Unlabelled: all of the goal on tokens of 1/198, log 198. Labelled 7:
    goal p without token 7, (99 x log 2 + 98 x log 198) / 197. Three unlabelled positions and one labelled."""
    probs = [0.5] + [1 / 198] * 99
    last = [0.01] * 100  # never counts
    s = every_position([*[probs] * 4, last], labels=[3, 9, 9, 7], answers=range(3, 4))
    labelled = (99 * LOG2 + 98 * math.log(198)) / 197
    expected = (3 * math.log(198) + labelled) / 4
    assert UNDIALCompat(beta=1e9)(s).item() == pytest.approx(expected)


def test_released_undial_needs_a_hundred_tokens():
    with pytest.raises(ValueError, match="a vocabulary of at least 100 tokens, not 3"):
        UNDIALCompat()(every_position([HALVES] * 3, labels=[0, 1], answers=range(1)))


CEU_ONE = -0.6 * math.log(0.3) - 0.4 * math.log(0.2)  # p = (0.5, 0.3, 0.2) without token 0: (0, 0.6, 0.4)


def test_ceu_by_hand():
    """(0.5, 0.3, 0.2): without token 0 the goal is (0, 0.6, 0.4), cross entropy 1.3661588; without token 2 it is
    (5/8, 3/8, 0). The first answer token is left out."""
    row = Row(role=FORGET, probs=[(0.9, 0.05, 0.05), (0.5, 0.3, 0.2), (0.5, 0.3, 0.2)], labels=[0, 0, 2])
    second = 5 / 8 * LOG2 - 3 / 8 * math.log(0.3)
    assert CEU(ignore_first=1)(signals_of(row)).item() == pytest.approx((CEU_ONE + second) / 2)
    assert CEU(ignore_first=0)(signals_of(replace(row, probs=row.probs[1:2], labels=[0]))).item() == pytest.approx(
        1.3661588, abs=1e-7
    )


def test_ceu_leaves_out_the_first_tokens_of_each_answer():
    """Answers of 2 and 1 tokens, the prompt's label aside: with 0 left out three tokens count, with 1 one, with 2
    none."""
    probs = (0.5, 0.3, 0.2)
    s = signals_of(
        Row(role=FORGET, probs=[THIRDS, probs, probs], labels=[1, 2, 0], prompt=1),
        Row(role=FORGET, probs=[probs], labels=[2]),
    )
    without_two = 5 / 8 * LOG2 - 3 / 8 * math.log(0.3)
    assert CEU(ignore_first=0)(s).item() == pytest.approx((CEU_ONE + 2 * without_two) / 3)
    assert CEU(ignore_first=1)(s).item() == pytest.approx(CEU_ONE)
    assert CEU(ignore_first=2)(s).item() == 0


def test_ceu_takes_its_goal_as_constant():
    """The gradient of a cross entropy with a constant goal q is p - q: (0.5, 0.3 - 0.6, 0.2 - 0.4)."""
    s, logits = with_gradient(signals_of(Row(role=FORGET, probs=[(0.5, 0.3, 0.2)], labels=[0])))
    CEU(ignore_first=0)(s).backward()
    assert logits.grad[0, -1].tolist() == pytest.approx([0.5, -0.3, -0.2])


# ------------------------------------------------------------------------------------------------ reweighted


def test_weighted_ascent_by_hand():
    """p = 1/2 and 1/4, beta 2: (1/4 log 1/2 + 1/16 log 1/4) / 2; beta 0 is gradient ascent."""
    s = signals_of(row_of_logps(FORGET, -LOG2, -2 * LOG2), row_of_logps(RETAIN, -1.0))
    assert WeightedAscent(beta=2.0)(s).item() == pytest.approx(-(LOG2 / 4 + 2 * LOG2 / 16) / 2)
    assert WeightedAscent(beta=1.0)(s).item() == pytest.approx(-(LOG2 / 2 + 2 * LOG2 / 4) / 2)
    assert WeightedAscent(beta=0.0)(s).item() == pytest.approx(GradientAscent()(s).item())


def test_saturation_importance_by_hand():
    """p = 1/2 and 1/4, beta1 1, beta2 2: (1/2 x 1/4 x log 1/2 + 1/4 x 9/16 x log 1/4) / 2; with beta2 0 it is the
    weighted ascent."""
    s = signals_of(row_of_logps(FORGET, -LOG2), row_of_logps(FORGET, -2 * LOG2), row_of_logps(RETAIN, -1.0))
    expected = -(LOG2 / 8 + 2 * LOG2 * 9 / 64) / 2
    assert SaturationImportance(beta1=1.0, beta2=2.0)(s).item() == pytest.approx(expected)
    assert SaturationImportance(beta1=3.0, beta2=0.0)(s).item() == pytest.approx(WeightedAscent(beta=3.0)(s).item())


@pytest.mark.parametrize(
    ("part", "slopes"),
    [
        (WeightedAscent(beta=1.0), [1 / 4, 1 / 8]),
        (WeightedAscent(beta=2.0), [1 / 8, 1 / 32]),
        (SaturationImportance(beta1=1.0, beta2=1.0), [1 / 8, 3 / 32]),
    ],
)
def test_weights_are_constant_to_the_gradient(part, slopes):
    """d loss / d log p is the weight over the two tokens; a weight p that moved would add p log p."""
    s = signals_of(row_of_logps(FORGET, -LOG2, -2 * LOG2))
    logps = s.logps.clone().requires_grad_()
    part(replace(s, logps=logps)).backward()
    assert logps.grad[s.is_answer].tolist() == pytest.approx(slopes)


# ---------------------------------------------------------------------------------------------------- margin


def test_margin_by_hand():
    """Logits (3, 0, 0): 3 - 1 = 2, squared 4. Logits (0, 6, 0): 6 - 2 = 4, squared 16. Mean over three tokens of two
    rows, one of them flat; the constant SHIFT does not matter."""
    probs = torch.tensor([[3.0, 0, 0], [0, 6, 0]], dtype=torch.float64).softmax(-1).tolist()
    s = signals_of(
        Row(role=FORGET, probs=probs, labels=[0, 0]),
        Row(role=FORGET, probs=[THIRDS], labels=[1]),
        Row(role=RETAIN, probs=[HALVES], labels=[1]),
    )
    assert LogitMargin()(s).item() == pytest.approx((4 + 16 + 0) / 3)


def test_released_margin_is_read_one_position_later():
    """Squared margins 1, 4, 9, 16 at positions 0 to 3; the answer is the tokens at 1 and 2. They are predicted at
    0 and 1, (1 + 4) / 2; the released mask reads 1 and 2, (4 + 9) / 2."""
    logits = torch.tensor([[[1.5 * n, 0, 0] for n in (1, 2, 3, 4)]], dtype=torch.float64)
    s = every_position([THIRDS] * 4, labels=[0, 0, 0], answers=range(2), logits=logits)
    assert LogitMargin()(s).item() == pytest.approx(2.5)
    assert LogitMarginCompat()(s).item() == pytest.approx(6.5)
    assert LogitMarginCompat().needs.every_position and not LogitMargin().needs.every_position


# -------------------------------------------------------------------------------------------- representation

STEPS = ((1.0, -1.0), (2.0, 2.0), (3.0, -3.0))  # away from the goal: mean squares 1, 4 and 9


def states(role: Role, goals: Tensor, ref_hidden: Tensor | None = None) -> Signals:
    """Two rows of 2 and 1 answer tokens whose states stand 1, 2 and 3 away from `goals` (2, 3, H = 2); T = 4 with
    positions in prompt and padding far off."""
    hidden = torch.full((2, 4, 2), WILD, dtype=torch.float64)
    hidden[0, 2:] = goals[0, 1:] + torch.tensor(STEPS[:2], dtype=torch.float64)
    hidden[1, 3] = goals[1, 2] + torch.tensor(STEPS[2], dtype=torch.float64)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    return Signals(
        logps=torch.zeros(2, 3),
        mask=mask,
        is_answer=mask,
        targets=torch.zeros(2, 3, dtype=torch.long),
        role=torch.tensor([role.value] * 2),
        totals=Totals(counts={role: Count(rows=2, tokens=3, labels=3, lengths=(2, 1))}),
        hidden=hidden,
        ref_hidden=ref_hidden,
        in_reference=torch.tensor([ref_hidden is not None] * 2),
    )


def test_the_direction_is_a_positive_unit_vector_fixed_by_its_seed():
    like = torch.zeros(1)
    for seed in (0, 1, 7):
        u = direction(8, seed, like)
        assert u.norm().item() == pytest.approx(1, rel=1e-6)
        assert (u > 0).all()
        assert torch.equal(u, direction(8, seed, like))
    assert not torch.equal(direction(8, 0, like), direction(8, 1, like))


@pytest.mark.parametrize(("steering", "seed"), [(2.0, 0), (20.0, 3)])
def test_rmu_by_hand(steering, seed):
    """Row means (1 + 4) / 2 and 9, their mean 5.75. Released: mean row sum (5 + 9) / 2 = 7 times mean inverse length
    (1/2 + 1) / 2 = 0.75, 5.25."""
    goal = steering * direction(2, seed, torch.zeros(1)).double()
    s = states(FORGET, goal.expand(2, 3, 2))
    part = RMU(steering=steering, vector_seed=seed)
    assert part(s).item() == pytest.approx(5.75, rel=1e-6)
    assert replace(part, mean="released")(s).item() == pytest.approx(5.25, rel=1e-6)


def test_released_mean_is_the_mean_of_a_matrix():
    """[B] over [B, 1] is [[5/2, 9/2], [5/1, 9/1]], whose mean is (2.5 + 4.5 + 5 + 9) / 4 = 5.25, not (2.5 + 9) / 2."""
    assert (torch.tensor([5.0, 9.0]) / torch.tensor([[2.0], [1.0]])).mean().item() == 5.25


def test_adaptive_rmu_by_hand():
    """The frozen states (3, 4), (6, 8) and (0, 1) have norms 5, 10 and 1; with scale 2 the goals are 10 u, 20 u
    and 2 u."""
    theirs = torch.full((2, 4, 2), WILD, dtype=torch.float64)
    theirs[0, 2], theirs[0, 3], theirs[1, 3] = (torch.tensor(v, dtype=torch.float64) for v in ((3, 4), (6, 8), (0, 1)))
    u = direction(2, 0, torch.zeros(1)).double()
    goals = 2 * theirs[:, 1:].norm(dim=-1, keepdim=True) * u
    assert goals[0, 1].norm().item() == pytest.approx(10, rel=1e-6)
    part = AdaptiveRMU(scale=2.0)
    assert part(states(FORGET, goals, theirs)).item() == pytest.approx(5.75, rel=1e-6)
    assert part.needs == Needs(rows={FORGET}, hidden_layer=MIDDLE, logits=False, reference_hidden={FORGET})


def test_embedding_distance_by_hand():
    """States 1, 2 and 3 away from the frozen ones: 5.75 again, and 5.25 as released; 0 where nothing moved."""
    theirs = torch.arange(16, dtype=torch.float64).reshape(2, 4, 2)
    s = states(RETAIN, theirs[:, 1:], theirs)
    assert EmbeddingDistance()(s).item() == pytest.approx(5.75)
    assert EmbeddingDistance(mean="released")(s).item() == pytest.approx(5.25)
    assert EmbeddingDistance()(replace(s, hidden=theirs)).item() == 0


def test_embedding_distance_finds_its_rows_among_those_the_frozen_target_ran_on():
    """A forget row stands before the retain rows, and the frozen target ran on all of them."""
    theirs = torch.arange(16, dtype=torch.float64).reshape(2, 4, 2)
    s = states(RETAIN, theirs[:, 1:], theirs)
    wild = torch.full((1, 4, 2), -WILD, dtype=torch.float64)
    more = replace(
        s,
        **{
            name: torch.cat([getattr(s, name)[:1], getattr(s, name)])
            for name in ("logps", "mask", "is_answer", "targets")
        },
        role=torch.tensor([FORGET.value, RETAIN.value, RETAIN.value]),
        hidden=torch.cat([wild, s.hidden]),
        ref_hidden=torch.cat([3 * wild, theirs]),
        in_reference=torch.tensor([True] * 3),
    )
    assert EmbeddingDistance()(more).item() == pytest.approx(5.75)


# ------------------------------------------------------------------------------------------------------ KL


def log(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


KL_ONE = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL((3/4, 1/4) || (1/2, 1/2)) = 0.1308120


def test_kl_by_hand_and_its_direction():
    """Reference (3/4, 1/4), model (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2) = 0.1308120; the other direction is
    1/2 log(2/3) + 1/2 log 2 = 0.1438410."""
    model, reference = log(0.5, 0.5), log(0.75, 0.25)
    assert forward_kl(model, reference).item() == pytest.approx(KL_ONE)
    assert forward_kl(model, reference).item() == pytest.approx(0.1308120, abs=1e-7)
    assert forward_kl(reference, model).item() == pytest.approx(0.1438410, abs=1e-7)


def test_kl_does_not_see_a_constant_added_to_logits():
    model, reference = log(0.5, 0.5) + 7, log(0.75, 0.25) - 3
    assert forward_kl(model, reference).item() == pytest.approx(KL_ONE)


def flat(role: Role, *frozen: Sequence[float]) -> Row:
    """A row that the model predicts with (1/2, 1/2) throughout."""
    return Row(role=role, probs=[(0.5, 0.5)] * len(frozen), labels=[0] * len(frozen), frozen=frozen)


UP, DOWN, EVEN = (0.75, 0.25), (0.25, 0.75), (0.5, 0.5)


def test_kl_by_hand_over_two_tokens():
    """The frozen target differs at two of the four retain tokens, and at forget tokens and padding, which must not
    count: 2 k / 4."""
    s = signals_of(flat(FORGET, DOWN, DOWN), flat(RETAIN, UP), flat(RETAIN, EVEN, DOWN, EVEN))
    s = replace(s, ref_logits=s.ref_logits.where(s.mask[..., None], 2 * WILD * torch.rand_like(s.ref_logits)))
    assert RetainKL()(s).item() == pytest.approx(KL_ONE / 2)


def test_released_kl_is_a_mean_over_all_positions():
    """B x T = 2 x 3 retain positions, prompt, padding and last ones too, of which four differ: 4 k / 6."""
    reference = torch.stack(
        [torch.stack([log(*probabilities) for probabilities in row]) for row in ((DOWN, DOWN, UP), (EVEN, DOWN, EVEN))]
    )
    s = signals_of(flat(RETAIN, UP), flat(RETAIN, UP, UP))
    counts = {RETAIN: Count(rows=2, tokens=3, labels=3, positions=6, lengths=(1, 2))}
    s = replace(s, logits=log(0.5, 0.5).repeat(2, 3, 1), ref_logits=reference, totals=Totals(counts=counts))
    assert RetainKLCompat()(s).item() == pytest.approx(4 * KL_ONE / 6)
    assert RetainKLCompat(pad_to=300).needs == Needs(
        rows={RETAIN}, distributions=True, reference_logits={RETAIN}, every_position=True, pad_to=300
    )


@pytest.mark.parametrize("part", [RetainKL(), RetainKLCompat()])
def test_kl_of_identical_models_is_zero_with_zero_gradient(part):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    s = replace(signals_of(*FOUR), logits=logits.clone().requires_grad_())
    mask = s.mask[:, 1:]
    s = replace(s, mask=mask, is_answer=mask, targets=s.targets[:, 1:], logps=s.logps[:, 1:])
    s = replace(s, ref_logits=logits, in_reference=torch.tensor([True] * 4))
    loss = part(s)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert s.logits.grad.abs().max().item() == pytest.approx(0, abs=1e-12)


def test_kl_on_answers_is_the_same_when_every_position_was_computed():
    """A partner that needs every position hands RetainKL logits of all T positions; it reads the labelled ones."""
    torch.manual_seed(0)
    logits, reference = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    mask = torch.tensor([[False, True, True, False], [False, False, False, True]])
    fields = {
        "logps": torch.zeros(2, 4),
        "mask": mask,
        "is_answer": mask,
        "targets": torch.zeros(2, 4, dtype=torch.long),
        "role": torch.tensor([RETAIN.value] * 2),
        "totals": Totals(counts={RETAIN: Count(rows=2, tokens=3, labels=3, lengths=(2, 1))}),
        "in_reference": torch.tensor([True, True]),
    }
    wide = RetainKL()(Signals(logits=logits, ref_logits=reference, **fields))
    narrow = RetainKL()(Signals(logits=logits[:, :-1], ref_logits=reference[:, :-1], **fields))
    assert wide.item() == narrow.item() > 0


# --------------------------------------------------------------------------------------------------- AltPO


def test_altpo_by_hand():
    """Two rows, two alternates each, beta 0.5. log pi/ref of the answers -2 and 0, of the alternates 1, 0 | 0, -2:
    margins 3, 2 | 0, -2, so 4 (log(1 + e^-1.5) + log(1 + e^-1) + log 2 + log(1 + e)) / 4."""
    s = signals_of(
        row_of_logps(FORGET, -1.0, -2.0, frozen=(-0.5, -0.5)),
        row_of_logps(FORGET, -3.0, frozen=(-3.0,)),
        row_of_logps(ALTERNATE, -1.0, frozen=(-2.0,)),
        row_of_logps(ALTERNATE, -1.0, frozen=(-1.0,)),
        row_of_logps(ALTERNATE, -1.5, frozen=(-1.5,)),
        row_of_logps(ALTERNATE, -3.0, frozen=(-1.0,)),
        row_of_logps(RETAIN, -0.5),
    )
    expected = math.log1p(math.exp(-1.5)) + math.log1p(math.exp(-1)) + LOG2 + math.log1p(math.exp(1))
    part = AltPO(beta=0.5, alternates=2, prompt="{question}")
    assert part(s).item() == pytest.approx(expected)
    assert part(take_rows(s, [0, 2, 3])).item() + part(take_rows(s, [1, 4, 5])).item() == pytest.approx(expected)
    assert part(take_rows(s, [6])).item() == 0


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_first_altpo_step_is_two_over_beta_log_two(beta):
    s = signals_of(row_of_logps(FORGET, -1.0, -2.0), *[row_of_logps(ALTERNATE, -4.0 - n) for n in range(3)])
    assert AltPO(beta=beta, alternates=3, prompt="{question}")(s).item() == pytest.approx(2 / beta * LOG2)


def test_one_alternate_is_dpo_with_it_in_the_place_of_the_refusal():
    rows = [row_of_logps(FORGET, -1.0, -2.0, frozen=(-0.5, -0.5)), row_of_logps(ALTERNATE, -1.0, frozen=(-2.0,))]
    refused = [rows[0], replace(rows[1], role=FORGET_IDK)]
    part = AltPO(beta=0.5, alternates=1, prompt="{question}")
    assert part(signals_of(*rows)).item() == pytest.approx(DPO(beta=0.5)(signals_of(*refused)).item())


def test_an_alternate_is_what_stands_before_another_question():
    assert alternate_of(" He lives in Lima.\nQuestion: Who?", "a", 0, ["No."]) == "He lives in Lima."
    assert alternate_of("Q: And you?", "a", 0, ["No."]) == "No."
    assert alternate_of(" \n", "a", 0, ["No."]) == "No."


def test_altpo_asks_with_its_prompt_and_names_its_samples():
    row = Example(
        id="a", raw_id="a", document="a", split=Split.FORGET, subtask="x", kind=Kind.QUESTION,
        prompt="Question: Who?\nAnswer:", template="Question: {question}\nAnswer:", answer="Ada", shots=(3,),
    )  # fmt: skip
    part = AltPO(alternates=2, max_new_tokens=9, prompt="Q {question} A {answer} {other}:")
    first, second = part.questions([row])
    assert (first.variant, second.variant, first.limit, first.ask) == ("0", "1", 9, Ask.SAMPLE)
    assert first.example == replace(row, prompt="Q Who? A Ada {other}:", template="", shots=())
    with pytest.raises(ValueError, match=r"prompt does not hold \{question\}"):
        AltPO(prompt="Say something else.")
    assert altpo_in(Objective(name="x", forget=part)) is part
    assert altpo_in(Objective(name="x", forget=Sum(terms=(Term(part=NPO()), Term(part=part))))) is part
    assert altpo_in(Objective(name="x", forget=NPO())) is None


# ------------------------------------------------------------------------------------------- Jensen-Shannon

JS_HALF = LOG2 - (1.5 * math.log(1.5) + 0.5 * LOG2) / 2  # of a distribution and certainty of a token of probability 1/2


def test_js_by_hand():
    """(3/4, 1/4) and (1/2, 1/2), middle (5/8, 3/8): ((3/4 log 6/5 + 1/4 log 2/3) + (1/2 log 4/5 + 1/2 log 4/3)) / 2
    = 0.0338221, whichever comes first; certainties of two tokens are log 2 apart, a distribution from itself 0."""
    first, second = log(0.75, 0.25), log(0.5, 0.5)
    expected = (0.75 * math.log(1.2) + 0.25 * math.log(2 / 3) + 0.5 * math.log(0.8) + 0.5 * math.log(4 / 3)) / 2
    assert js_divergence(first, second).item() == pytest.approx(expected)
    assert js_divergence(second, first).item() == pytest.approx(expected)
    assert expected == pytest.approx(0.0338221, abs=1e-7)
    assert js_divergence(first + 7, first - 3).item() == pytest.approx(0, abs=1e-12)
    apart = torch.tensor([[200.0, 0.0], [0.0, 200.0]], dtype=torch.float64)
    assert js_divergence(*apart).item() == pytest.approx(LOG2)


def test_js_to_certainty_is_the_divergence_from_a_distribution_of_one_token():
    """At p = 1/2: log 2 - (3/2 log 3/2 + 1/2 log 2) / 2 = 0.2157616, the same as by `js_divergence`."""
    assert pytest.approx(0.2157616, abs=1e-7) == JS_HALF
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    certain = torch.full((50, 7), -300.0, dtype=torch.float64)
    certain[:, 2] = 0.0
    logps = logits.log_softmax(-1)[:, 2]
    torch.testing.assert_close(js_to_certainty(logps), js_divergence(logits, certain), atol=1e-12, rtol=1e-12)
    ends = js_to_certainty(torch.tensor([0.0, -LOG2, -800.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([0.0, JS_HALF, LOG2], abs=1e-12)


def test_jensun_by_hand():
    """The target's tokens 1 and 2 in turn. Row of 3: p(1) = 1/2, p(2) = 1/2, p(1) = 1/4 again; row of 1: p(1) = 1/2.
    A prompt label and retain rows do not count, nor do the answers' own tokens (0)."""
    quarter = LOG2 - (1.25 * math.log(1.25) + 0.5 * LOG2) / 2  # p log p = -log 4 / 4 = -log 2 / 2
    likely_1, likely_2 = (0.25, 0.5, 0.25), (0.25, 0.25, 0.5)
    s = signals_of(
        Row(role=FORGET, probs=[THIRDS, likely_1, likely_2, HALVES], labels=[0, 0, 0, 0], prompt=1),
        Row(role=FORGET, probs=[likely_1], labels=[0]),
        Row(role=RETAIN, probs=[THIRDS], labels=[1]),
    )
    assert JensUn(tokens=(1, 2))(s).item() == pytest.approx((3 * JS_HALF + quarter) / 4)
    assert JensUn(tokens=(1, 2, 1, 0))(s).item() == pytest.approx((3 * JS_HALF + quarter) / 4)


def test_jensun_is_bounded_and_its_slope_vanishes_at_both_ends():
    """d loss / d log p = -p log((1 + p) / p) / 2, which is -log 3 / 4 at p = 1/2."""
    logps = torch.tensor([-1e-9, -LOG2, -400.0], dtype=torch.float64).requires_grad_()
    losses = js_to_certainty(logps)
    assert (losses <= LOG2).all() and (losses >= 0).all()
    losses.sum().backward()
    assert logps.grad.tolist() == pytest.approx([-LOG2 / 2, -math.log(3) / 4, 0.0], abs=1e-8)


@pytest.mark.parametrize("part", [JensUn(tokens=(1, 2)), RetainJS()])
def test_gradients_of_jensun_are_finite_differences(part):
    generator = torch.Generator().manual_seed(0)
    s = signals_of(
        Row(role=FORGET, probs=[THIRDS] * 3, labels=[0, 1, 2]),
        Row(role=RETAIN, probs=[THIRDS] * 2, labels=[0, 1], frozen=[HALVES, THIRDS]),
    )
    logits = torch.randn(s.logits.shape, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: part(replace(s, logits=z)), (logits,))


def test_retain_js_by_hand():
    """As for KL: the frozen target differs at two of the four retain tokens, 2 j / 4."""
    s = signals_of(flat(FORGET, DOWN, DOWN), flat(RETAIN, UP), flat(RETAIN, EVEN, DOWN, EVEN))
    expected = js_divergence(log(*UP), log(*EVEN)).item() / 2
    assert RetainJS()(s).item() == pytest.approx(expected)


def test_a_target_is_given_its_tokens_wherever_it_stands():
    """In an objective, in a sum; ids that are given stay; a part that names no token is itself."""
    ids = {"No idea": (4, 8), "Pass": (6,)}.__getitem__
    pass_part = JensUn(target="Pass")
    method = Objective(name="x", forget=Sum(terms=(Term(part=pass_part, weight=0.5), Term(part=JensUn(tokens=(3,))))))
    assert with_token_ids(Objective(name="x", forget=JensUn()), ids).forget == JensUn(tokens=(4, 8))
    assert with_token_ids(method, ids).forget == Sum(
        terms=(Term(part=replace(pass_part, tokens=(6,)), weight=0.5), Term(part=JensUn(tokens=(3,))))
    )
    assert with_token_ids(NPO(), ids) == NPO()
    assert JensUn(tokens=(3, 5, 3)).needs == Needs(
        rows={FORGET}, token_losses=(TokenLogProb(token=3), TokenLogProb(token=5))
    )
    assert JensUn().needs == Needs(rows={FORGET}, token_losses=(TokenLogProb(token=0),))


def test_a_target_without_tokens_or_with_impossible_ones_is_refused():
    with pytest.raises(ValueError, match="has no tokens in this model's vocabulary"):
        JensUn().with_token_ids(lambda text: ())
    with pytest.raises(ValueError, match="ids from 0 on, not -2"):
        JensUn(tokens=(1, -2))
    with pytest.raises(AssertionError, match="were not asked for"):
        JensUn()(signals_of(*FOUR))


# ----------------------------------------------------------------------------------------------- Objective


def test_objective_weighs_its_parts():
    losses = Objective(
        name="x", forget=GradientAscent(), retain=GradientDescent(), forget_weight=0.7, retain_weight=2.0
    )(signals_of(*FOUR))
    assert losses.total.item() == pytest.approx(0.7 * -2 + 2 * 1.25)
    assert {name: value.item() for name, value in losses.parts.items()} == pytest.approx(
        {"forget_loss": -2.0, "retain_loss": 1.25, "forget_nll": 2.0, "retain_nll": 1.25}
    )
    assert not any(value.requires_grad for value in losses.parts.values())


def test_objective_without_retain_part():
    losses = Objective(name="x", forget=GradientAscent(), forget_weight=0.5)(signals_of(*FOUR[:2]))
    assert losses.total.item() == pytest.approx(-1.0)
    assert {name: value.item() for name, value in losses.parts.items()} == pytest.approx(
        {"forget_loss": -2.0, "forget_nll": 2.0}
    )


def test_the_log_tells_the_nll_of_answers_whatever_is_optimised():
    """Refusals are optimised, at NLL 0.5; the forget answers (2 nats a token) are in no row, so only retain is logged;
    where answers are in rows (DPO), they are logged too."""
    refuse = Objective(name="x", forget=Refusal(), retain=GradientDescent())
    parts = refuse(signals_of(row_of_logps(FORGET_IDK, -0.5), *FOUR[2:])).parts
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(
        {"forget_loss": 0.5, "retain_loss": 1.25, "retain_nll": 1.25}
    )
    prefer = Objective(name="x", forget=DPO(beta=1.0))
    parts = prefer(signals_of(*FOUR[:2], row_of_logps(FORGET_IDK, -0.5), row_of_logps(FORGET_IDK, -0.5))).parts
    assert parts["forget_nll"].item() == pytest.approx(2.0)


def test_without_logits_no_nll_is_logged():
    s = replace(states(FORGET, torch.zeros(2, 3, 2, dtype=torch.float64)), logits=None)
    assert list(Objective(name="x", forget=RMU())(s).parts) == ["forget_loss"]


def test_a_step_of_one_side_tells_nothing_of_the_other():
    """With `alternate` some steps have retain rows alone; a forget loss of 0 there would reach a bound above 0."""
    method = Objective(name="x", forget=NPO(), retain=GradientDescent(), stop_when=StopWhen(forget_loss=1.0))
    logged = {name: value.item() for name, value in method(signals_of(*FOUR[2:])).parts.items()}
    assert logged.keys() == {"retain_loss", "retain_nll"}
    assert method.stop_when.stop_reason(logged) is None
    assert method(signals_of(*FOUR[:2])).parts.keys() == {"forget_loss", "forget_nll"}
    shares = [method(take_rows(signals_of(*FOUR), rows)).parts for rows in ([0, 1], [2, 3])]
    assert all(parts.keys() == {"forget_loss", "retain_loss", "forget_nll", "retain_nll"} for parts in shares)


def test_needs_are_those_of_both_parts():
    assert Objective(name="x", forget=GradientAscent()).needs == Needs(rows={FORGET})
    assert Objective(name="x", forget=NPO()).needs == Needs(rows={FORGET}, reference_logps={FORGET})
    assert Objective(name="x", forget=NPO(), retain=GradientDescent()).needs == Needs(
        rows={FORGET, RETAIN}, reference_logps={FORGET}
    )
    assert Objective(name="x", forget=GradientAscent(), retain=RetainKLCompat(pad_to=9)).needs == Needs(
        rows={FORGET, RETAIN}, distributions=True, reference_logits={RETAIN}, every_position=True, pad_to=9
    )
    assert Objective(name="x", forget=DPO(), retain=AnswerPreservation()).needs == Needs(
        rows={FORGET, FORGET_IDK, RETAIN, RETAIN_IDK}, reference_logps={FORGET, FORGET_IDK}
    )


def test_a_watched_retain_nll_needs_retain_rows_and_logits():
    watching = StopWhen(retain_nll=2.0)
    assert Objective(name="x", forget=GradientAscent(), stop_when=watching).needs.rows == {FORGET, RETAIN}
    steered = Objective(name="x", forget=RMU(layer=3), stop_when=watching).needs
    assert steered == Needs(rows={FORGET, RETAIN}, hidden_layer=3, logits=True)
    assert not Objective(name="x", forget=RMU(layer=3), stop_when=StopWhen(forget_loss=-1.0)).needs.logits


def test_a_sum_weighs_its_terms():
    """0.5 x 1.25 + 2 x 2 k / 4 with a KL of k at two of four tokens; needs are united."""
    s = signals_of(flat(FORGET, EVEN), flat(RETAIN, UP), flat(RETAIN, EVEN, DOWN, EVEN))
    both = Sum(terms=(Term(part=GradientDescent(), weight=0.5), Term(part=RetainKL(), weight=2.0)))
    assert both(s).item() == pytest.approx(0.5 * LOG2 + KL_ONE)  # each retain token has NLL log 2
    assert both.needs == Needs(rows={RETAIN}, token_losses=(RetainKL(),), reference_logits={RETAIN})
    assert Sum(terms=(Term(part=GradientDescent()),))(s).item() == pytest.approx(LOG2)
    hidden = Sum(terms=(Term(part=EmbeddingDistance(layer=2)),))
    assert not hidden.needs.logits
    assert (hidden.needs | both.needs).logits


def test_a_sum_of_nothing_or_of_two_layers_is_refused():
    with pytest.raises(ValueError, match="at least one term"):
        Sum(terms=())
    terms = (Term(part=EmbeddingDistance(layer=1)), Term(part=EmbeddingDistance(layer=2)))
    with pytest.raises(ValueError, match="different layers"):
        assert Sum(terms=terms).needs


@pytest.mark.parametrize(
    ("bounds", "step", "reason"),
    [
        (StopWhen(), {"forget_loss": -99.0, "retain_nll": 99.0}, None),
        (StopWhen(forget_loss=-8.0), {"forget_loss": -7.9}, None),
        (
            StopWhen(forget_loss=-8.0),
            {"forget_loss": -8.0},
            "forget loss -8 reached method.stop_when.forget_loss=-8",
        ),
        (
            StopWhen(forget_loss=0.25, retain_nll=2.0),
            {"forget_loss": 0.1234567, "retain_nll": 5.0},
            "forget loss 0.1235 reached method.stop_when.forget_loss=0.25",
        ),
        (StopWhen(retain_nll=2.0), {"forget_loss": -9.0, "retain_nll": 1.999}, None),
        (
            StopWhen(retain_nll=2.0),
            {"forget_loss": -9.0, "retain_nll": 2.0},
            "retain NLL 2 reached method.stop_when.retain_nll=2",
        ),
        (
            StopWhen(retain_nll=2.0),
            {"forget_loss": -9.0, "retain_nll": 2.03125},
            "retain NLL 2.031 reached method.stop_when.retain_nll=2",
        ),
        (StopWhen(forget_loss=1.0, retain_nll=2.0), {"loss": 0.0}, None),
    ],
)
def test_bounds_say_which_was_reached(bounds, step, reason):
    assert bounds.stop_reason(step) == reason


# ---------------------------------------------------------------------------------------------- primal-dual


def test_the_dual_weight_by_hand():
    """Start 1, bound 0.5, step size 2, no warm-up: after retain losses 0.75, 0.5, 0.125 and 0.75 the weight is
    1 + 2 x 0.25 = 1.5, then 1.5, then 1.5 - 0.75 = 0.75, then 1.25."""
    dual, weights = Dual(bound=0.5, step_size=2.0), [1.0]
    for step, loss in enumerate((0.75, 0.5, 0.125, 0.75), 1):
        last = {"step": step, "retain_weight": weights[-1], "retain_loss": loss}
        weights.append(dual.weight(last, 1.0, 0.5))
    assert weights == pytest.approx([1.0, 1.5, 1.5, 0.75, 1.25])


def test_the_dual_weight_starts_where_it_is_set_and_waits_for_the_warm_up():
    """No update before the first step nor after steps 1 and 2 of a warm-up of two; step 3 updates."""
    dual = Dual(bound=0.5, warmup_steps=2)
    assert dual.weight({}, 3.0, 0.5) == 3.0
    assert dual.weight({"step": 1, "retain_loss": 9.0, "retain_weight": 3.0}, 3.0, 0.5) == 3.0
    assert dual.weight({"step": 2, "retain_loss": 9.0, "retain_weight": 3.0}, 3.0, 0.5) == 3.0
    assert dual.weight({"step": 3, "retain_loss": 9.0, "retain_weight": 3.0}, 3.0, 0.5) == 11.5


def test_the_dual_weight_is_never_below_zero_and_comes_back():
    dual = Dual(bound=2.0, step_size=1.0)
    assert dual.weight({"step": 1, "retain_weight": 0.5, "retain_loss": 0.0}, 1.0, 2.0) == 0.0
    assert dual.weight({"step": 2, "retain_weight": 0.0, "retain_loss": 2.75}, 1.0, 2.0) == 0.75


def test_an_objective_bounds_its_retain_loss():
    """forget -2, retain 1.25, bound 0.5: at the first step -2 + 1 x (1.25 - 0.5) = -1.25 with weight 1 logged; at the
    next the weight is 1 + 0.75 and the loss -2 + 1.75 x 0.75. The bound moves no gradient."""
    method = Objective(name="x", forget=GradientAscent(), retain=GradientDescent(), dual=Dual(bound=0.5))
    s = signals_of(*FOUR)
    first = method(s)
    assert first.total.item() == pytest.approx(-1.25)
    logged = {name: value.item() for name, value in first.parts.items()} | {"step": 1}
    assert (logged["retain_loss"], logged["retain_weight"]) == pytest.approx((1.25, 1.0))
    second = method(replace(s, last=logged))
    assert second.parts["retain_weight"].item() == pytest.approx(1.75)
    assert second.total.item() == pytest.approx(-2 + 1.75 * 0.75)
    shares = [method(replace(take_rows(s, rows), last=logged)) for rows in ([0, 2], [1], [3])]
    assert sum(share.total for share in shares).item() == pytest.approx(second.total.item())
    assert sum(share.parts["retain_weight"] for share in shares).item() == pytest.approx(1.75)


# ------------------------------------------------------------------------------- micro-batches, half precision

RETAIN_PARTS = {
    "gd": GradientDescent(),
    "kl": RetainKL(),
    "js": RetainJS(),
    "ap": AnswerPreservation(beta=0.5),
    "kl_gd": Sum(terms=(Term(part=RetainKL(), weight=0.5), Term(part=GradientDescent(), weight=0.5))),
    "embed": EmbeddingDistance(),
}
FORGET_PARTS = {
    "ga": GradientAscent(),
    "idk": Refusal(),
    "llmu": MismatchedAscent(mismatch_weight=0.5),
    "npo": NPO(beta=0.5),
    "simnpo": SimNPO(beta=2.0, delta=0.1),
    "dpo": DPO(beta=0.5),
    "altpo": AltPO(beta=0.5, prompt="{question}", alternates=1),
    "me": MaximumEntropy(),
    "me from uniform": MaximumEntropy(direction="from_uniform", prompts=False),
    "undial": UNDIAL(beta=2.0),
    "ceu": CEU(),
    "pdu": LogitMargin(),
    "jensun": JensUn(tokens=(3, 17)),
    "wga": WeightedAscent(beta=0.5),
    "satimp": SaturationImportance(beta1=0.5),
    "rmu": RMU(),
    "adaptive_rmu": AdaptiveRMU(scale=2.0),
}
COMPAT_PARTS = {
    "me_compat": MaximumEntropyCompat(),
    "me_compat masked": MaximumEntropyCompat(masked=True),
    "undial_compat": UNDIALCompat(beta=2.0),
    "pdu_compat": LogitMarginCompat(),
    "kl_compat": RetainKLCompat(),
    "rmu_compat": RMU(mean="released"),
    "embed_compat": EmbeddingDistance(mean="released"),
}
CLEAN_PARTS = FORGET_PARTS | RETAIN_PARTS


def test_every_part_that_can_be_chosen_is_in_these_tests():
    chosen = {type(part).__qualname__ for part in (CLEAN_PARTS | COMPAT_PARTS).values()}
    files = [path for kind in ("forget", "retain") for path in (conf_dir() / "method" / kind).glob("*.yaml")]
    nodes = [yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in files]
    assert {node["_target_"].rsplit(".", 1)[-1] for node in nodes if node} == chosen


def random_signals(*, size: int = 120, every: bool = False) -> Signals:
    """Two examples a side in all roles, T = 7, logits, references and states at random."""
    generator = torch.Generator().manual_seed(1)
    roles = [role for role in Role for _ in range(2)]
    lengths = [(3, 1), (2, 4), (1, 2), (2, 1), (4, 3), (2, 3)]
    answers = torch.tensor([length for pair in lengths for length in pair])
    places = torch.arange(6).repeat(len(roles), 1)
    if every:  # right-padded: two prompt tokens, the answer, padding
        is_answer = (places >= 1) & (places < 1 + answers[:, None])
        mask = is_answer
    else:
        is_answer = places >= 6 - answers[:, None]
        mask = places >= 5 - answers[:, None]  # one prompt token labelled too

    def random(*shape: int) -> Tensor:
        return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits, frozen = (random(len(roles), 7 if every else 6, size) for _ in range(2))
    targets = torch.randint(0, size, (len(roles), 6), generator=generator)
    labels = mask.sum(1)
    counts = {
        role: Count(
            rows=2,
            tokens=int(answers[2 * role : 2 * role + 2].sum()),
            labels=int(labels[2 * role : 2 * role + 2].sum()),
            positions=14,
            lengths=tuple(answers[2 * role : 2 * role + 2].tolist()),
        )
        for role in Role
    }
    return Signals(
        logps=token_logps(logits[:, :6], targets).masked_fill(~mask, 0.0),
        mask=mask,
        is_answer=is_answer,
        targets=targets,
        role=torch.tensor([role.value for role in roles]),
        totals=Totals(counts=counts),
        logits=logits,
        hidden=random(len(roles), 7, 16),
        ref_logps=token_logps(frozen[:, :6], targets).masked_fill(~mask, 0.0),
        ref_logits=frozen,
        ref_hidden=random(len(roles), 7, 16),
        in_reference=torch.ones(len(roles), dtype=torch.bool),
    )


OBJECTIVES = [
    *(Objective(name=f"{name} alone", forget=part) for name, part in FORGET_PARTS.items()),
    *(Objective(name=f"ga + {name}", forget=GradientAscent(), retain=part) for name, part in RETAIN_PARTS.items()),
    Objective(name="weighted", forget=NPO(beta=0.5), retain=GradientDescent(), forget_weight=0.7, retain_weight=2.0),
    Objective(name="bounded", forget=LogitMargin(), retain=GradientDescent(), dual=Dual(bound=0.3)),
]


@pytest.mark.parametrize("method", OBJECTIVES, ids=lambda method: method.name)
@pytest.mark.parametrize(
    "groups",
    [  # the rows of an example (0, 4, 8, 10: forget; 2, 6: retain) never part
        [[0, 4, 8, 10, 1, 5, 9, 11], [2, 6, 3, 7]],
        [[0, 4, 8, 10], [1, 5, 9, 11], [2, 6], [3, 7]],
        [[3, 7], [0, 4, 8, 10, 2, 6], [1, 5, 9, 11]],
    ],
    ids=str,
)
def test_shares_of_micro_batches_sum_to_the_step(method, groups):
    """Also where a micro-batch holds forget rows only, or retain rows only."""
    s = random_signals()
    whole, shares = method(s), [method(take_rows(s, group)) for group in groups]
    assert sum(share.total for share in shares).item() == pytest.approx(whole.total.item(), rel=1e-9)
    for name, value in whole.parts.items():
        assert sum(share.parts[name] for share in shares).item() == pytest.approx(value.item(), rel=1e-9)


def half_and_wide(s: Signals) -> tuple[Signals, Signals]:
    """(signals of a bf16 model, the same numbers in float64)."""
    names = ("logits", "ref_logits", "hidden", "ref_hidden")
    half = {name: getattr(s, name).bfloat16() for name in names}
    wide = {name: value.double() for name, value in half.items()}
    signals = []
    for values in (half, wide):
        logps, ref = (token_logps(values[name][:, :6], s.targets) for name in ("logits", "ref_logits"))
        logps, ref = (value.masked_fill(~s.mask, 0.0) for value in (logps, ref))
        signals.append(replace(s, logps=logps, ref_logps=ref, **values))
    return signals[0], signals[1]


@pytest.mark.parametrize("name", [*CLEAN_PARTS, *COMPAT_PARTS])
def test_half_precision_logits_give_float32_losses(name):
    """Against float64 arithmetic on the very same bf16 numbers: a log-softmax in bf16 would lose three digits."""
    part = (CLEAN_PARTS | COMPAT_PARTS)[name]
    half, wide = half_and_wide(random_signals(every=name in COMPAT_PARTS))
    loss = part(half)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(part(wide).item(), rel=1e-4)
    assert loss.item() != 0


def test_a_bf16_softmax_would_be_noticed():
    """What the test above guards against: log-probabilities of a log-softmax in bf16 are off by more than 1e-3."""
    half, wide = half_and_wide(random_signals())
    careless = half.logits.log_softmax(-1).gather(-1, half.targets[..., None])[..., 0]
    worst = ((careless.double() - wide.logps) / wide.logps)[wide.mask].abs().max()
    assert worst.item() > 1e-3


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
    assert logps.item() == pytest.approx(-math.log(257), abs=1e-6)
    assert to_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


# --------------------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        (0, (), "at least two members"),
        (1, (1.0,), "at least two members"),
        (2, (1.0,), "2 members need as many weights, not 1"),
        (2, (1.0, 1.0, 1.0), "2 members need as many weights, not 3"),
    ],
)
def test_merging_takes_two_adapters_and_a_weight_for_each(members, weights, message):
    adapters = tuple(Member(method=Objective(name="x", forget=NPO())) for _ in range(members))
    with pytest.raises(ValueError, match=message):
        MergeAdapters(name="ties", members=adapters, weights=weights)


# ---------------------------------------------------------------------------------------- a method of one's own


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Keep every forget token's log-probability below the reference by `margin` [nats]: a hinge."""

    margin: float = 1.0
    needs: ClassVar[Needs] = Needs(rows={FORGET}, reference_logps={FORGET})

    def __call__(self, s: Signals) -> Tensor:
        assert s.ref_logps is not None
        above = (s.logps - s.ref_logps + self.margin).clamp(min=0)
        return above[s.answers(FORGET)].sum() / s.totals.of(FORGET).tokens


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A method that is no pair of parts: mean log-probability of forget rows minus that of retain rows."""

    name: str = "whole"
    needs: ClassVar[Needs] = Needs(rows={FORGET, RETAIN})

    def __call__(self, s: Signals) -> Losses:
        return Losses(total=s.sums(FORGET).sum() / 2 - s.sums(RETAIN).sum() / 2, parts={"rows": s.mask.any(1).sum()})


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
            role=FORGET if number < 2 else RETAIN,
        )
        for number in range(4)
    ]
    return collate(rows, pad_id=1, totals=totals_of(rows, [range(4)]))


def test_a_new_forget_objective_pairs_with_what_is_there(tiny_model, tiny_batch):
    method = Objective(name="margin+gd", forget=Margin(margin=0.25), retain=GradientDescent())
    with torch.no_grad():
        before = read_signals(tiny_model, tiny_batch, needs=Needs()).logps
    s = read_signals(tiny_model, replace(tiny_batch, ref_logps=before), needs=method.needs)
    losses = method(s)
    assert losses.parts["forget_loss"].item() == pytest.approx(0.25, abs=1e-5)  # pi = ref: the margin itself
    retain_nll = -before[2:].sum().item() / tiny_batch.totals.of(RETAIN).tokens
    assert losses.total.item() == pytest.approx(0.25 + retain_nll, rel=1e-5)
    losses.total.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in tiny_model.parameters())


def test_a_whole_new_method(tiny_model, tiny_batch):
    losses = Whole()(read_signals(tiny_model, tiny_batch, needs=Whole().needs))
    assert losses.total.requires_grad
    assert int(losses.parts["rows"]) == 4


def test_a_missing_reference_is_an_error_not_a_default(tiny_model, tiny_batch):
    with pytest.raises(ValueError, match="cached reference log-probs"):
        read_signals(tiny_model, tiny_batch, needs=Needs(reference_logps={FORGET}))
    for needs in (Needs(reference_logits={RETAIN}), Needs(reference_hidden={RETAIN}, hidden_layer=0)):
        with pytest.raises(ValueError, match="live reference"):
            read_signals(tiny_model, tiny_batch, needs=needs)
