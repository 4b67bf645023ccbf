"""What must not matter to a loss and its gradient: micro-batches, padding side, where the reference comes from,
layers nobody reads. For every part there is, on small float64 models."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers.losses import PAD, Outcome, all_parts, cached_reference, parts_of, run_step, signals_of
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lume_run.methods.altpo import AltPO
from lume_run.methods.distillation import CEU, UNDIAL, UNDIALCompat
from lume_run.methods.dpo import DPO, AnswerPreservation
from lume_run.methods.entropy import LogitMargin, LogitMarginCompat, MaximumEntropy, MaximumEntropyCompat
from lume_run.methods.jensun import JensUn, RetainJS
from lume_run.methods.kl import RetainKL, RetainKLCompat
from lume_run.methods.likelihood import (
    GradientAscent,
    GradientDescent,
    MismatchedAscent,
    Refusal,
    SaturationImportance,
    WeightedAscent,
)
from lume_run.methods.needs import Needs, Role, Totals
from lume_run.methods.npo import NPO, SimNPO
from lume_run.methods.objective import Dual, Objective, StopWhen, Sum, Term
from lume_run.methods.rmu import RMU, AdaptiveRMU, EmbeddingDistance
from lume_run.models.layers import output_of_layer
from lume_run.models.rows.batch import Batch, collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.reference import ReferenceCache, live_reference, row_logps
from lume_run.training.schedule import IDLE_ROLE, MicroBatch, Schedule, build_schedule, totals_of
from lume_run.training.signals import read_signals

pytestmark = pytest.mark.slow

EXACT = 1e-9
EXAMPLES = 8  # on each side; a power of 2, because the share of rows that the dual weight is logged with is float32
VOCABULARY = 110  # the released UNDIAL needs 100
WIDTH = 16  # wider than any row
NO_TOTALS = Totals()
EVERY_ROLE = Needs(rows=frozenset(Role))
# what the step before logged: with bound 0.5 the dual weight of this one is 1.25 + 0.75 (2 - 0.5) = 2.375
LAST = {"step": 3, "retain_weight": 1.25, "retain_loss": 2.0}

METHODS = [
    Objective(name="ga", forget=GradientAscent()),
    Objective(name="ga+gd", forget=GradientAscent(), retain=GradientDescent(), retain_weight=2.0),
    Objective(name="ga+kl", forget=GradientAscent(), retain=RetainKL()),
    Objective(name="npo+gd", forget=NPO(beta=0.5), retain=GradientDescent(), forget_weight=0.7),
    Objective(name="npo+embed", forget=NPO(beta=0.5), retain=EmbeddingDistance(layer=1)),
    Objective(name="simnpo+ap", forget=SimNPO(beta=2.5, delta=0.5), retain=AnswerPreservation(beta=0.5)),
    Objective(name="me+gd", forget=MaximumEntropy(), retain=GradientDescent()),
    Objective(name="me answers+kl", forget=MaximumEntropy(prompts=False), retain=RetainKL()),
    Objective(name="me from uniform", forget=MaximumEntropy(direction="from_uniform")),
    Objective(
        name="me from uniform, answers+ap",
        forget=MaximumEntropy(direction="from_uniform", prompts=False),
        retain=AnswerPreservation(beta=0.1),
    ),
    Objective(name="idk+ap", forget=Refusal(), retain=AnswerPreservation(beta=0.1)),
    Objective(name="dpo+kl", forget=DPO(beta=0.5), retain=RetainKL()),
    Objective(name="altpo+gd", forget=AltPO(prompt="{question}", alternates=1), retain=GradientDescent()),
    Objective(name="llmu", forget=MismatchedAscent(mismatch_weight=0.6), retain=RetainKL()),
    Objective(name="rmu", forget=RMU(), retain=EmbeddingDistance()),
    Objective(name="rmu+gd", forget=RMU(layer=1), retain=GradientDescent()),
    Objective(name="adaptive rmu", forget=AdaptiveRMU(), retain=EmbeddingDistance()),
    Objective(name="adaptive rmu+kl", forget=AdaptiveRMU(), retain=RetainKL()),
    Objective(name="rmu, watched", forget=RMU(), stop_when=StopWhen(retain_nll=9.0)),
    Objective(name="undial+gd", forget=UNDIAL(), retain=GradientDescent()),
    Objective(name="undial+kl", forget=UNDIAL(beta=3.0), retain=RetainKL()),
    Objective(name="wga+gd", forget=WeightedAscent(beta=0.5), retain=GradientDescent()),
    Objective(name="satimp+gd", forget=SaturationImportance(beta1=0.5, beta2=2.0), retain=GradientDescent()),
    Objective(name="jensun", forget=JensUn(tokens=(5, 9)), retain=RetainJS()),
    Objective(name="jensun, a token twice, +kl", forget=JensUn(tokens=(7, 3, 7)), retain=RetainKL(), forget_weight=2.0),
    Objective(name="ga+js", forget=GradientAscent(), retain=RetainJS()),
    Objective(name="ceu", forget=CEU()),
    Objective(name="ceu+kl", forget=CEU(ignore_first=2), retain=RetainKL()),
    Objective(
        name="pdu", forget=LogitMargin(), retain=GradientDescent(), dual=Dual(bound=0.5, step_size=0.75, warmup_steps=2)
    ),
    Objective(name="pdu, first step", forget=LogitMargin(), retain=RetainKL(), dual=Dual(bound=0.125, warmup_steps=9)),
    Objective(
        name="sums",
        forget=Sum(terms=(Term(part=DPO(beta=0.5)), Term(part=RMU(), weight=0.3), Term(part=UNDIAL(), weight=0.2))),
        retain=Sum(
            terms=(
                Term(part=RetainKL(), weight=0.4),
                Term(part=GradientDescent(), weight=0.3),
                Term(part=EmbeddingDistance(), weight=2.0),
            )
        ),
    ),
]
# What the released code averages over padding too; rows padded to one width make it the same everywhere.
RELEASED = [
    Objective(
        name="me compat+kl compat",
        forget=MaximumEntropyCompat(pad_to=WIDTH),
        retain=RetainKLCompat(pad_to=WIDTH),
        forget_weight=0.1,
    ),
    Objective(name="me compat masked+gd", forget=MaximumEntropyCompat(masked=True), retain=GradientDescent()),
    Objective(name="undial compat+kl compat", forget=UNDIALCompat(), retain=RetainKLCompat(pad_to=WIDTH)),
    Objective(name="npo+kl compat", forget=NPO(beta=0.5), retain=RetainKLCompat(pad_to=WIDTH)),
    Objective(name="pdu compat+gd", forget=LogitMarginCompat(), retain=GradientDescent(), dual=Dual(bound=0.5)),
]
PARTS = [part for method in [*METHODS, *RELEASED] for part in (method.forget, method.retain) if part is not None]


def name_of(value) -> str:
    return getattr(value, "name", None) or repr(value)


def test_no_part_is_left_out():
    clean, released = (set().union(*map(parts_of, methods)) for methods in (METHODS, RELEASED))
    assert clean | released == all_parts()
    assert {part.__name__ for part in all_parts() - clean} == {
        part.__name__ for part in all_parts() if part.__name__.endswith("Compat")
    }


# ------------------------------------------------------------------------------------------- models and rows


def two_models(build: Callable[[], nn.Module]) -> list[nn.Module]:
    """A model and another with weights of a seed of its own, both without dropout."""
    models = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            models.append(build().eval())
    return models


@pytest.fixture(scope="module")
def pair():
    """A model and a frozen one: GPT-2, because Llama and OLMo norms compute in float32 whatever the dtype."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.2,
        attn_implementation="sdpa",
    )
    return two_models(lambda: GPT2LMHeadModel(config).double())


