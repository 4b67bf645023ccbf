"""Tiny random models of the families that the field uses, and what of the pipeline works with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.inference import collect_responses
from helpers.shared import tokenizer_at
from helpers.training import CPU, compose_method, example, phase, rows_for, set_up
from lume_run.common.records import Ask, Question, Split
from lume_run.config.model_settings import LoraSettings, ModelSettings
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.models.load import load_model, save_model
from lume_run.models.tokenizer import load_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (model_type, what differs from SIZES)
    "GPT-2": ("gpt2", GPT2_SIZES),
    "GPT-Neo": ("gpt_neo", {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}),
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-J": ("gptj", {**GPT2_SIZES, "rotary_dim": 4}),
    "BLOOM": ("bloom", {"n_layer": 2, "n_head": 4}),
    "OPT": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "Falcon": ("falcon", {}),
    "Llama, untied": ("llama", {"tie_word_embeddings": False}),
    "Llama, tied": ("llama", {"tie_word_embeddings": True}),
    "Mistral, sliding window": ("mistral", {"sliding_window": 8}),
    "Mixtral": ("mixtral", EXPERTS),
    "OLMo": ("olmo", {}),
    "OLMo 2": ("olmo2", {}),
    "OLMoE": ("olmoe", EXPERTS),
    "Phi": ("phi", {}),
    "Phi-3": ("phi3", {}),
    "Qwen2": ("qwen2", {}),
    "Qwen3": ("qwen3", {"head_dim": 8}),
    "Qwen3-MoE": ("qwen3_moe", {**EXPERTS, "head_dim": 8}),
    "Gemma": ("gemma", {"head_dim": 8}),
    "Gemma 2": ("gemma2", {"head_dim": 8, "sliding_window": 8}),
    "Gemma 3, text": ("gemma3_text", {"head_dim": 8, "sliding_window": 8}),
    "Gemma 3, multimodal": ("gemma3", {}),
    "Granite": ("granite", {}),
    "StableLM": ("stablelm", {}),
    "SmolLM3": ("smollm3", {}),
    "Jamba": ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 8}),
    "Bamba": ("bamba", {"attn_layer_indices": [1], **MAMBA2}),
    "Falcon-H1": ("falcon_h1", {"mamba_d_ssm": 64, **MAMBA2}),
}
KEEP_STATES = {"Jamba", "Bamba", "Falcon-H1"}  # besides keys and values
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def build_family(name: str, tiny: Path, folder: Path) -> Path:
    """Write an untrained model of a family with the tokenizer of `tiny`."""
    tokenizer = tokenizer_at(tiny)
    kind, changed = FAMILIES[name]
    ids = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    if kind == "gemma3":
        text = {**SIZES, "head_dim": 8, "sliding_window": 8, **ids}
        vision = {**VISION, "image_size": 16, "patch_size": 8}
        config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    else:
        config = AutoConfig.for_model(kind, **{**SIZES, **changed, **ids})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PARTS = {  # column of docs/models.md -> (method, adapters, gradient checkpointing)
    "NPO + GD, all weights": ("npo_gd", None, False),
    "NPO + KL, LoRA": ("npo_kl", LoraSettings(enabled=True, rank=4), False),
    "RMU, checkpointing": ("rmu", None, True),
}
EVALUATION = "evaluation"
SAVED = 1e-5  # logits of the saved model are those of the trained one, to this


def trained_and_saved(path: Path, folder: Path, part: tuple[str, LoraSettings | None, bool]) -> str:
    """ "yes" where a method trains the model and plain transformers loads what was trained; else what went wrong."""
    name, lora, checkpointing = part
    method = compose_method(name)
    rows = rows_for(method, path, forget=4, retain=4)
    settings = phase(learning_rate=0.01)
    options = {"lora": lora, "remember": False, "gradient_checkpointing": checkpointing}
    setup = set_up(path, rows, folder / "training", method, settings, **options)
    setup.trainer.train()
    trained = setup.trainer.model.eval()
    ids = torch.tensor([list(rows[0].ids)])
    before, after = logits_of(AutoModelForCausalLM.from_pretrained(path), ids), logits_of(trained, ids)
    save_model(trained, tokenizer_at(path), folder / "saved")
    saved = logits_of(AutoModelForCausalLM.from_pretrained(folder / "saved"), ids)
    if float((after - before).abs().max()) < 10 * SAVED:
        return "not trained"
    return "yes" if float((saved - after).abs().max()) < SAVED else "saved is not trained"


@torch.no_grad()
def logits_of(model: Any, ids: Tensor) -> Tensor:
    return model.eval()(input_ids=ids).logits


def evaluated(path: Path, folder: Path) -> str:
    """ "yes" where rows get the same numbers and texts in a batch as alone."""
    settings = ModelSettings(name="test", path=str(path))
    loaded = LoadedModel(
        model=load_model(str(path), settings, CPU).eval(),
        tokenizer=load_tokenizer(str(path), settings),
        max_new_tokens=8,
        max_length=64,
        batch_tokens=512,
    )
    asked = [
        Question(example=example(number, Split.FORGET), ask=ask)
        for number in range(6)
        for ask in (Ask.GENERATE, Ask.LOGPROB, Ask.GRADIENT)
    ]
    answers = []
    for tokens in (512, 8):  # in one batch, and alone
        (folder / str(tokens)).mkdir(parents=True)
        answers.append(collect_responses(replace(loaded, batch_tokens=tokens), asked, folder / str(tokens), "family"))
    for batched, single in zip(*answers, strict=True):
        if batched.output != single.output or abs((batched.logp_sum or 0) - (single.logp_sum or 0)) > SAVED:
            return "a batch changes it"
    return "yes"


def table_row(name: str, tiny: Path, folder: Path) -> str:
    """A family's line of docs/models.md, as measured."""
    path = build_family(name, tiny, folder / "model")
    cells = [trained_and_saved(path, folder / part[0], part) for part in PARTS.values()]
    return f"| {' | '.join([name, *cells, evaluated(path, folder / EVALUATION)])} |"


def table(tiny: Path, folder: Path) -> str:
    """The table of docs/models.md, as measured."""
    head = ["family", *PARTS, EVALUATION]
    rows = [table_row(name, tiny, folder / str(number)) for number, name in enumerate(FAMILIES)]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows])
