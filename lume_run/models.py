"""Base models and targets: build the tiny one, load any causal LM, add adapters, save."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from lume_run.common.devices import dtype_of
from lume_run.common.errors import Problem, RunError
from lume_run.config.settings import Lora, Model, Shape
from lume_run.methods.base import Needs
from lume_run.precision import attention_of, multiply_as, quantisation
from lume_run.signals import decoder_layers, layer_number, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"
TINY_CONTEXT_TOKENS = 2048
HUB_PATIENCE_SECONDS = 5.0


def olmo_config(shape: Shape, **fields: Any) -> Any:
    """A transformers OlmoConfig of this shape."""
    from transformers import OlmoConfig

    return OlmoConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        tie_word_embeddings=shape.tie_embeddings,
        **fields,
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE over the task's own text; digits stand alone, so that numbers are learned digit by digit."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PADDING)


def build_tiny(shape: Shape, texts: Iterable[str], seed: int, folder: Path) -> None:
    """Write an untrained OLMo and its freshly trained tokenizer as an ordinary Hugging Face folder."""
    from transformers import OlmoForCausalLM

    tokenizer = train_tokenizer(texts, shape.vocabulary)
    config = olmo_config(
        shape,
        max_position_embeddings=TINY_CONTEXT_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OlmoForCausalLM(config)
    save(model, tokenizer, folder)


def weightless(config: Any) -> PreTrainedModel:
    """A causal LM of this config that allocates no weight: for names, shapes and counts."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Weights of a model, or those that train."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not trainable)


@cache
def only_local(path: str) -> bool:
    """Whether loading must do with the folder or the cache: the hub does not answer within seconds.

    Asked once here, since the loaders themselves would retry for half a minute a file.
    """
    if Path(path).exists():
        return True
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(path, timeout=HUB_PATIENCE_SECONDS)
    except Exception:  # the client's errors share no base; the loader then says what is missing
        return True
    return False


def config_of(path: str, *, trust_remote_code: bool = False) -> Any:
    """The model's transformers config; raises RunError with the remedy when it cannot be had."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=only_local(path))
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error


def generation_config_of(path: str, settings: Model) -> Any:
    """What `generate` obeys: the generation config beside the model, else what its config implies."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path, local_files_only=only_local(path))
    except OSError:
        return GenerationConfig.from_model_config(config_of(path, trust_remote_code=settings.trust_remote_code))


def unreachable(path: str, error: Exception) -> RunError:
    """What to tell someone whose model could not be loaded."""
    reason = str(error).strip().split("\n")[0]
    remedies = (
        "  - a gated or private id: set HF_TOKEN and accept its licence on the model's page\n"
        "  - already downloaded elsewhere: point HF_HOME at that cache\n"
        "  - no internet here: copy the folder over and give model.path=FOLDER (and task.data_dir=FOLDER for the data)"
    )
    what = (
        "is not a usable model folder" if Path(path).exists() else "is neither a folder here nor reachable on the hub"
    )
    return RunError(f"The model '{path}' {what}: {reason}\n{remedies}")


def load_tokenizer(path: str, settings: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at `path`, with a pad token (EOS where it has none of its own).

    `model.tokenizer` wins; else the one beside the model; else the base model's, since some released
    targets come without.
    """
    from transformers import AutoTokenizer

    candidates = [settings.tokenizer] if settings.tokenizer else [path, *([settings.base] if settings.base else [])]
    failure: RunError | None = None
    for candidate in candidates:
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                candidate, trust_remote_code=settings.trust_remote_code, local_files_only=only_local(candidate)
            )
            break
        except (OSError, ValueError) as error:
            failure = failure or unreachable(candidate, error)
    else:
        assert failure is not None  # there is at least one candidate
        raise failure
    if tokenizer.eos_token_id is None:
        raise RunError(f"The tokenizer of '{path}' has no EOS token, so answers cannot end; add one to its config.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: str,
    settings: Model,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    quantised: bool = False,
    rooms: Mapping[int | str, int] | None = None,
) -> PreTrainedModel:
    """A causal LM from a folder or hub id, on `device`; safetensors only, never pickles.

    `quantised`: with its linear layers (the head's excepted) in the bits of `model.quantize`, to be frozen under
    adapters. `rooms`: its layers spread over places, in this order, by the bytes of weights each may hold (GPU numbers
    and "cpu"; beyond them, on disk), to be run without training.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    kept = dtype or dtype_of(settings.dtype, device)
    options: dict[str, Any] = {
        "dtype": kept,
        "attn_implementation": attention_of(settings, device),
        "trust_remote_code": settings.trust_remote_code,
        "local_files_only": only_local(path),
        "use_safetensors": True,
    }
    multiply_as(settings, device)
    if quantised and settings.quantize != "none":
        options |= {"quantization_config": quantisation(settings.quantize, kept), "device_map": {"": device}}
    if rooms is not None:
        gc.collect()  # an earlier model of this kind goes only now: its hooks know it
        options |= {"device_map": "auto", "max_memory": dict(rooms)}
    try:
        model = AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error
    if "device_map" in options or is_deepspeed_zero3_enabled():  # where it belongs, or in parts that are
        return model
    moved: PreTrainedModel = model.to(device)
    return moved


def with_adapters(model: PreTrainedModel, lora: Lora, seed: int) -> nn.Module:
    """`model` with trainable LoRA adapters and everything else frozen; unchanged when LoRA is off."""
    if not lora.enabled:
        return cast(nn.Module, model)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)  # adapters start from random A matrices
    try:
        wrapped: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        names = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        )
        raise RunError(
            str(
                Problem(
                    where="model.lora.target_modules", what=str(error), remedy=f"linear modules: {', '.join(names)}"
                )
            )
        ) from error
    return wrapped


def pattern_problems(patterns: Sequence[str], model: nn.Module) -> list[Problem]:
    """Patterns that no weight matches, with names to go by."""
    names = [name for name, _ in model.named_parameters()]
    kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
    return [
        Problem(where="model.trainable", what=f"no weight matches '{pattern}'", remedy=f"weights: {', '.join(kinds)}")
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def choose_weights(model: nn.Module, patterns: Sequence[str] | None, needs: Needs) -> None:
    """Freeze what is not to train: weights outside `patterns`, and those above the layer a method reads alone."""
    if patterns is not None:
        train_only(model, patterns)
    if not needs.logits and needs.hidden_layer is not None:
        freeze_above(model, needs.hidden_layer)


def train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze every weight whose name matches none of the shell patterns."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))


def freeze_above(model: nn.Module, hidden_layer: int) -> None:
    """Freeze what the output of this decoder layer does not depend on: layers above it, final norm, head."""
    layers = decoder_layers(model)
    used = layer_number(unwrapped(model).config, hidden_layer)
    below = {id(parameter) for layer in layers[: used + 1] for parameter in layer.parameters()}
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    below |= {id(parameter) for embedding in embeddings for parameter in embedding.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in below:
            parameter.requires_grad_(False)


def save(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, *, keep_adapters: bool = False) -> None:
    """Write an ordinary Hugging Face folder; adapters are merged so that anything can load it, unless kept apart."""
    wrapped: Any = model
    merges = hasattr(wrapped, "merge_and_unload") and not keep_adapters
    plain: Any = wrapped.merge_and_unload() if merges else wrapped
    plain.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def limit_of(config: Any, settings: Model) -> int:
    """The longest row [tokens] a model of this transformers config takes."""
    return settings.max_length or getattr(config, "max_position_embeddings", None) or TINY_CONTEXT_TOKENS
