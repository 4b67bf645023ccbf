"""Folders that hold no usable model are refused by name before any weights load, whatever is wrong with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CTRLConfig,
    CTRLLMHeadModel,
    Gemma3nTextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
)

from lume_run.common.errors import InputError, RunError
from lume_run.config.model_settings import LoraSettings, ModelSettings
from lume_run.config.overrides import compose, conf_dir
from lume_run.models.adapters import with_adapters
from lume_run.models.files import values
from lume_run.models.files.faults import config_faults
from lume_run.models.folder import model_folder_problems
from lume_run.models.load import load_model
from lume_run.pipeline.checks.config import check_config

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A model to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(name="test", path=str(folder))


def faults(folder: Path) -> str:
    """All that is wrong with it; each with what to do."""
    problems = list(model_folder_problems(settings_of(folder)))
    assert all(problem.where == "model.path" and problem.remedy for problem in problems)
    return "\n".join(problem.what for problem in problems)


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def configured(**changes: object) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", **changes)


def weights_changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def truncated(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])

    return damage


def removed(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]


def sharded(listed: Callable[[list[str]], list[str]], file: str) -> Callable[[Path], None]:
    """All weights in one shard, of which an index lists some."""

    def damage(folder: Path) -> None:
        names = sorted(load_file(folder / WEIGHTS))
        (folder / WEIGHTS).rename(folder / "shard.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(listed(names), file)}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")

    return damage


def doubled(folder: Path) -> None:
    """A weight in both shards, with other values in the second, where the index does not look."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    (folder / WEIGHTS).unlink()
    save_file({name: weights[name] for name in names[:5]}, folder / "a.safetensors")
    save_file(
        {**{name: weights[name] for name in names[5:]}, names[0]: weights[names[0]] + 1}, folder / "b.safetensors"
    )
    index = {name: "a.safetensors" if name in names[:5] else "b.safetensors" for name in names}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")


def generation(**changes: object) -> Callable[[Path], None]:
    return written("generation_config.json", json.dumps(changes))


def tokenizer_configured(**changes: object) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "tokenizer_config.json", **changes)


def added_token(number: int) -> Callable[[Path], None]:
    """A token whose id leaves a gap, which the library closes."""

    def damage(folder: Path) -> None:
        tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        change_json(folder / "tokenizer.json", added_tokens=[*tokens, {**tokens[0], "id": number, "content": "<far>"}])

    return damage


