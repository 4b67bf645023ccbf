"""The small files of a model folder with other values: config, tokenizer, generation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .case import Prepare
from .files import both, changed, directory, fifo, removed, written
from .models import CONFIG, TOKENIZER

GENERATION = "generation_config.json"


def tokenizer_changed(change: Callable[[dict[str, Any]], Any]) -> Prepare:
    """Another tokenizer.json."""

    def prepare(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        change(content)
        (folder / TOKENIZER).write_text(json.dumps(content), encoding="utf-8")

    return prepare


def token(number: int, content: str, **more: Any) -> dict[str, Any]:
    """An added token."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags, **more}


def config(**changes: Any) -> Prepare:
    """Another config.json."""
    return changed(CONFIG, **changes)


def generation(**changes: Any) -> Prepare:
    """Another generation_config.json."""
    return both(written(GENERATION, "{}"), changed(GENERATION, **changes))


CONFIGS: dict[str, Prepare] = {
    "of another family": config(model_type="gpt2", architectures=["GPT2LMHeadModel"], n_embd=32, n_layer=2, n_head=2),
    "of a cousin": config(model_type="llama", architectures=["LlamaForCausalLM"]),
    "a bias that is not there": config(attention_bias=True),
    "tied in words": config(tie_word_embeddings="maybe"),
    "a theta of words": config(rope_theta="big", rope_parameters={"rope_type": "default", "rope_theta": "big"}),
    "a theta of nothing": config(rope_theta=0, rope_parameters={"rope_type": "default", "rope_theta": 0}),
    "rope parameters of a list": config(rope_parameters=[1]),
    "angles stretched by nothing": config(rope_parameters={"rope_type": "linear", "factor": 0, "rope_theta": 10000.0}),
    "results without names": config(return_dict=False),
    "one position": config(max_position_embeddings=1),
    "dropout of seven": config(attention_dropout=7),
    "dropout of words": config(attention_dropout="some"),
    "a dtype that is a number": config(dtype=5, torch_dtype=5),
    "a dtype of integers": config(dtype="int8", torch_dtype="int8"),
    "a dtype that is no type": config(dtype="nn", torch_dtype="nn"),
    "BOS in words": config(bos_token_id="first"),
    "a pad beyond": config(pad_token_id=10**6),
    "a pad below nothing": config(pad_token_id=-5),
    "a vocabulary in words": config(vocab_size="400"),
    "no activation": config(hidden_act=None),
    "an activation that is a list": config(hidden_act=["silu"]),
    "architectures in words": config(architectures="OlmoForCausalLM"),
    "architectures of numbers": config(architectures=[5]),
    "no key heads": config(num_key_value_heads=0),
    "key heads that do not divide": config(num_key_value_heads=3, num_attention_heads=2),
    "a width in words": config(hidden_size="32"),
    "clipping in words": config(clip_qkv="much"),
    "kinds of layers in words": config(layer_types=["nothing", "nothing"]),
    "an initialisation in words": config(initializer_range="small"),
    "a cache in words": config(use_cache="maybe"),
    "names of classes in a list": config(id2label=[1, 2]),
    "attention of nobody": config(_attn_implementation="nobody", attn_implementation="nobody"),
    "quantised by nothing": config(quantization_config={}),
    "quantised by a list": config(quantization_config=[4]),
    "a type that is a list": config(model_type=["olmo"]),
    "a type that leaves the folder": config(model_type="../../x"),
    "an encoder with a decoder": config(is_encoder_decoder=True),
    "ends in a dictionary": config(eos_token_id={"a": 1}),
    "ends in lists": config(eos_token_id=[[0]]),
    "an end below nothing": config(eos_token_id=-1),
    "text within text": config(text_config={"model_type": "nothing"}),
    "in UTF-16": written(CONFIG, "{}".encode("utf-16")),
    "in Latin-1": written(CONFIG, b'{"model_type": "\xe9"}'),
    "with a trailing comma": written(CONFIG, '{"model_type": "olmo",}'),
    "of null": written(CONFIG, "null"),
    "of a text": written(CONFIG, '"olmo"'),
    "of 400 digits": config(hidden_size=10**400),
}
TOKENIZERS: dict[str, Prepare] = {
    "of another type": tokenizer_changed(lambda content: content["model"].update(type="WordPiece")),
    "of an unknown type": tokenizer_changed(lambda content: content["model"].update(type="Nobody")),
    "of no words": tokenizer_changed(lambda content: content["model"].update(vocab={}, merges=[])),
    "of merges that are not words": tokenizer_changed(lambda content: content["model"].update(merges=[["zz", "qq"]])),
    "of ids beyond": tokenizer_changed(lambda content: content["model"]["vocab"].update({"zebra": 10**6})),
    "of ids below nothing": tokenizer_changed(lambda content: content["model"]["vocab"].update({"zebra": -1})),
    "with a token beyond": tokenizer_changed(lambda content: content["added_tokens"].append(token(9000, "<far>"))),
    "with tokens of numbers": tokenizer_changed(lambda content: content.update(added_tokens=[1])),
    "a list": written(TOKENIZER, "[]"),
    "null": written(TOKENIZER, "null"),
    "in UTF-16": written(TOKENIZER, "{}".encode("utf-16")),
    "config with a template that is a number": changed("tokenizer_config.json", chat_template=3),
    "config with templates of numbers": changed("tokenizer_config.json", chat_template=[1, 2]),
    "config with templates without names": changed("tokenizer_config.json", chat_template=[{"a": "b"}]),
    "config with a token that is a number": changed("tokenizer_config.json", eos_token=3, pad_token=4),
    "config with a token that is a list": changed("tokenizer_config.json", eos_token=["a"]),
    "config of a class that is a number": changed("tokenizer_config.json", tokenizer_class=3),
    "config with a length in words": changed("tokenizer_config.json", model_max_length="long"),
    "config with added tokens in words": changed("tokenizer_config.json", added_tokens_decoder={"a": "b"}),
    "config a pipe": both(removed("tokenizer_config.json"), fifo("tokenizer_config.json")),
    "template a pipe": fifo("chat_template.jinja"),
    "template a folder": directory("chat_template.jinja"),
    "template in Latin-1": written("chat_template.jinja", b"\xe9"),
    "words of special tokens cut": written("special_tokens_map.json", '{"a'),
    "words of special tokens a list": written("special_tokens_map.json", "[]"),
    "added tokens a list": written("added_tokens.json", "[1]"),
}
GENERATIONS: dict[str, Prepare] = {
    "ends of nothing": generation(eos_token_id=[None]),
    "ends in lists": generation(eos_token_id=[[0]]),
    "sampling in words": generation(do_sample="maybe"),
    "a length below nothing": generation(max_length=-3, max_new_tokens=-3),
    "a temperature below nothing": generation(temperature=-1.0, do_sample=True),
    "a share of three": generation(top_p=3.0, do_sample=True),
    "no beams": generation(num_beams=0),
    "beams in words": generation(num_beams="two"),
    "NaN": generation(temperature=float("nan"), do_sample=True),
    "a pipe": both(removed(GENERATION), fifo(GENERATION)),
    "UTF-16": written(GENERATION, "{}".encode("utf-16")),
    "null": written(GENERATION, "null"),
}
KINDS: Mapping[str, Mapping[str, Prepare]] = {"config": CONFIGS, "tokenizer": TOKENIZERS, "generation": GENERATIONS}