def uneven_rows(needs: Needs) -> list[TokenRow]:
    """Every example in every role needed, role by role: prompts of 2 to 9 tokens, answers of 1 to 6.

    One forget row has no answer token, another no refusal.
    """
    generator = torch.Generator().manual_seed(3)
    rows = []
    for role in Role:  # sampled for all roles, so that a row is the same whatever is needed beside it
        for number in range(EXAMPLES):
            words = torch.randint(3, VOCABULARY, (16,), generator=generator).tolist()
            prompt = 2 + number * 5 % 8
            answer = 1 + (number + 2 * role) % 6
            if (role, number) in ((Role.FORGET, 2), (Role.FORGET_IDK, 4)):
                answer = 0
            row = TokenRow(
                example_id=str(number),  # the same names on both sides
                ids=tuple(words[: prompt + answer]),
                answer_start=prompt,
                label_start=1 if role in needs.whole_rows else prompt,
                role=role,
            )
            rows += [row] if role in needs.rows else []
    return rows


def exact_reference(frozen, rows: list[TokenRow]) -> ReferenceCache:
    """The cache is float32 and so are its sums; in steps of 1/1024 [nats] they are exact, however rows are padded."""
    logps = cached_reference(frozen, rows).logps
    return ReferenceCache({key: (values * 1024).round() / 1024 for key, values in logps.items()})


