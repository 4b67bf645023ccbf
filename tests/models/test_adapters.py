"""The folder of a LoRA adapter as `model.path`: checked on the meta device, merged, evaluated and unlearned further."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from helpers.configs import problems_of as config_problems
from helpers.configs import settings_of
from helpers.families import build_family, logits_of
from helpers.shared import tokenizer_at
from helpers.training import CPU
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lume_run.common.errors import RunError
from lume_run.config.model_settings import LoraSettings, ModelSettings
from lume_run.models import hub
from lume_run.models.adapters import with_adapters
from lume_run.models.folder import model_folder_problems
from lume_run.models.hub import adapter_base, hub_options, model_identity, settings_below
from lume_run.models.load import config_of, context_limit, load_model, save_model
from lume_run.models.tokenizer import load_tokenizer
from lume_run.pipeline.driver import run_pipeline

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(tiny, tmp_path):
    """(the folder of an adapter that changes its model, the folder of that model)."""
    base = build_family("Llama, untied", tiny, tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", base


def problems_of(folder):
    return [str(problem) for problem in model_folder_problems(ModelSettings(name="m", path=str(folder)))]


def test_it_is_merged_into_the_model_below(adapter):
    folder, base = adapter
    settings = ModelSettings(name="m", path=str(folder), dtype="float32")
    assert adapter_base(str(folder)) == str(base)
    assert problems_of(folder) == []
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = logits_of(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder), ids)
    merged = load_model(str(folder), settings, CPU)
    assert torch.allclose(logits_of(merged, ids), expected, atol=1e-6)
    assert not torch.allclose(logits_of(AutoModelForCausalLM.from_pretrained(base), ids), expected, atol=1e-3)
    assert load_tokenizer(str(folder), settings).get_vocab() == tokenizer_at(base).get_vocab()
    assert context_limit(config_of(str(folder), settings), settings) == 256


def test_what_is_below_identifies_it_too(adapter):
    folder, base = adapter
    before = model_identity(str(folder), ModelSettings(name="m", path=str(folder)))
    (base / "generation_config.json").write_text('{"temperature": 0.5}', encoding="utf-8")
    assert model_identity(str(folder), ModelSettings(name="m", path=str(folder))) != before


def spoil_config(**changed):
    def change(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed), encoding="utf-8")

    return change


def spoil_weights(change):
    def rewrite(folder):
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return rewrite


def first_of(weights):
    return next(iter(weights))


SPOILED = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no safetensors"),
    "a pickle": (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), "no safetensors"),
    "cut": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100]), "not a usable"),
    "one lost": (spoil_weights(lambda weights: weights.pop(first_of(weights))), "1 weight is missing"),
    "one more": (spoil_weights(lambda weights: weights.update(x=torch.zeros(1))), "1 weight is in the files"),
    "of another shape": (
        spoil_weights(lambda weights: weights.update({first_of(weights): torch.zeros(2, 2)})),
        "of another shape",
    ),
    "of another rank": (spoil_config(r=2), "of another shape"),
    "no base": (spoil_config(base_model_name_or_path=""), "names no base"),
    "base away": (spoil_config(base_model_name_or_path="/nowhere/base"), "does not exist"),
    "no json": (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
    "no list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "cannot be read"),
    "nested deeply": (lambda folder: (folder / "adapter_config.json").write_text("[" * 10**5), "cannot be read"),
    "modules away": (spoil_config(target_modules=["nothing"]), "not a usable"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_wrong_is_told_before_anything_loads(name, adapter):
    folder, _ = adapter
    spoil, what = SPOILED[name]
    spoil(folder)
    (problem,) = problems_of(folder)
    assert what in problem and str(folder) in problem


def test_a_base_that_is_broken_is_told_as_such(adapter):
    folder, base = adapter
    (base / "model.safetensors").unlink()
    (problem,) = problems_of(folder)
    assert str(base) in problem


def test_loading_refuses_what_nobody_checked(adapter):
    folder, _ = adapter
    spoil_weights(lambda weights: weights.pop(first_of(weights)))(folder)
    with pytest.raises(RunError, match="1 weight is missing"):
        load_model(str(folder), ModelSettings(name="m", path=str(folder), dtype="float32"), CPU)


@pytest.mark.slow  # a whole run
def test_it_is_unlearned_further(adapter, tmp_path):
    """The unlearned model is a whole one; the adapter's folder can go."""
    folder, base = adapter
    settings = settings_of(
        "debug=default",
        "model=hf",
        f"model.path={folder}",
        "launch.device=cpu",
        "logger=none",
        f"output_dir={tmp_path / 'out'}",
    )
    run_pipeline(settings, tmp_path / "run", identity={}, command=["test"])
    shutil.rmtree(folder)
    shutil.rmtree(base)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "unlearned" / "model") is not None


