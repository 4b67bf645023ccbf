"""Dropout acts on the model that is trained, never on the frozen target: live or cached, copied or under adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.shared import tokenizer_at
from helpers.training import (
    CPU,
    LORA,
    MEMBERS,
    OBJECTIVES,
    REFUSALS,
    alternates_for,
    compose_method,
    example,
    phase,
    rows_for,
    set_up,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lume_run.common.records import Split
from lume_run.config.model_settings import ModelSettings
from lume_run.models.forward import forward
from lume_run.models.rows.batch import NO_TOTALS, collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.reference import ReferenceCache, build_reference, live_reference, row_logps
from lume_run.training.rows import examples_of

pytestmark = pytest.mark.slow

DROPOUT = 0.5
CACHED = [name for name in (*OBJECTIVES, *MEMBERS) if compose_method(name).needs.reference_logps]
LIVE = [name for name in (*OBJECTIVES, *MEMBERS) if compose_method(name).needs.live_reference]


def llama(vocabulary: int) -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
            attention_dropout=DROPOUT,
        )
    )


def gpt2(vocabulary: int) -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=2,
            initializer_range=0.3,
            resid_pdrop=DROPOUT,
            embd_pdrop=DROPOUT,
            attn_pdrop=DROPOUT,
        )
    )


@pytest.fixture(scope="module", params=[llama, gpt2], ids=lambda build: build.__name__)
def target(request, tiny, tmp_path_factory) -> Path:
    """An untrained model with dropout, and the tokenizer of `tiny`."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    tokenizer = tokenizer_at(tiny)
    torch.manual_seed(0)
    model = request.param(len(tokenizer))
    model.config.update(
        {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def frozen_target(target: Path) -> nn.Module:
    """The target in eval mode, loaded without our code."""
    return AutoModelForCausalLM.from_pretrained(target).eval()


def pad_of(target: Path) -> int:
    return int(tokenizer_at(target).pad_token_id)


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_dropout_moves_the_log_probs(target):
    """So that the tests below can fail."""
    model, rows = frozen_target(target), rows_for(compose_method("npo"), target)[:1]
    (without,), (dropped,) = (row_logps(each, rows, pad_id=pad_of(target)) for each in (model, model.train()))
    assert not torch.allclose(without, dropped, atol=0.1)


def assert_cache(folder: Path, rows: list[TokenRow], target: Path) -> None:
    """Every row as it is when it runs alone, without dropout."""
    cache, frozen = ReferenceCache.load(folder), frozen_target(target)
    assert rows and set(cache.logps) == {row.key for row in rows}
    for row in rows:
        (expected,) = row_logps(frozen, [row], pad_id=pad_of(target))
        assert_close(cache.logps[row.key], expected)


@pytest.mark.parametrize("name", CACHED)
def test_the_cache_is_computed_without_dropout(name, target, tmp_path):
    """Whatever mode the model is in, and from the target's folder as runs do."""
    method = compose_method(name)
    rows = [row for row in rows_for(method, target) if row.role in method.needs.reference_logps]
    (given := tmp_path / "given").mkdir()
    model = frozen_target(target).train()
    ReferenceCache.compute(model, rows, pad_id=pad_of(target), batch_tokens=128, folder=given)
    assert_cache(given, rows, target)
    (loaded := tmp_path / "loaded").mkdir()
    forget = [example(number, Split.FORGET) for number in range(9)]
    retain = [example(number, Split.RETAIN) for number in range(9, 14)]
    alternates = alternates_for(method, forget)
    examples = examples_of(method.needs.rows, forget, retain, refusals=REFUSALS, seed=0, alternates=alternates)
    build_reference(
        str(target),
        [(role, row) for role, row in examples if role in method.needs.reference_logps],
        method.needs,
        loaded,
        settings=ModelSettings(name="test", path=str(target), dtype="float32"),
        device=CPU,
        batch_tokens=128,
    )
    assert_cache(loaded, rows, target)


@pytest.mark.parametrize("lora", [None, replace(LORA, dropout=DROPOUT)], ids=["full", "lora"])
@pytest.mark.parametrize("name", LIVE)
def test_the_live_reference_runs_without_dropout(name, lora, target, tmp_path):
    """In every step of training, while the policy stays in train mode."""
    setup = set_up(target, rows_for(compose_method(name), target), tmp_path, compose_method(name), phase(), lora=lora)
    trainer, frozen, calls = setup.trainer, frozen_target(target), 0
    reference = trainer.reference

    def checked(batch, needs):
        nonlocal calls
        assert_in_train_mode(trainer.model)
        outputs = reference(batch, needs)
        assert_in_train_mode(trainer.model)
        assert_outputs(outputs, frozen, batch, needs)
        calls += 1
        return outputs

    trainer.reference = checked
    trainer.train()
    assert calls >= setup.schedule.steps > 1


def assert_in_train_mode(model: nn.Module) -> None:
    """All of it: some dropout is in its attention, not in a module."""
    assert model.training and all(module.training for module in model.modules())


def assert_outputs(outputs, frozen: nn.Module, batch, needs) -> None:
    """The logits and hidden states of the frozen target in eval mode."""
    with torch.no_grad():
        logits = forward(frozen, batch).logits
        hidden = forward(frozen, batch, needs).hidden if needs.reference_hidden else None
    assert needs.reference_logits or needs.reference_hidden
    if needs.reference_logits:
        assert_close(outputs.whole_logits(), logits)
    if hidden is not None:
        assert_close(outputs.hidden, hidden)


@pytest.mark.parametrize("name", LIVE)
def test_a_reference_in_train_mode_runs_without_dropout(name, target):
    """A frozen model that was left in it."""
    needs, rows = compose_method(name).needs, rows_for(compose_method(name), target)
    chosen = [row for row in rows if row.role in needs.live_reference][:4]
    batch = collate(chosen, pad_id=pad_of(target), totals=NO_TOTALS, every_position=needs.every_position)
    left_in_train_mode = frozen_target(target).train()
    with torch.no_grad():
        outputs = live_reference(nn.Module(), left_in_train_mode)(batch, needs)
    assert_outputs(outputs, frozen_target(target), batch, needs)