def schedule_of(method: Objective, rows: list[TokenRow], micro_batch_size: int) -> Schedule:
    """One optimizer step over all rows."""
    schedule = build_schedule(
        rows,
        batch_size=EXAMPLES,
        micro_batch_size=micro_batch_size,
        epochs=1,
        seed=0,
        pad_to=method.needs.pad_to,
    )
    assert schedule.steps == 1
    return schedule


def one_step(
    method: Objective, pair, rows: list[TokenRow], micro_batch_size: int, *, right: bool | None = None
) -> Outcome:
    """The micro-batches of the written schedule, collated as `optimise` does, padded as the method needs it."""
    model, frozen = pair
    needs = method.needs
    every_position = needs.every_position if right is None else right
    cache = exact_reference(frozen, rows)

    def batch_of(micro: MicroBatch) -> Batch:
        batch = collate(
            [rows[number] for number in micro.rows],
            pad_id=PAD,
            totals=micro.totals,
            every_position=every_position,
            pad_to=needs.pad_to,
        )
        batch = cache.attach(batch, needs.reference_logps) if needs.reference_logps else batch
        return replace(batch, role=torch.full_like(batch.role, IDLE_ROLE)) if micro.idle else batch

    batches = map(batch_of, schedule_of(method, rows, micro_batch_size).micro_batches)
    return run_step(method, model, signals_of(method, model, frozen, batches, LAST))


def assert_same(outcome: Outcome, expected: Outcome) -> None:
    assert outcome.loss == pytest.approx(expected.loss, abs=EXACT, rel=EXACT)
    assert outcome.parts == pytest.approx(expected.parts, abs=EXACT, rel=EXACT)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.gradients.values())
    for name, gradient in outcome.gradients.items():
        torch.testing.assert_close(gradient, expected.gradients[name], atol=EXACT, rtol=EXACT)


# --------------------------------------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("method", [*METHODS, *RELEASED], ids=name_of)
def test_micro_batches_add_up_to_the_whole_step(method, pair):
    rows = uneven_rows(method.needs)
    assert len(schedule_of(method, rows, len(rows)).micro_batches) == 1
    whole = one_step(method, pair, rows, len(rows))
    for micro_batch_size in (1, 2, 3, 5):
        assert len(schedule_of(method, rows, micro_batch_size).micro_batches) > 1
        assert_same(one_step(method, pair, rows, micro_batch_size), whole)


