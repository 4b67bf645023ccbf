"""Every family of causal LMs that the field uses: trained whole, with adapters and by hidden states; evaluated; saved.

docs/models.md shows what came out, line by line.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from helpers.families import EVALUATION, FAMILIES, PARTS, SIZES, build_family, logits_of, table_row
from helpers.shared import ROOT, tokenizer_at
from helpers.training import compose_method, phase, rows_for, set_up
from transformers import AutoConfig, AutoModelForCausalLM

from lume_run.common.errors import ConfigError, RunError
from lume_run.config.model_settings import LoraSettings, ModelSettings
from lume_run.models.adapters import with_adapters
from lume_run.models.folder import model_folder_problems
from lume_run.models.layers import layer_number, stream_fault
from lume_run.models.load import save_model
from lume_run.models.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "models.md"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, tiny, tmp_path):
    """Everything works, and the page says so."""
    row = table_row(name, tiny, tmp_path)
    assert row.count("| yes ") == len(PARTS) + 1, row
    assert row in PAGE.read_text(encoding="utf-8"), row
    assert list(model_folder_problems(ModelSettings(name="m", path=str(tmp_path / "model")))) == []


def test_the_page_has_no_other_families():
    text = PAGE.read_text(encoding="utf-8")
    assert f"| family | {' | '.join(PARTS)} | {EVALUATION} |" in text
    assert set(re.findall(r"^\| ([^|]+) \| yes", text, re.MULTILINE)) == FAMILIES.keys()


@pytest.mark.parametrize("name", ["GPT-2", "Llama, tied", "Gemma", "OPT", "Falcon", "BLOOM"])
def test_adapters_on_a_tied_weight_are_refused(name, tiny, tmp_path):
    """On the head or the embedding alone: merged, they would change both."""
    path = build_family(name, tiny, tmp_path / "model")
    embedding = next(
        key.rsplit(".", 1)[-1]
        for key, module in AutoModelForCausalLM.from_pretrained(path).named_modules()
        if isinstance(module, torch.nn.Embedding)
    )
    for module in ("lm_head", embedding):
        with pytest.raises(ConfigError, match=rf"target_modules: .*{module} shares its weights"):
            adapted(path, tmp_path / module, [module])


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens", "q_proj", "all-linear"])
def test_adapters_are_merged_whatever_they_are_on(module, tiny, tmp_path):
    path = build_family("Llama, untied", tiny, tmp_path / "model")
    setup, ids = adapted(path, tmp_path, module if module == "all-linear" else [module])
    setup.trainer.train()
    trained = logits_of(setup.trainer.model, ids)
    save_model(setup.trainer.model, tokenizer_at(path), tmp_path / "saved")
    assert torch.allclose(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), ids), trained, atol=1e-6)


def adapted(path, folder, modules):
    method = compose_method("npo_gd")
    rows = rows_for(method, path, forget=4, retain=4)
    lora = LoraSettings(enabled=True, rank=4, target_modules=modules)
    return set_up(path, rows, folder / "training", method, phase(), lora=lora), torch.tensor([list(rows[0].ids)])


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("t5", "no causal"),
        ("bert", "is an encoder"),
        ("mamba", "no attention heads"),
        ("trocr", "counts positions of padding"),
        ("roberta", "counts positions of padding"),
    ],
)
def test_models_that_are_not_run(kind, what, tiny, tmp_path):
    config = AutoConfig.for_model(kind)
    config.save_pretrained(tmp_path)
    tokenizer_at(tiny).save_pretrained(tmp_path)
    (problem,) = model_folder_problems(ModelSettings(name="m", path=str(tmp_path)))
    assert (problem.where, what in problem.what) == ("model.path", True)


def test_attention_that_a_family_has_not(tiny, tmp_path):
    path = build_family("GPT-J", tiny, tmp_path)
    settings = ModelSettings(name="m", path=str(path), attention="sdpa")
    (problem,) = model_folder_problems(settings)
    assert (problem.where, problem.what) == ("model.attention", "models of type gptj have no sdpa attention")
    assert list(model_folder_problems(replace(settings, attention="eager"))) == []


def test_a_pad_token_beyond_the_embedding(tiny, tmp_path):
    """One added to the tokenizer alone is not used; any other token there is refused by name."""
    path = build_family("Llama, tied", tiny, tmp_path)
    tokenizer, settings = tokenizer_at(tiny), ModelSettings(name="m", path=str(path))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(path)
    assert list(model_folder_problems(settings)) == []
    assert load_tokenizer(str(path), settings).pad_token_id == tokenizer.eos_token_id
    tokenizer.add_tokens(["<new>"])
    other = tmp_path / "other"
    build_family("Llama, tied", tiny, other)
    tokenizer.save_pretrained(other)
    (problem,) = model_folder_problems(ModelSettings(name="m", path=str(other)))
    assert "the first without one is '<new>'" in problem.what


def test_adapters_on_experts_beside_a_tied_head(tiny, tmp_path):
    """Experts are parameters and no layers: they have no `weight` to compare with the head's."""
    kind, changed = FAMILIES["Mixtral"]
    config = AutoConfig.for_model(kind, **{**SIZES, **changed, "vocab_size": 64, "tie_word_embeddings": True})
    model = AutoModelForCausalLM.from_config(config)
    wrapped = with_adapters(model, LoraSettings(enabled=True, rank=4), 0)
    assert any("experts" in name for name, weight in wrapped.named_parameters() if weight.requires_grad)


def test_adapters_leave_out_what_kernels_read_past_its_layer(tiny, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(build_family("Falcon-H1", tiny, tmp_path / "model"))
    wrapped = with_adapters(model, LoraSettings(enabled=True, rank=4), 0)
    trained = {name.split(".lora_")[0] for name, weight in wrapped.named_parameters() if weight.requires_grad}
    assert any(name.endswith("mamba.in_proj") for name in trained)
    assert not any(name.endswith("mamba.out_proj") for name in trained)


def test_layers_with_several_states_of_a_token_are_not_read(tiny):
    """Gemma 3n: neither a direction nor another model's state has a place among them."""
    config = AutoConfig.for_model("gemma3n_text", altup_num_inputs=4)
    assert stream_fault(config) == "layers of gemma3n_text pass on 4 states of a token, not one"
    with pytest.raises(RunError, match="reads hidden states, and layers of gemma3n_text pass on 4"):
        layer_number(config, 0)
    assert not stream_fault(AutoConfig.for_model("llama"))
