"""Folders that are given as models, adapters and judges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .case import MARK, Case, Prepare
from .files import both, changed, copied, directory, fifo, link, removed, truncated, written

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"
HEADER_OF_TERABYTES = (2**40).to_bytes(8, "little") + b"{}"
EVIL_CODE = f"import pathlib\npathlib.Path({MARK!r}).touch()\n"

DAMAGES: dict[str, Prepare] = {
    "no config": removed(CONFIG),
    "config cut": truncated(CONFIG, 0.5),
    "config of nothing": written(CONFIG, "{}"),
    "config a number": written(CONFIG, "3"),
    "config deep": written(CONFIG, "[" * 5000 + "]" * 5000),
    "config with NaN": changed(CONFIG, rms_norm_eps=float("nan"), hidden_size=float("nan")),
    "no layers": changed(CONFIG, num_hidden_layers=0),
    "layers below none": changed(CONFIG, num_hidden_layers=-2),
    "a layer more": changed(CONFIG, num_hidden_layers=3),
    "a billion layers": changed(CONFIG, num_hidden_layers=10**9),
    "half a layer": changed(CONFIG, num_hidden_layers=1.5),
    "no positions": changed(CONFIG, max_position_embeddings=0),
    "positions in words": changed(CONFIG, max_position_embeddings="many"),
    "heads that do not divide": changed(CONFIG, num_attention_heads=3),
    "no heads": changed(CONFIG, num_attention_heads=0),
    "another width": changed(CONFIG, hidden_size=64),
    "a huge width": changed(CONFIG, hidden_size=2**40),
    "a vocabulary of one": changed(CONFIG, vocab_size=1),
    "an unknown activation": changed(CONFIG, hidden_act="sqwish"),
    "an unknown dtype": changed(CONFIG, dtype="float7", torch_dtype="float7"),
    "an unknown type": changed(CONFIG, model_type="nothing"),
    "no type": changed(CONFIG, model_type=...),
    "a type of numbers": changed(CONFIG, model_type=7),
    "an encoder": changed(CONFIG, model_type="bert", architectures=["BertModel"]),
    "a sequence to sequence": changed(CONFIG, model_type="t5", architectures=["T5ForConditionalGeneration"]),
    "a vision model": changed(CONFIG, model_type="vit", architectures=["ViTModel"]),
    "quantised by nobody": changed(CONFIG, quantization_config={"quant_method": "nobody"}),
    "quantised by who is absent": changed(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}),
    "quantised in words": changed(CONFIG, quantization_config="4bit"),
    "code of its own": both(
        changed(CONFIG, model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}),
        written("mine.py", EVIL_CODE),
    ),
    "an EOS beyond the vocabulary": changed(CONFIG, eos_token_id=10**6),
    "rope of nothing": changed(
        CONFIG, rope_scaling={"rope_type": "nothing", "factor": 2}, rope_parameters={"rope_type": "nothing"}
    ),
    "no weights": removed(WEIGHTS),
    "weights cut": truncated(WEIGHTS, 0.6),
    "weights empty": written(WEIGHTS, b""),
    "weights a pointer": written(WEIGHTS, POINTER),
    "weights of terabytes": written(WEIGHTS, HEADER_OF_TERABYTES),
    "weights of text": written(WEIGHTS, "hello " * 100),
    "weights a folder": both(removed(WEIGHTS), directory(WEIGHTS)),
    "weights a pipe": both(removed(WEIGHTS), fifo(WEIGHTS)),
    "weights a device": both(removed(WEIGHTS), link(WEIGHTS, "/dev/zero")),
    "weights a loop": both(removed(WEIGHTS), link(WEIGHTS, WEIGHTS)),
    "a pickle": both(removed(WEIGHTS), written("pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'touch CODE_RAN'\ntR.")),
    "an index of lost files": both(
        removed(WEIGHTS),
        written(WEIGHTS + ".index.json", '{"weight_map": {"model.embed_tokens.weight": "gone.safetensors"}}'),
    ),
    "an index that leaves the folder": both(
        removed(WEIGHTS), written(WEIGHTS + ".index.json", '{"weight_map": {"a": "../../etc/passwd"}}')
    ),
    "an index of lists": both(removed(WEIGHTS), written(WEIGHTS + ".index.json", '{"weight_map": []}')),
    "no tokenizer": both(removed(TOKENIZER), removed("tokenizer_config.json")),
    "tokenizer of nothing": written(TOKENIZER, "{}"),
    "tokenizer cut": truncated(TOKENIZER, 0.5),
    "tokenizer config cut": written("tokenizer_config.json", '{"a'),
    "tokenizer config a list": written("tokenizer_config.json", "[]"),
    "tokenizer of nobody": written("tokenizer_config.json", '{"tokenizer_class": "NobodysTokenizer"}'),
    "generation config cut": written("generation_config.json", "{"),
    "generation config a list": written("generation_config.json", "[1]"),
    "generation config of words": written("generation_config.json", '{"temperature": "warm", "eos_token_id": "end"}'),
    "config a pipe": both(removed(CONFIG), fifo(CONFIG)),
    "config a device": both(removed(CONFIG), link(CONFIG, "/dev/zero")),
    "config a folder": both(removed(CONFIG), directory(CONFIG)),
    "tokenizer a pipe": both(removed(TOKENIZER), fifo(TOKENIZER)),
}
ADAPTERS: dict[str, tuple[Prepare, str]] = {
    "of nothing": (written("m/adapter_config.json", "{}"), "model.path"),
    "cut": (written("m/adapter_config.json", '{"peft_type": "LO'), "model.path"),
    "without base": (written("m/adapter_config.json", '{"peft_type": "LORA", "r": 8}'), "model.path"),
    "of nobody": (
        written("m/adapter_config.json", '{"peft_type": "NOBODY", "base_model_name_or_path": "x"}'),
        "model.path",
    ),
    "without weights": (
        written("m/adapter_config.json", '{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "nowhere"}'),
        "model.path",
    ),
}
TINY_RUN = ["stages=[evaluate]", "debug=default", "logger=none"]


def cases(model: Path) -> Iterator[Case]:
    """Each folder as a plan, some as a run, some in the place of a judge or a tokenizer."""
    for name, damage in DAMAGES.items():
        prepare = copied(lambda: model, "m", damage)
        yield Case(
            name=f"model: {name}",
            arguments=["model.path=m", "--dry-run", *TINY_RUN[:1]],
            names=["model.path"],
            prepare=prepare,
            needs_model=True,
        )
    for name in ("a layer more", "weights cut", "tokenizer of nothing", "a pickle", "code of its own", "config a pipe"):
        yield Case(
            name=f"model: {name}, not as a plan",
            arguments=["model.path=m", *TINY_RUN],
            names=["model.path"],
            prepare=copied(lambda: model, "m", DAMAGES[name]),
            needs_model=True,
        )
    for name, (prepare, culprit) in ADAPTERS.items():
        yield Case(
            name=f"adapter: {name}",
            arguments=["model.path=m", "--dry-run", *TINY_RUN[:1]],
            names=[culprit],
            prepare=prepare,
            needs_model=True,
        )
    others: dict[str, tuple[list[str], Prepare | None, str]] = {
        "an empty folder": (["model.path=m"], directory("m"), "model.path"),
        "a tokenizer elsewhere that is none": (
            ["model.path={model}", "model.tokenizer=t"],
            directory("t"),
            "model.tokenizer",
        ),
        "a base that is none": (["model.path={model}", "model.base=t", "method=retrain"], directory("t"), "model.base"),
        "an embedder that is none": (
            ["evaluator=closer_look", "evaluator.suites.closer_look.embedder=./t"],
            directory("t"),
            "embedder",
        ),
        "a causal LM as an embedder": (
            ["evaluator=closer_look", "evaluator.suites.closer_look.entailment={model}"],
            None,
            "entailment",
        ),
        "a hub id that is none": (["model.path=no/such/model/anywhere"], None, "model.path"),
        "a hub id with spaces": (["'model.path=\"my model\"'".strip("'")], None, "model.path"),
        "a file": (["model.path={model}/config.json"], None, "model.path"),
        "a URL": (["model.path=https://example.com/model"], None, "model.path"),
    }
    for name, (arguments, prepare_, culprit) in others.items():
        yield Case(
            name=f"model: {name}",
            arguments=[*arguments, "--dry-run"],
            names=[culprit],
            prepare=prepare_,
            needs_model=True,
        )