def test_some_of_those_micro_batches_are_idle_or_hold_one_side_only():
    """DPO on forget rows is 8 units of 2 rows: one row a forward makes 24 forwards, of which 16 have a unit."""
    method = next(method for method in METHODS if method.name == "dpo+kl")
    rows = uneven_rows(method.needs)
    micro_batches = schedule_of(method, rows, 1).micro_batches
    assert [micro.idle for micro in micro_batches] == [False] * 16 + [True] * 8
    roles = [sorted({rows[number].role for number in micro.rows}) for micro in micro_batches[:16]]
    assert roles.count([Role.FORGET, Role.FORGET_IDK]) == roles.count([Role.RETAIN]) == 8


@pytest.mark.parametrize(
    "method",
    [
        Objective(name="ga+kl compat", forget=GradientAscent(), retain=RetainKLCompat()),
        Objective(name="me compat", forget=MaximumEntropyCompat()),
        Objective(name="rmu released", forget=RMU(mean="released")),
        Objective(name="embed released", forget=GradientAscent(), retain=EmbeddingDistance(mean="released")),
    ],
    ids=name_of,
)
def test_released_means_depend_on_micro_batches_as_documented(method, pair):
    rows = [row for row in uneven_rows(method.needs) if row.answers]
    whole, row_by_row = (one_step(method, pair, rows, size) for size in (len(rows), 1))
    assert whole.loss != pytest.approx(row_by_row.loss, rel=1e-3)


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_a_micro_batch_without_rows_of_a_role_has_share_0(part, pair):
    """Exactly 0, and with a gradient of exactly 0 to run backward through: on rows of other roles, and idle ones."""
    method = Objective(name="alone", forget=part)
    needs = method.needs
    rows = uneven_rows(EVERY_ROLE)
    totals = totals_of(rows, [range(len(rows))])
    others = [row for row in rows if row.role not in needs.rows]
    for chosen, idle in ((others, False), (rows, True)):
        batch = collate(chosen, pad_id=PAD, totals=totals, every_position=needs.every_position, pad_to=needs.pad_to)
        batch = replace(batch, ref_logps=torch.zeros(batch.targets.shape))
        batch = replace(batch, role=torch.full_like(batch.role, IDLE_ROLE)) if idle else batch
        outcome = run_step(method, pair[0], signals_of(method, *pair, [batch]))
        assert outcome.loss == 0
        assert not any(gradient.any() for gradient in outcome.gradients.values())


# --------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_padding_side_changes_no_step(method, pair):
    rows = uneven_rows(method.needs)
    left, right = (one_step(method, pair, rows, 4, right=right) for right in (False, True))
    assert_same(right, left)


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_more_padding_changes_no_step(method, pair):
    rows = uneven_rows(method.needs)
    outcomes = []
    for pad_to in (0, WIDTH + 3):
        totals = totals_of(rows, [range(len(rows))], pad_to)
        batch = collate(rows, pad_id=PAD, totals=totals, pad_to=pad_to)
        assert batch.input_ids.shape[1] == max(pad_to, max(len(row.ids) for row in rows))
        if method.needs.reference_logps:
            batch = exact_reference(pair[1], rows).attach(batch, method.needs.reference_logps)
        outcomes.append(run_step(method, pair[0], signals_of(method, *pair, [batch], LAST)))
    assert_same(*outcomes)


@pytest.mark.parametrize("method", [method for method in METHODS if not method.needs.whole_rows], ids=name_of)
def test_prompts_labelled_for_another_part_change_nothing(method, pair):
    """As when this method is summed with maximum entropy over whole rows."""
    labelled = replace(method.needs, whole_rows=frozenset(Role))
    rows, whole_rows = uneven_rows(method.needs), uneven_rows(labelled)
    assert sum(row.labels for row in whole_rows) > 2 * sum(row.answers for row in rows)
    assert_same(one_step(method, pair, whole_rows, 4), one_step(method, pair, rows, 4))