def test_fewer_bits_would_change_what_is_below(adapter):
    problems = config_problems("model=hf", f"model.path={adapter[0]}", "model.quantize=4bit", "stages=[evaluate]")
    assert "adapter of model.path" in problems["model.quantize"].what


def test_adapters_in_a_circle(adapter, tmp_path):
    folder, _ = adapter
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for one_folder, below in ((folder, other), (other, folder)):
        spoil_config(base_model_name_or_path=str(below))(one_folder)
    (problem,) = problems_of(folder)
    assert "stands on itself" in problem


def test_an_adapter_on_an_adapter(adapter, tmp_path):
    """Both are merged; the second belongs to the first with its base, not to the base alone."""
    folder, _ = adapter
    settings = ModelSettings(name="m", path=str(folder), dtype="float32")
    model = get_peft_model(load_model(str(folder), settings, CPU), LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(tmp_path / "second")
    assert adapter_base(str(tmp_path / "second")) == str(folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    again = load_model(str(tmp_path / "second"), replace(settings, path=str(tmp_path / "second")), CPU)
    assert torch.allclose(logits_of(again, ids), logits_of(model, ids), atol=1e-6)


@pytest.mark.parametrize("launch", ["zero3", "zero3_offload"])
def test_zero3_has_no_whole_weights_to_merge_into(launch, adapter):
    problems = config_problems("model=hf", f"model.path={adapter[0]}", f"launch={launch}", "launch.device=cpu")
    assert "merged into whole ones" in problems["launch"].what


def test_a_revision_of_a_folder(adapter):
    problems = config_problems("model=hf", f"model.path={adapter[1]}", "model.revision=main")
    assert "model.path is a folder" in problems["model.revision"].what


def test_the_model_below_is_loaded_at_the_commit_that_the_adapter_names(tiny, tmp_path, monkeypatch):
    """A branch that moved since has other weights."""
    model = AutoModelForCausalLM.from_pretrained(build_family("Llama, untied", tiny, tmp_path / "base"))
    model.name_or_path = "some/model"
    wrapped = with_adapters(model, LoraSettings(enabled=True, rank=2), 0, revision="abc")
    save_model(wrapped, tokenizer_at(tiny), tmp_path / "merged", adapter=tmp_path / "adapter")
    settings = ModelSettings(name="m", path=str(tmp_path / "adapter"))
    below = settings_below(str(tmp_path / "adapter"), settings)
    assert (below.path, below.revision) == ("some/model", "abc")
    asked = []
    monkeypatch.setattr(hub, "hub_commit", lambda path, revision: asked.append((path, revision)) or "abcdef")
    monkeypatch.setattr(hub, "only_local", lambda path: True)
    assert hub_options("some/model", below)["revision"] == "abcdef"
    assert model_identity(str(tmp_path / "adapter"), settings)
    assert asked == [("some/model", "abc")] * 2


def test_an_adapter_on_a_tied_weight(tiny, tmp_path):
    base = build_family("Llama, tied", tiny, tmp_path / "base")
    for module in ("lm_head", "embed_tokens"):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=[module]))
        model.save_pretrained(tmp_path / module)
        (problem,) = problems_of(tmp_path / module)
        assert "shares its weights between embedding and head" in problem


def test_a_token_beside_an_adapter_that_the_model_below_has_not(adapter):
    folder, base = adapter
    tokenizer = tokenizer_at(base)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    (problem,) = problems_of(folder)
    assert "the first without one is '<new>'" in problem


def test_a_whole_model_with_an_adapter_beside_it(adapter):
    """transformers would read the adapter over the model that it names, and save that in place of a model."""
    folder, base = adapter
    for file in folder.glob("adapter_*"):
        shutil.copy(file, base)
    (problem,) = problems_of(base)
    assert "holds both a whole model and an adapter (adapter_config.json)" in problem


def test_what_is_no_change_of_weights_cannot_be_merged(adapter, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(adapter[1]),
        PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(tmp_path / "prompt")
    (problem,) = problems_of(tmp_path / "prompt")
    assert "PROMPT_TUNING" in problem and "cannot be merged" in problem
