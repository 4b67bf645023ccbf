"""The files of a judge: what they say before any weights are read, and the network they hold.

A judge is a folder or hub id of a sentence embedder or of a classifier, of entailment or of gibberish. `Unsuitable`
says why one is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lume_run.common.records import Ask
from lume_run.common.text_files import file_fault
from lume_run.evaluation.metrics.closer_look import ENTAILMENT_LABEL
from lume_run.models.files.faults import weight_fault
from lume_run.models.files.values import stored_weights, table_names, value_fault
from lume_run.models.hub import only_local

CLEAN_LABEL = "clean"  # of a classifier of gibberish
NEEDED_LABELS = {Ask.ENTAILMENT: ENTAILMENT_LABEL, Ask.FLUENCY: CLEAN_LABEL}

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
POOLING = {"cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens"}
NO_POOLING = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken")


class Unsuitable(Exception):
    """A model that is there and is no judge; the message completes "The model ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFiles:
    """What the small files of a judge say, before any weights are read.

    `labels` of a classifier in lower case. Of an embedder: how to pool, the folder of the transformer within it, the
    longest text [tokens] where it says so, and whether texts are put in lower case.
    """

    config: Any
    tokenizer: Any
    labels: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()
    subfolder: str = ""
    longest: int | None = None
    lower: bool = False


def read_judge_files(ask: Ask, model: str) -> JudgeFiles:
    """The config and tokenizer of a judge; raises Unsuitable, or whatever the loaders raise."""
    from transformers import AutoConfig, AutoTokenizer

    for file in sorted(Path(model).rglob("*")) if Path(model).is_dir() else ():
        if not file.is_dir() and (fault := file_fault(file)):  # to read a pipe would wait for ever
            raise Unsuitable(f"holds {file.name}, which {fault}")
    modules = _modules(model) if ask is Ask.COSINE else []
    subfolder = modules[0]["path"] if modules else ""
    options = {"local_files_only": only_local(model), "trust_remote_code": False, "subfolder": subfolder}
    config = AutoConfig.from_pretrained(model, **options)
    labels = tuple(str(config.id2label[number]).lower() for number in sorted(config.id2label))
    if (needed := NEEDED_LABELS.get(ask)) and needed not in labels:
        raise Unsuitable(f"does not label {needed}: its labels are {', '.join(labels)}")
    if ask is Ask.COSINE and config.is_encoder_decoder:
        raise Unsuitable("is an encoder-decoder, which is not supported")
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="right", **options)
    if tokenizer.pad_token_id is None:
        raise Unsuitable("has a tokenizer without a pad token")
    if ask is not Ask.COSINE:
        return JudgeFiles(config=config, tokenizer=tokenizer, labels=labels)
    embedder = _read_json(model, f"{subfolder}/sentence_bert_config.json") or {}
    longest = embedder.get("max_seq_length")
    if not (longest is None or (isinstance(longest, int) and longest > 0)):
        raise Unsuitable(f"reads texts of {longest!r} tokens (max_seq_length of sentence_bert_config.json)")
    return JudgeFiles(
        config=config,
        tokenizer=tokenizer,
        pooling=_pooling_modes(_read_json(model, f"{modules[1]['path']}/config.json") or {}),
        subfolder=subfolder,
        longest=longest,
        lower=bool(embedder.get("do_lower_case")),
    )


def _modules(model: str) -> list[dict[str, str]]:
    """The parts of a sentence embedder: a transformer and pooling, of which scaling to length 1 changes no cosine."""
    listed = _read_json(model, "modules.json")
    if listed is None and only_local(model) and not Path(model).exists():
        raise FileNotFoundError("modules.json")
    if listed is None:
        raise Unsuitable("is no sentence embedder: it has no modules.json")
    modules: list[dict[str, str]] = sorted(listed, key=lambda module: module["idx"])
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise Unsuitable(f"is made of {', '.join(kinds)}; Transformer, Pooling and Normalize are supported")
    general = _read_json(model, "config_sentence_transformers.json") or {}
    if (general.get("prompts") or {}).get(general.get("default_prompt_name")):
        raise Unsuitable("puts a prompt before every text, which is not supported")
    return modules


def _pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    """The ways of pooling whose vectors stand one behind the other, in old or new spelling; mean where none is said."""
    given = config.get("pooling_mode")
    if given is None:
        legacy = {**POOLING, **{name: name for name in NO_POOLING}}
        given = [mode for mode, name in legacy.items() if config.get(name)] or "mean"
    modes = ((given,) if isinstance(given, str) else tuple(given)) or ("nothing",)
    if other := set(modes) - POOLING.keys():
        raise Unsuitable(f"pools by {', '.join(sorted(other))}; {', '.join(POOLING)} are supported")
    return modes


def _read_json(model: str, name: str) -> Any:
    """A small file of a folder or hub id; None where it is not there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    name = name.lstrip("/")
    try:
        folder = Path(model)
        path = folder / name if folder.is_dir() else hf_hub_download(model, name, local_files_only=only_local(model))
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, EntryNotFoundError, HFValidationError):  # the last: an absent folder is no id either
        return None


def has_weights(model: str, subfolder: str) -> bool:
    """Whether the weights are here, or can be fetched."""
    names = [str(Path(subfolder) / name) for name in WEIGHTS]
    if Path(model).is_dir():
        return any((Path(model) / name).is_file() for name in names)
    from huggingface_hub import try_to_load_from_cache

    return not only_local(model) or any(isinstance(try_to_load_from_cache(model, name), str) for name in names)


def load_network(ask: Ask, model: str, files: JudgeFiles, device: torch.device) -> nn.Module:
    """The network in float32, for inference; Unsuitable where its weights are not those of its config.

    An embedder may come without a pooler, which is not read, and with the head of what it was trained for. On the meta
    device only names and shapes are read.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    auto = AutoModel if ask is Ask.COSINE else AutoModelForSequenceClassification
    network, report = auto.from_pretrained(
        model,
        subfolder=files.subfolder,
        dtype=torch.float32,
        local_files_only=only_local(model),
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `weight_fault` names them
        device_map={"": device},
    )
    if ask is Ask.COSINE:
        parts = {name for name, _ in network.named_children()} | {network.base_model_prefix}
        report["missing_keys"] = {name for name in report["missing_keys"] if "pooler" not in name}
        report["unexpected_keys"] = {name for name in report["unexpected_keys"] if name.partition(".")[0] in parts}
    folder = Path(model, files.subfolder.lstrip("/"))
    weights = stored_weights(folder) if device.type == "meta" else network.named_parameters()
    if fault := weight_fault(report) or value_fault(weights, table_names(network)):
        raise Unsuitable(f"is not whole: {fault}")
    ready: nn.Module = network.eval()
    return ready


def max_text_tokens(files: JudgeFiles, network: nn.Module) -> int:
    """The longest text [tokens]: what the files say, within the table of positions."""
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in network.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    positions = getattr(files.config, "max_position_embeddings", None)
    limits = [files.longest] if files.longest else [files.tokenizer.model_max_length, positions]
    return min([*tables, *(limit for limit in limits if limit and limit > 0)])