def test_left_padded_answers_equal_right_padded_every_position(pair):
    """Token by token, and for the whole distribution at each label."""
    rows = uneven_rows(EVERY_ROLE)
    left, right = (
        read_signals(pair[0], collate(rows, pad_id=PAD, totals=NO_TOTALS, every_position=every_position), needs=Needs())
        for every_position in (False, True)
    )
    assert not left.logps[~left.mask].any()
    assert not right.logps[~right.mask].any()
    assert left.logps.shape[1] == max(row.labels for row in rows)
    assert right.logps.shape[1] == max(len(row.ids) for row in rows) - 1
    for number, row in enumerate(rows):
        for mine, theirs in (
            (left.logps[number][left.mask[number]], right.logps[number][right.mask[number]]),
            (left.logits[number][left.mask[number]], right.logits[number, :-1][right.mask[number]]),
        ):
            assert len(mine) == row.labels
            torch.testing.assert_close(mine, theirs, atol=EXACT, rtol=EXACT)


def test_a_row_alone_equals_the_row_in_a_batch(pair):
    rows = uneven_rows(EVERY_ROLE)
    together = row_logps(pair[0], rows, pad_id=PAD)
    for row, logps in zip(rows, together, strict=True):
        torch.testing.assert_close(row_logps(pair[0], [row], pad_id=PAD)[0], logps, atol=1e-6, rtol=1e-6)


# ------------------------------------------------------------------------------------------------- reference


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("part", [NPO(beta=0.5), DPO(beta=0.5)], ids=repr)
def test_cached_reference_equals_live_reference(part, right, pair, tmp_path):
    """Written by `compute` (float32), read by `load`, put in place by `attach`; live: the frozen model on the batch."""
    (model, frozen), roles = pair, part.needs.reference_logps
    rows = uneven_rows(EVERY_ROLE)
    in_roles = [row for row in rows if row.role in roles]
    ReferenceCache.compute(frozen, in_roles, pad_id=PAD, batch_tokens=40, folder=tmp_path)
    batch = collate(rows, pad_id=PAD, totals=totals_of(rows, [range(len(rows))]), every_position=right)
    attached = ReferenceCache.load(tmp_path).attach(batch, roles)
    both = replace(part.needs, reference_logits=roles)
    s = read_signals(model, attached, needs=both, reference=live_reference(model, frozen))
    assert int(s.in_reference.sum()) == len(in_roles)
    assert not s.ref_logits.requires_grad
    labels = s.mask & s.in_reference[:, None]
    predicting = s.ref_logits_at(labels)
    assert len(predicting) == sum(row.labels for row in in_roles)
    live = torch.zeros_like(s.logps)
    live[labels] = predicting.log_softmax(-1).gather(-1, s.targets[labels][:, None])[:, 0]
    torch.testing.assert_close(s.ref_logps.double(), live, atol=1e-6, rtol=1e-6)
    cached, direct = part(s).item(), part(replace(s, ref_logps=live)).item()
    assert cached == pytest.approx(direct, rel=1e-6)
    assert cached != pytest.approx(4 * math.log(2), rel=1e-2)  # the two models differ