PROJECTION = "model.layers.0.mlp.up_proj.weight"
DAMAGE = {
    "a layer more": (configured(num_hidden_layers=3), "missing and would be random, first model.layers.2."),
    "a layer less": (configured(num_hidden_layers=1), "not in the model of the config, first model.layers.1."),
    "layers without end": (configured(num_hidden_layers=10**6), "config.json has 1000000 layers"),
    "wider": (configured(intermediate_size=128), "of another shape, first model.layers.0.mlp."),
    "other heads": (configured(num_attention_heads=5), "32"),
    "no layers": (configured(num_hidden_layers=0), "num_hidden_layers is 0"),
    "no positions": (configured(max_position_embeddings=0), "max_position_embeddings is 0"),
    "words for numbers": (configured(hidden_size="large"), "hidden_size"),
    "unknown type": (configured(model_type="nothing"), "nothing"),
    "an encoder": (configured(model_type="bert", architectures=["BertModel"]), "encoder"),
    "an encoder-decoder": (configured(model_type="t5"), "t5"),
    "unknown quantisation": (configured(quantization_config={"quant_method": "squash"}), "'squash' is unknown"),
    "absent quantisation": (configured(quantization_config={"quant_method": "aqlm"}), "not installed"),
    "config cut": (truncated("config.json", 0.5), "config.json"),
    "config empty": (written("config.json", ""), "config.json"),
    "config a list": (written("config.json", "[]"), "config.json cannot be read"),
    "config nested deeply": (written("config.json", "[" * 10**5), "config.json cannot be read"),
    "config in Latin-1": (written("config.json", b'{"a": "\xe9"}'), "config.json"),
    "no config": (removed("config.json"), "holds no config.json"),
    "generation config cut": (written("generation_config.json", '{"eos'), "generation_config.json"),
    "generation config a list": (written("generation_config.json", "[]"), "list"),
    "a weight lost": (weights_changed(lambda weights: weights.pop("model.layers.0.mlp.up_proj.weight")), "up_proj"),
    "a weight more": (weights_changed(lambda weights: weights.update(extra=torch.zeros(2))), "first extra"),
    "weights cut": (truncated(WEIGHTS, 0.7), "not a usable model folder"),
    "weights empty": (written(WEIGHTS, b""), "not a usable model folder"),
    "no weights": (removed(WEIGHTS), "no weights as safetensors"),
    "a pickle": (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "only pickles"),
    "a pointer": (written(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "pointer of Git LFS"),
    "an index of one": (sharded(lambda names: names[:1], "shard.safetensors"), "not in model.safetensors.index.json"),
    "an index of more": (sharded(lambda names: [*names, "x.y"], "shard.safetensors"), "not in its files, first x.y"),
    "an index of lost files": (sharded(lambda names: names, "gone.safetensors"), "names gone.safetensors"),
    "a text part of nobody": (configured(text_config={"model_type": "nothing"}), "its part for text is of no type"),
    "an end below nothing": (configured(eos_token_id=-1), "eos_token_id -1 is no token"),
    "a pad below nothing": (configured(pad_token_id=-5), "pad_token_id -5 is no token"),
    "dropout of seven": (configured(attention_dropout=7), "attention_dropout is 7, and must be from 0 to 1"),
    "angles of nothing": (configured(rope_parameters={"rope_type": "default", "rope_theta": 0}), "rope_theta is 0"),
    "angles stretched by nothing": (
        configured(rope_parameters={"rope_type": "linear", "factor": 0, "rope_theta": 1e4}),
        "factor is 0, and must be at least 1",
    ),
    "results without names": (configured(return_dict=False), "return_dict is false"),
    "few positions": (configured(max_position_embeddings=1), "max_position_embeddings is 1"),
    "architectures in words": (configured(architectures="OlmoForCausalLM"), "no list of names"),
    "a share of three": (generation(top_p=3.0), "top_p is 3.0, and must be from 0 to 1"),
    "sampling in words": (generation(do_sample="maybe"), "do_sample is 'maybe'"),
    "whole numbers": (
        weights_changed(lambda weights: weights.update({PROJECTION: weights[PROJECTION].to(torch.int32)})),
        f"{PROJECTION} is stored as I32",
    ),
    "a weight in two shards": (doubled, "1 weight is in two of the files"),
    "a token with another id": (added_token(9000), "gives the token '<far>' the id 9000"),
    "a template that is a number": (tokenizer_configured(chat_template=3), "chat_template is 3"),
    "a length in words": (tokenizer_configured(model_max_length="long"), "model_max_length is 'long'"),
    "tokenizer of nothing": (written("tokenizer.json", "{}"), "tokenizer"),
    "tokenizer cut": (truncated("tokenizer.json", 0.5), "tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name, folder):
    damage, expected = DAMAGE[name]
    damage(folder)
    assert expected in faults(folder)


def test_a_tokenizer_larger_than_the_embedding(folder, llama_tokenizer):
    llama_tokenizer.save_pretrained(folder)
    assert "the tokenizer has tokens up to 31999, and the embedding 400 rows" in faults(folder)


def test_experts_that_are_not_there(folder):
    config = MixtralConfig(**{name: SIZES[name] for name in SHARED_SIZES}, num_local_experts=4, num_experts_per_tok=9)
    assert "num_experts_per_tok is 9" in "".join(config_faults(config))
    assert not list(config_faults(MixtralConfig(**{name: SIZES[name] for name in SHARED_SIZES}, num_local_experts=4)))


def test_sizes_as_some_families_write_them():
    """One a layer (Gemma 3n), and a window of 0 where none is used (Qwen 2 MoE)."""
    assert not list(config_faults(Gemma3nTextConfig()))
    moe = Qwen2MoeConfig(use_sliding_window=False)
    assert moe.sliding_window == 0
    assert not list(config_faults(moe))
    assert "intermediate_size is [16, 0]" in "".join(
        config_faults(Gemma3nTextConfig(intermediate_size=[16, 0], num_hidden_layers=2))
    )
    assert "sliding_window is 0" in "".join(config_faults(MistralConfig(sliding_window=0)))


def test_a_file_is_no_folder(folder):
    (problem,) = model_folder_problems(settings_of(folder / WEIGHTS))
    assert "is a file" in problem.what


def test_loading_refuses_what_nobody_checked(folder):
    """A hub id, or a folder that changed since."""
    weights_changed(lambda weights: weights.pop("model.layers.0.mlp.up_proj.weight"))(folder)
    with pytest.raises(
        RunError, match=r"1 weight is missing and would be random, first model\.layers\.0\.mlp\.up_proj"
    ):
        load_model(str(folder), settings_of(folder), CPU)


def test_the_check_of_a_run_tells_it(folder):
    truncated(WEIGHTS, 0.5)(folder)
    _, problems, _ = check_config(compose([f"model.path={folder}"], [conf_dir()]))
    assert [problem.where for problem in problems] == ["model.path"]


SHARED_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
FAMILIES = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "olmo2": Olmo2Config,
    "qwen2": Qwen2Config,
    "gemma": GemmaConfig,
    "phi3": Phi3Config,
    "gpt_neox": GPTNeoXConfig,
    "opt": OPTConfig,
    "gpt2": GPT2Config,
}
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_of_every_family_pass(family, tied, tiny_tokenizer, tmp_path):
    """Tied weights and buffers that a family leaves out of its files are nothing that is missing."""
    config = FAMILIES[family](**SIZES, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert faults(tmp_path) == ""
    load_model(str(tmp_path), settings_of(tmp_path), CPU)


def change_weights(folder: Path, change: Callable[[str, torch.Tensor], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    for name, weight in weights.items():
        change(name, weight)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(value, large, folder, monkeypatch):
    name = max(load_file(folder / WEIGHTS))
    change_weights(folder, lambda at, weight: at == name and weight.view(-1)[3].fill_(value))
    monkeypatch.setattr(values, "READ_BYTES", 0 if large else 2**30)
    fault = f"{name} holds values that are no finite numbers"
    assert (fault in faults(folder)) is not large
    with pytest.raises(InputError, match=fault) as caught:  # which ends with 2, as the check does
        load_model(str(folder), settings_of(folder), CPU)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("embed_tokens", "model.embed_tokens.weight holds only zeros"),
        ("layers", "matrices hold only zeros, first model.layers.0"),
        ("layers.0.mlp.down_proj", ""),  # as in layers that begin as nothing, or are pruned
    ],
)
def test_weights_of_zeros(part, fault, folder):
    change_weights(folder, lambda name, weight: part in name and weight.zero_())
    said = faults(folder)
    assert fault in said and bool(said) is bool(fault)


def test_an_adapter_with_values_that_are_no_numbers(folder, tmp_path):
    model = with_adapters(load_model(str(folder), settings_of(folder), CPU), LoraSettings(enabled=True), seed=0)
    model.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "adapter")
    assert faults(tmp_path / "adapter") == ""  # whose B is zero at first
    broken = Path(shutil.copytree(tmp_path / "adapter", tmp_path / "broken"))  # a folder is looked at once a process
    file = broken / "adapter_model.safetensors"
    weights = load_file(file)
    weights[min(weights)][0, 0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    assert "no finite numbers" in faults(broken)


def test_settings_beyond_the_model(folder):
    settings = ModelSettings(name="m", path=str(folder), max_length=10**6, lora=LoraSettings(enabled=True, rank=10**5))
    assert [problem.where for problem in model_folder_problems(settings)] == ["model.max_length", "model.lora.rank"]


def test_a_rank_above_the_width_of_the_model_that_is_built_here():
    cfg = compose(["model.lora.enabled=true", "model.lora.rank=100000"], [conf_dir()])
    assert [problem.where for problem in check_config(cfg).problems] == ["model.lora.rank"]


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "m").symlink_to(tmp_path / "m")
    problems = model_folder_problems(ModelSettings(name="m", path=str(tmp_path / "m")))
    assert [problem.where for problem in problems] == ["model.path"]


def test_layers_that_cannot_be_computed_anew_are_refused_before_anything_loads(tiny, tmp_path):
    """CTRL is such a family; `auto` leaves its layers as they are."""
    config = CTRLConfig(vocab_size=len(AutoTokenizer.from_pretrained(tiny)), n_embd=32, dff=64, n_layer=2, n_head=4)
    CTRLLMHeadModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    settings = settings_of(tmp_path)
    assert not list(model_folder_problems(settings))
    (problem,) = model_folder_problems(replace(settings, gradient_checkpointing=True))
    assert problem.where == "model.gradient_checkpointing"
    assert problem.what == "layers of models of type ctrl cannot be computed anew in the backward pass"


BESIDE_A_MISTAKE = """
import sys
from lume_run.config.overrides import compose, conf_dir
from lume_run.pipeline.checks.config import check_config
settings = ["task=rwku", f"task.data_dir={sys.argv[1]}", f"model.path={sys.argv[2]}", "method=npo"]
print(sorted(problem.where for problem in check_config(compose(settings, [conf_dir()])).problems))
print("transformers" in sys.modules)
"""


def beside_a_mistake(model: Path, rows: Path) -> list[str]:
    """Where the problems of a plan are, and whether the library of models was imported."""
    (rows / "intro.json").write_text("[3]", encoding="utf-8")
    command = [sys.executable, "-c", BESIDE_A_MISTAKE, str(rows), str(model)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_mistake_beside_a_sound_folder_is_told_without_the_library_of_models(folder, tmp_path):
    where, imported = beside_a_mistake(folder, tmp_path)
    assert "task.data_dir" in where and "model.path" not in where and imported == "False"


def test_a_mistake_and_a_folder_that_holds_no_model_are_told_together(folder, tmp_path):
    (folder / "config.json").unlink()
    where, imported = beside_a_mistake(folder, tmp_path)
    assert "task.data_dir" in where and "model.path" in where and imported == "False"
