"""Rows end to end give what padded rows give: logits, gradients, states, in every family that is packed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.families import FAMILIES, build_family
from transformers import AutoModelForCausalLM

from lume_run.config.model_settings import LoraSettings
from lume_run.methods.needs import Needs, Role
from lume_run.models.adapters import with_adapters
from lume_run.models.forward import forward, label_logps
from lume_run.models.rows.attention import PACKED, packs
from lume_run.models.rows.batch import NO_TOTALS, collate
from lume_run.models.rows.packed import PACKED_TYPES, pack
from lume_run.models.rows.tokenise import TokenRow

PAD = 1
LENGTHS, ANSWERS = (23, 5, 12, 2, 17, 30), (9, 4, 11, 1, 3, 20)
EXACT, SINGLE = 1e-9, 1e-4  # in float64; where a family computes in float32, to the largest number of a tensor


def row_of(number: int, length: int, answer: int) -> TokenRow:
    ids = torch.randint(5, 300, (length,), generator=torch.Generator().manual_seed(number)).tolist()
    start = length - answer
    role = Role.FORGET if number % 2 else Role.RETAIN
    return TokenRow(example_id=str(number), ids=tuple(ids), answer_start=start, label_start=start, role=role)


ROWS = [row_of(number, *sizes) for number, sizes in enumerate(zip(LENGTHS, ANSWERS, strict=True))]
BATCH = collate(ROWS, pad_id=PAD, totals=NO_TOTALS)
PADDED = replace(BATCH, packing=None)


def results(model, batch, needs):
    """Label log-probabilities, states, and the gradients of a sum of both."""
    outputs = forward(model, batch, needs)
    logps = label_logps(outputs.logits, batch).masked_fill(~batch.mask, 0)
    loss = (logps * torch.arange(1, logps.numel() + 1).view(logps.shape)).sum()
    states = None
    if outputs.hidden is not None:
        states = outputs.hidden * batch.attention_mask[..., None]
        loss = loss + (states**3).sum()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return logps, states, dict(zip(weights, gradients, strict=True))


def compare(model, needs=None):
    (*packed, gradients), (*padded, expected) = (results(model, batch, needs) for batch in (BATCH, PADDED))
    computes_single = "gemma" in model.config.model_type or hasattr(model.config, "num_experts_per_tok")
    pairs = [*zip(packed, padded, strict=True), *((gradients[name], expected[name]) for name in gradients)]
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    assert len(known) > 6 and all((ours is None) == (theirs is None) for ours, theirs in pairs)
    for ours, theirs in known:
        scale = SINGLE * float(theirs.abs().max()) + 1e-6 if computes_single else EXACT
        torch.testing.assert_close(ours, theirs, atol=scale, rtol=scale)


@pytest.fixture(params=FAMILIES)
def family(request, tiny, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(build_family(request.param, tiny, tmp_path / "model"))
    return model if hasattr(model.config, "num_experts_per_tok") else model.double()  # experts know no float64


def test_every_family(family):
    """Sliding windows are shorter than the rows."""
    if family.config.model_type not in PACKED_TYPES:
        assert not packs(family)
        assert forward(family, BATCH).logits.ndim == 3  # padded
        return
    assert packs(family)
    assert forward(family, BATCH).logits.shape == (sum(ANSWERS), family.config.get_text_config().vocab_size)
    compare(family)
    compare(family, Needs(hidden_layer=0))


def test_every_type_of_the_list_is_among_the_families():
    assert {kind for kind, _ in FAMILIES.values()} >= PACKED_TYPES


@pytest.fixture
def llama(tiny, tmp_path):
    return AutoModelForCausalLM.from_pretrained(build_family("Llama, untied", tiny, tmp_path / "model")).double()


def test_adapters(llama):
    model = with_adapters(llama, LoraSettings(enabled=True, rank=4), 0).double()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    compare(model)


def test_checkpointing(llama):
    """Layers that are computed anew in the backward pass still know where rows end."""
    llama.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    llama.train()
    compare(llama, Needs(hidden_layer=0))


def test_a_stop_at_the_layer_that_is_read(llama):
    needs = Needs(hidden_layer=0, logits=False)
    states = [forward(llama, batch, needs).hidden * BATCH.attention_mask[..., None] for batch in (BATCH, PADDED)]
    torch.testing.assert_close(*states, atol=EXACT, rtol=EXACT)


def test_some_of_the_rows(llama):
    chosen = BATCH.role == Role.FORGET
    some, whole = BATCH.take(chosen), forward(llama, PADDED).logits
    assert len(forward(llama, some).logits) == sum(ANSWERS[1::2])
    expected = label_logps(whole, PADDED)[chosen]
    torch.testing.assert_close(label_logps(forward(llama, some).logits, some)[some.mask], expected[some.mask])


def test_padded_rows_and_texts_of_a_model_that_packs_are_as_before(llama):
    """The attention that knows packed rows is torch's own for others."""
    ids, mask = PADDED.input_ids, PADDED.attention_mask
    before = llama(input_ids=ids, attention_mask=mask, position_ids=PADDED.position_ids).logits
    assert packs(llama) and llama.config._attn_implementation == PACKED
    after = llama(input_ids=ids, attention_mask=mask, position_ids=PADDED.position_ids).logits
    assert torch.equal(before, after)


def test_other_attention_is_left_alone(tiny, tmp_path):
    path = build_family("Llama, untied", tiny, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    assert not packs(model) and model.config._attn_implementation == "eager"


def test_a_label_with_nothing_before_it_is_padded():
    """There another row's last token would predict it."""
    bare = TokenRow(example_id="a", ids=(7, 8), answer_start=0, label_start=0)
    assert pack([bare, *ROWS], width=40, span=30) is None