def test_the_live_reference_runs_on_the_rows_that_need_it(pair):
    """Its logits and states are those of the frozen model on the whole batch, at these rows."""
    model, frozen = pair
    rows = uneven_rows(EVERY_ROLE)
    batch = collate(rows, pad_id=PAD, totals=NO_TOTALS)
    needs = Needs(reference_logits={Role.RETAIN}, reference_hidden={Role.FORGET, Role.RETAIN}, hidden_layer=1)
    model.train()
    s = read_signals(model, batch, needs=needs, reference=live_reference(model, frozen))
    assert model.training
    model.eval()
    assert not frozen.training
    assert s.in_reference.tolist() == [row.role in (Role.FORGET, Role.RETAIN) for row in rows]
    assert batch.take(s.in_reference).keys == tuple(row.key for row in rows if row.role in (Role.FORGET, Role.RETAIN))
    whole = read_signals(frozen, batch, needs=Needs(hidden_layer=1))
    torch.testing.assert_close(s.ref_logits, whole.logits[s.in_reference], atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(s.ref_hidden, whole.hidden[s.in_reference], atol=EXACT, rtol=EXACT)
    retain = s.in_reference_of(Role.RETAIN)
    expected = whole.logits[s.rows(Role.RETAIN)]
    torch.testing.assert_close(s.ref_logits[retain], expected, atol=EXACT, rtol=EXACT)


def test_a_row_missing_from_the_cache_is_an_error(pair):
    rows = uneven_rows(Needs(rows={Role.FORGET, Role.FORGET_IDK, Role.RETAIN}))
    batch = collate(rows, pad_id=PAD, totals=NO_TOTALS)
    roles = {Role.FORGET, Role.FORGET_IDK}
    cache = cached_reference(pair[1], rows)
    del cache.logps["forget_idk 0"]
    with pytest.raises(KeyError, match="no cached reference log-probs for row 'forget_idk 0'"):
        cache.attach(batch, roles)
    forget = cache.attach(batch, {Role.FORGET}).ref_logps  # the other answers of the same example are no stand-in
    is_forget = batch.role == Role.FORGET
    assert forget[is_forget].any()
    assert not forget[~is_forget].any()
    cache.logps["forget 0"] = cache.logps["forget 0"].repeat(2)
    with pytest.raises(ValueError, match="the row"):
        cache.attach(batch, {Role.FORGET})


def test_a_reference_that_was_not_given_is_an_error(pair):
    batch = collate(uneven_rows(EVERY_ROLE), pad_id=PAD, totals=NO_TOTALS)
    with pytest.raises(ValueError, match="cached reference log-probs"):
        read_signals(pair[0], batch, needs=NPO().needs)
    for part in (RetainKL(), UNDIAL(), EmbeddingDistance(), AdaptiveRMU()):
        with pytest.raises(ValueError, match="live reference"):
            read_signals(pair[0], batch, needs=part.needs)


# ----------------------------------------------------------------------------------- layers that nobody reads


@pytest.fixture(scope="module")
def llamas():
    """A model and a frozen one of four layers, whose loop over layers obeys the config."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        attn_implementation="sdpa",
    )
    return two_models(lambda: LlamaForCausalLM(config))


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        Objective(name="rmu, middle", forget=RMU(), retain=EmbeddingDistance()),
        Objective(name="rmu, layer 0", forget=RMU(layer=0), retain=EmbeddingDistance(layer=0)),
        Objective(name="adaptive rmu, last layer", forget=AdaptiveRMU(layer=3), retain=EmbeddingDistance()),
    ],
    ids=name_of,
)
def test_a_forward_that_stops_early_is_the_full_forward(method, right, llamas):
    """Bit for bit: states, loss and gradients; no layer above the one read has run, in either model."""
    (model, frozen), needs = llamas, method.needs
    assert not needs.logits
    layer = 1 if needs.hidden_layer == -1 else needs.hidden_layer
    rows = uneven_rows(needs)
    batch = collate(rows, pad_id=PAD, totals=totals_of(rows, [range(len(rows))]), every_position=right)
    ran: list[int] = []
    handles = [
        module.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
        for source in llamas
        for number, module in enumerate(source.model.layers)
    ]
    signals, outcomes = [], []
    whole = {"logits": True, "distributions": True, "reference_logits": needs.reference_hidden}
    for wanted in (needs, replace(needs, **whole)):
        ran.clear()
        s = read_signals(model, batch, needs=wanted, reference=live_reference(model, frozen))
        assert ran == 2 * list(range(4 if wanted.logits else layer + 1))
        assert (s.logits is None) == (s.ref_logits is None) == (not wanted.logits)
        signals.append(s)
        outcomes.append(run_step(method, model, [s]))
    for handle in handles:
        handle.remove()
    (stopped, full), (early, late) = signals, outcomes
    assert torch.equal(stopped.hidden, full.hidden)
    assert torch.equal(stopped.ref_hidden, full.ref_hidden)
    assert early.loss == late.loss
    assert early.gradients[f"model.layers.{layer}.mlp.down_proj.weight"].abs().max() > 1e-4
    for name, gradient in early.gradients.items():
        assert torch.equal(gradient, late.gradients[name]), name
    above = [f"model.layers.{number}." for number in range(layer + 1, 4)]
    for name in early.gradients:
        if name.startswith((*above, "model.norm", "lm_head")):
            assert not early.gradients[name].any(), name


def test_states_are_the_output_of_the_layer(llamas):
    """Of layer k, before the final norm: entry k + 1 of transformers' own `hidden_states` (except the last, normed)."""
    model = llamas[0]
    batch = collate(uneven_rows(EVERY_ROLE), pad_id=PAD, totals=NO_TOTALS)
    with torch.no_grad():
        theirs = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
        ).hidden_states
        for layer in range(3):
            ours = read_signals(model, batch, needs=Needs(hidden_layer=layer, logits=False)).hidden
            real = batch.attention_mask.bool()
            torch.testing.assert_close(ours[real], theirs[layer + 1][real], atol=1e-6, rtol=1e-6)
            assert not ours[~real].any()
        last = read_signals(model, batch, needs=Needs(hidden_layer=3, logits=False)).hidden
        torch.testing.assert_close(model.model.norm(last)[real], theirs[4][real], atol=1e-6, rtol=1e-6)


