"""Base models and targets: build the tiny one, load any causal LM, add adapters, save."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lume_run.common.devices import dtype_of
from lume_run.common.errors import RunError
from lume_run.common.files import HUB_PATIENCE_SECONDS
from lume_run.config.settings import ModelSettings
from lume_run.models.precision import attention_of, quantization_config, set_matmul_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY_CONTEXT_TOKENS = 2048


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
    """The model's transformers config; raises RunError with the remedy where it is unavailable."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=only_local(path))
    except (OSError, ValueError) as error:
        raise unavailable_model_error(path, error) from error


def generation_config_of(path: str, settings: ModelSettings) -> Any:
    """What `generate` obeys: the generation config beside the model, else what its config implies."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path, local_files_only=only_local(path))
    except OSError:
        return GenerationConfig.from_model_config(config_of(path, trust_remote_code=settings.trust_remote_code))


def unavailable_model_error(path: str, error: Exception) -> RunError:
    """The error for a model that could not be loaded, with what to do about it."""
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


def load_tokenizer(path: str, settings: ModelSettings) -> PreTrainedTokenizerBase:
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
            failure = failure or unavailable_model_error(candidate, error)
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
    settings: ModelSettings,
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
    set_matmul_precision(settings, device)
    if quantised and settings.quantize != "none":
        options |= {"quantization_config": quantization_config(settings.quantize, kept), "device_map": {"": device}}
    if rooms is not None:
        gc.collect()  # frees an earlier model of this kind, which its hooks refer to
        options |= {"device_map": "auto", "max_memory": dict(rooms)}
    try:
        model = AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise unavailable_model_error(path, error) from error
    if "device_map" in options or is_deepspeed_zero3_enabled():  # where it belongs, or in parts that are
        return model
    moved: PreTrainedModel = model.to(device)
    return moved


def save_model(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, *, keep_adapters: bool = False
) -> None:
    """Write an ordinary Hugging Face folder; adapters are merged so that anything can load it, unless kept apart."""
    wrapped: Any = model
    merges = hasattr(wrapped, "merge_and_unload") and not keep_adapters
    plain: Any = wrapped.merge_and_unload() if merges else wrapped
    plain.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def context_limit(config: Any, settings: ModelSettings) -> int:
    """The longest row [tokens] a model of this transformers config takes."""
    return settings.max_length or getattr(config, "max_position_embeddings", None) or TINY_CONTEXT_TOKENS
