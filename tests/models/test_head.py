"""What is read of logits in parts is what whole logits give: numbers and gradients, for every loss and family."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.families import FAMILIES, build_family
from helpers.shared import tokenizer_at
from helpers.training import OBJECTIVES, compose_method, rows_for
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lume_run.config.model_settings import LoraSettings
from lume_run.methods.likelihood import FineTune
from lume_run.models.adapters import with_adapters
from lume_run.models.rows import head
from lume_run.models.rows.batch import collate
from lume_run.models.rows.head import plain_head
from lume_run.models.rows.packed import PACKED_TYPES
from lume_run.training import reference as reference_module
from lume_run.training import signals as signals_module
from lume_run.training.reference import ReferenceCache, live_reference, row_logps
from lume_run.training.rows import bind_tokens
from lume_run.training.schedule import totals_of
from lume_run.training.signals import read_signals

PAD = 1
WAYS = {"whole": (2**40, 2**40), "kept, in parts": (2**40, 1000), "computed anew": (0, 1000)}
METHODS = [name for name in OBJECTIVES if compose_method(name).needs.logits]


def outcome(method, model, frozen, rows):
    """(loss, logged parts, gradients by name) of one micro-batch over all rows."""
    totals, needs = totals_of(rows, [range(len(rows))]), method.needs
    batch = collate(rows, pad_id=PAD, totals=totals, every_position=needs.every_position, pad_to=needs.pad_to)
    if needs.reference_logps:
        logps = row_logps(frozen, rows, pad_id=PAD)
        cache = ReferenceCache({row.key: values for row, values in zip(rows, logps, strict=True)})
        batch = cache.attach(batch, needs.reference_logps)
    model.zero_grad(set_to_none=True)
    reference = live_reference(model, None if hasattr(model, "disable_adapter") else frozen)
    losses = method(read_signals(model, batch, needs=needs, reference=reference))
    losses.total.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return losses.total.item(), {name: float(value) for name, value in losses.parts.items()}, gradients


def compare(method, model, frozen, rows, monkeypatch, tolerance=1e-5):
    """Against logits of all labels at once."""
    with monkeypatch.context() as patch:
        for module in (signals_module, reference_module):
            patch.setattr(module, "plain_head", lambda _: None)
        loss, parts, gradients = outcome(method, model, frozen, rows)
    assert gradients
    for kept, part in WAYS.values():
        monkeypatch.setitem(head.KEPT_NUMBERS, "cpu", kept)
        monkeypatch.setitem(head.PART_NUMBERS, "cpu", part)
        now, now_parts, now_gradients = outcome(method, model, frozen, rows)
        assert now == pytest.approx(loss, rel=tolerance, abs=tolerance)
        assert now_parts == pytest.approx(parts, rel=tolerance, abs=tolerance)
        assert now_gradients.keys() == gradients.keys()
        for name, gradient in now_gradients.items():
            scale = tolerance * (1 + float(gradients[name].abs().max()))
            torch.testing.assert_close(gradient, gradients[name], atol=scale, rtol=0, msg=name)


def two_models(path):
    """A model, and a frozen one whose weights differ."""
    model = AutoModelForCausalLM.from_pretrained(path)
    frozen = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in frozen.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model.eval(), frozen.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def llama(tiny, tmp_path_factory):
    return build_family("Llama, untied", tiny, tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", [*METHODS, "finetune"])
def test_every_method(name, llama, monkeypatch):
    method = FineTune() if name == "finetune" else bind_tokens(compose_method(name), tokenizer_at(llama))
    compare(method, *two_models(llama), rows_for(method, llama, forget=5, retain=4), monkeypatch)


@pytest.mark.parametrize("family", [name for name, (kind, _) in FAMILIES.items() if kind in PACKED_TYPES])
def test_every_family(family, tiny, tmp_path, monkeypatch):
    """Tied and untied, with a bias, scaled, of a model that sees images too: NPO and KL read both models."""
    path = build_family(family, tiny, tmp_path)
    model, frozen = two_models(path)
    assert plain_head(model) is not None
    method = compose_method("npo_kl")
    compare(method, model, frozen, rows_for(method, path, forget=3, retain=3), monkeypatch, tolerance=2e-5)


@pytest.mark.parametrize(
    ("family", "key"), [("Gemma 3, text", "final_logit_softcapping"), ("Granite", "logits_scaling")]
)
def test_what_families_do_to_logits(family, key, tiny, tmp_path, monkeypatch):
    path = build_family(family, tiny, tmp_path)
    model, frozen = two_models(path)
    for each in (model, frozen):
        setattr(each.config, key, 3.0)
    method = compose_method("npo_kl")
    compare(method, model, frozen, rows_for(method, path, forget=3, retain=3), monkeypatch, tolerance=2e-5)


@pytest.mark.parametrize("name", ["npo_kl", "undial", "me_gd"])
@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "lm_head"]], ids=["layers", "head too"])
def test_adapters(name, modules, llama, monkeypatch):
    """With an adapter on the head, logits are whole as before."""
    _, frozen = two_models(llama)
    lora = LoraSettings(enabled=True, rank=4, target_modules=modules)
    model = with_adapters(AutoModelForCausalLM.from_pretrained(llama), lora, 0).eval()
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.1)
    assert (plain_head(model) is None) == ("lm_head" in modules)
    method = compose_method(name)
    compare(method, model, frozen, rows_for(method, llama, forget=4, retain=3), monkeypatch)


@pytest.mark.parametrize("name", ["npo_kl", "undial"])
def test_padded_rows(name, llama, monkeypatch):
    """Where attention takes no packed rows, the head reads labels in parts all the same."""
    model, frozen = (AutoModelForCausalLM.from_pretrained(llama, attn_implementation="eager").eval() for _ in range(2))
    method = compose_method(name)
    compare(method, model, frozen.requires_grad_(False), rows_for(method, llama, forget=4, retain=3), monkeypatch)


def test_frozen_heads_and_checkpointed_layers(llama, monkeypatch):
    model, frozen = two_models(llama)
    model.lm_head.weight.requires_grad_(False)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    method = compose_method("me_gd")
    compare(method, model.train(), frozen, rows_for(method, llama, forget=4, retain=3), monkeypatch)


class Largest(TorchDispatchMode):
    """The most numbers that one tensor holds."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("name", ["npo_gd", "npo_kl", "me_gd", "undial", "ceu", "pdu", "idk_ap"])
def test_there_are_never_logits_of_all_labels(name, llama, monkeypatch):
    """Of 5,000 words, in parts of 4 labels: the head's weight is the largest tensor."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=5000, pad_token_id=PAD, **sizes)
    model, frozen = LlamaForCausalLM(config), LlamaForCausalLM(config).requires_grad_(False)
    method = compose_method(name)
    rows = rows_for(method, llama, forget=8, retain=8)
    assert sum(row.labels for row in rows) > 2 * 8
    monkeypatch.setitem(head.KEPT_NUMBERS, "cpu", 0)
    monkeypatch.setitem(head.PART_NUMBERS, "cpu", 4 * 5000)
    with Largest() as largest:
        outcome(method, model, frozen, rows)
    assert largest.numbers == 8 * 5000