def test_an_error_in_the_forward_leaves_the_model_whole(llamas):
    model = llamas[0]
    hooks = dict(model.model.layers[1]._forward_hooks)  # transformers has some of its own
    with pytest.raises(RuntimeError, match="out of memory"), output_of_layer(model, 1, stop=True):
        assert ["forward" in layer.__dict__ for layer in model.model.layers] == [False, False, True, True]
        raise RuntimeError("out of memory")
    assert not any("forward" in layer.__dict__ for layer in model.model.layers)
    assert model.model.layers[1]._forward_hooks == hooks


def test_gradient_checkpointing_changes_no_step_on_states(llamas):
    """Layers are run again while going backward, after the hook that caught the states is gone."""
    method = Objective(name="rmu", forget=RMU(), retain=EmbeddingDistance())
    rows = uneven_rows(method.needs)
    batch = collate(rows, pad_id=PAD, totals=totals_of(rows, [range(len(rows))]))
    plain = run_step(method, llamas[0], signals_of(method, *llamas, [batch]))
    model = copy.deepcopy(llamas[0]).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(run_step(method, model, signals_of(method, model, llamas[1], [batch])), plain)


def test_adapters_switched_off_are_the_frozen_target(llamas):
    """Logits and states, also where the forward stops early; afterwards the adapters are on again."""
    rows = uneven_rows(EVERY_ROLE)
    batch = collate(rows, pad_id=PAD, totals=NO_TOTALS)
    adapted = get_peft_model(
        copy.deepcopy(llamas[0]), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    for needs in (
        Needs(hidden_layer=1, logits=False, reference_hidden=frozenset(Role)),
        Needs(hidden_layer=1, reference_logits={Role.RETAIN}, reference_hidden=frozenset(Role)),
        Needs(reference_logits=frozenset(Role)),
    ):
        with torch.no_grad():
            s = read_signals(adapted, batch, needs=needs, reference=live_reference(adapted, None))
            alone = replace(needs, reference_logits=frozenset(), reference_hidden=frozenset())
            again, plain = (read_signals(source, batch, needs=alone) for source in (adapted, llamas[0]))
        for name in ("logits", "hidden"):
            ours, theirs, target = getattr(s, name), getattr(s, f"ref_{name}"), getattr(plain, name)
            assert (ours is None) == (target is None)
            if ours is not None:
                assert torch.equal(ours, getattr(again, name))
                assert not torch.allclose(ours, target, atol=1e-3)
            if theirs is not None:
                torch.testing.assert_close(theirs, target)
