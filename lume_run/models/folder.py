"""What is wrong with the folder of a causal LM, told from its small files before any weights are read.

What a checkpoint must hold is the library's to know: it is asked to load the model on the meta device, which reads
names and shapes alone, and reports what is missing, unexpected or of another shape. It takes seconds to import, so
what must be mended anyway (`briefly`) is told from the files alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lume_run.common.errors import Problem, RunError
from lume_run.config.model_settings import ModelSettings
from lume_run.models.adapters import adapter_folder_fault
from lume_run.models.files.faults import (
    config_faults,
    counts_padding,
    explain_loading,
    generation_faults,
    quantisation_fault,
    weight_fault,
    weights_are,
)
from lume_run.models.files.plain import COPY_AGAIN, plain_faults
from lume_run.models.files.values import integer_fault, stored_names, stored_weights, table_names, value_fault
from lume_run.models.hub import adapter_base
from lume_run.models.load import config_of, generation_config_of, limit_problems
from lume_run.models.precision import checkpointing_problem, supports_attention, supports_checkpointing
from lume_run.models.tokenizer import load_tokenizer, tokens_beyond
from lume_run.models.weights import meta_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def model_folder_problems(
    settings: ModelSettings, retrained: str | None = None, *, briefly: bool = False
) -> Iterator[Problem]:
    """What is wrong with the folders that the settings name; hub ids are seen when they load.

    `briefly`: only what needs no library of models.
    """
    named = {"model.path": settings.path, "model.base": settings.base, "evaluator.retrained_model": retrained}
    for setting, path in named.items():
        if path is None or not os.path.lexists(path):
            continue
        if not Path(path).exists():
            yield Problem(where=setting, what=f"{path} is a link that leads nowhere", remedy="the folder of a model")
            continue
        if not Path(path).is_dir():
            yield Problem(where=setting, what=f"{path} is a file", remedy="the folder of a model, or a hub id")
        else:
            faults = tuple(plain_faults(Path(path)))
            if not faults and not briefly:
                faults = _folder_faults(path, settings.tokenizer, settings.trust_remote_code)
            for what, remedy in faults:
                yield Problem(where=setting, what=what, remedy=remedy)
            if not faults and not briefly:
                yield from family_faults(path, settings)
                yield from limit_problems(config_of(path, settings), settings)
    if settings.revision is not None and (settings.path is None or Path(settings.path).exists()):
        what = f"a revision is one of a hub id, and model.path is {'null' if settings.path is None else 'a folder'}"
        yield Problem(where="model.revision", what=what, remedy="model.revision=null")
    if settings.tokenizer is not None and Path(settings.tokenizer).exists() and not briefly:
        for what, remedy in _tokenizer_faults(settings.tokenizer, settings.trust_remote_code):
            yield Problem(where="model.tokenizer", what=what, remedy=remedy)


def family_faults(path: str, settings: ModelSettings) -> Iterator[Problem]:
    """An attention implementation that the model's family has not, and layers that it cannot compute anew."""
    config = config_of(path, settings)
    if settings.gradient_checkpointing is True and not supports_checkpointing(config):
        yield checkpointing_problem(f"models of type {config.model_type}")
    if not supports_attention(config, settings.attention):
        what = f"models of type {config.model_type} have no {settings.attention} attention"
        yield Problem(where="model.attention", what=what, remedy="model.attention=auto, or eager")


@cache
def _tokenizer_faults(path: str, trust_remote_code: bool) -> tuple[tuple[str, str], ...]:
    """(what is wrong, what to do) of a tokenizer's folder."""
    try:
        load_tokenizer(path, ModelSettings(name="", trust_remote_code=trust_remote_code))
    except RunError as error:
        return (_split(error),)
    return ()


def _split(error: RunError) -> tuple[str, str]:
    """What is wrong, and what to do."""
    what, _, remedy = str(error).partition("\n")
    return what, remedy.strip(" -")


@cache
def _folder_faults(path: str, tokenizer: str | None, trust_remote_code: bool) -> tuple[tuple[str, str], ...]:
    """(what is wrong, what to do) of a folder; looked at once a process."""
    settings = ModelSettings(name="", path=path, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
    try:
        for faults in (_adapter_faults,) if adapter_base(path) else (_config_faults, _weight_faults):
            if seen := tuple(faults(Path(path), settings)):
                return seen
    except RunError as error:
        return (_split(error),)
    return ()


def _adapter_faults(folder: Path, settings: ModelSettings) -> Iterator[tuple[str, str]]:
    """What is wrong with the model below an adapter, or with the adapter on it."""
    base = str(adapter_base(str(folder)))
    if Path(base).exists():
        if faults := tuple(plain_faults(Path(base))):
            yield from faults
            return
        yield from _folder_faults(base, settings.tokenizer, settings.trust_remote_code)
    elif base.startswith(("/", ".")):
        yield f"{folder}: the model below the adapter, {base}, does not exist", "its base_model_name_or_path is another"
        return
    model = meta_model(config_of(str(folder), settings))
    rows = model.get_input_embeddings().weight.shape[0]
    if fault := adapter_folder_fault(folder, model):
        yield f"{folder}: {fault}", "the adapter that belongs to that model"
    elif what := tokens_beyond(load_tokenizer(str(folder), settings), int(rows)):
        yield f"{folder}: {what}", "the tokenizer of the model below: model.tokenizer=FOLDER_OR_ID"


def _config_faults(folder: Path, settings: ModelSettings) -> Iterator[tuple[str, str]]:
    """A config that describes no causal LM, and one of generation that cannot be read."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    config = config_of(str(folder), settings)
    file = folder / "config.json"
    text = config.get_text_config()
    if isinstance(text, dict):
        yield f"{file}: its part for text is of no type that is known ({text.get('model_type')!r})", COPY_AGAIN
        return
    kind, known = type(config), type(config).__module__.startswith("transformers.")
    if known and (kind not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder):
        what = f"{file}: a model of type {config.model_type} is no causal language model"
        yield what, "a decoder such as OLMo, Llama or GPT"
    elif known and getattr(text, "num_attention_heads", None) is None:
        what = f"{file}: a model of type {config.model_type} has no attention heads; padded batches would change it"
        yield what, "a transformer such as OLMo, Llama or GPT"
    elif known and counts_padding(config):
        what = (
            f"{file}: a model of type {config.model_type} counts positions of padding; padded batches would change it"
        )
        yield what, "a decoder such as OLMo, Llama or GPT"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        what = f"{file}: this {config.model_type} is an encoder (is_decoder is false), which predicts no next token"
        yield what, "a decoder such as OLMo, Llama or GPT"
    faults = [(file, fault) for fault in config_faults(text)]
    generation = generation_config_of(str(folder), settings)
    faults += [(folder / "generation_config.json", fault) for fault in generation_faults(generation, text.vocab_size)]
    yield from ((f"{file}: {fault}", COPY_AGAIN) for file, fault in faults)
    if fault := quantisation_fault(getattr(config, "quantization_config", None)):
        yield f"{file}: {fault}", "the unquantised model, or install what it was quantised with"


def _weight_faults(folder: Path, settings: ModelSettings) -> Iterator[tuple[str, str]]:
    """Weights that do not fit the config, and a tokenizer that does not fit the embedding."""
    from transformers import AutoModelForCausalLM

    config = config_of(str(folder), settings)
    if getattr(config, "quantization_config", None) is not None:
        return  # its names and shapes are those of a library that packs them, which looks when it loads
    names = stored_names(folder)
    if fault := _file_fault(folder, names) or _layer_fault(config, names):
        yield f"{folder}: {fault}", COPY_AGAIN
        return
    with explain_loading(str(folder)):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=settings.trust_remote_code,
        )
        rows = model.get_input_embeddings().weight.shape[0]
    if fault := weight_fault(report) or integer_fault(folder, model) or _value_fault(folder, model):
        yield f"{folder}: {fault}", COPY_AGAIN
        return
    if (
        settings.tokenizer
        and settings.tokenizer.startswith("/")
        and (not Path(settings.tokenizer).exists() or _tokenizer_faults(settings.tokenizer, settings.trust_remote_code))
    ):
        return  # which is said of that setting
    tokenizer = load_tokenizer(str(folder), settings)
    if what := tokens_beyond(tokenizer, rows):
        yield f"{folder}: {what}", "the tokenizer that the model was trained with: model.tokenizer=FOLDER_OR_ID"


def _value_fault(folder: Path, model: PreTrainedModel) -> str:
    """Values that are no weights, in files whose names may lack the first part of the model's."""
    tables = table_names(model)
    names = {name for table in tables for name in (table, table.removeprefix(f"{model.base_model_prefix}."))}
    return value_fault(stored_weights(folder), names)


def _file_fault(folder: Path, names: Mapping[str, set[str]]) -> str:
    """No weights at all, or an index that names others than the files hold."""
    if not names:
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        return f"no weights as safetensors{f', only pickles ({pickles[0]}), which can run code' if pickles else ''}"
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return ""
    with explain_loading(str(index)):
        listed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if lost := sorted(set(listed.values()) - names.keys()):
        return f"{index.name} names {lost[0]}, which is not there"
    absent = sorted(name for name, file in listed.items() if name not in names[file])
    unlisted = sorted(set().union(*(names[file] for file in set(listed.values()))) - listed.keys())
    twice = sorted(name for file in set(listed.values()) for name in names[file] if listed.get(name, file) != file)
    if twice:
        return f"{weights_are(twice)} in two of the files that {index.name} names, first {twice[0]}"
    if absent:
        return f"{weights_are(absent)} in {index.name} and not in its files, first {absent[0]}"
    return f"{weights_are(unlisted)} in the files and not in {index.name}, first {unlisted[0]}" if unlisted else ""


def _layer_fault(config: Any, names: Mapping[str, set[str]]) -> str:
    """More layers than weights: a config to be refused before the library builds them."""
    layers, held = config.get_text_config().num_hidden_layers, sum(map(len, names.values()))
    return f"config.json has {layers} layers, and the files {held} weights" if layers > held else ""
