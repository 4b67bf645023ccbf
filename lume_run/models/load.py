"""Base models and targets: build the tiny one, load any causal LM, add adapters, save."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lume_run.common.devices import dtype_of
from lume_run.common.errors import Problem
from lume_run.common.lazy import nn, torch
from lume_run.config.model_settings import ModelSettings, rank_problems
from lume_run.models.adapters import merge_adapter
from lume_run.models.files.faults import explain_loading, unavailable_model_error, weight_fault
from lume_run.models.files.kept import keeper_of, remember_weights
from lume_run.models.files.values import table_names, value_fault
from lume_run.models.hub import adapter_base, hub_options, loaded_revision, require_files, settings_below
from lume_run.models.precision import attention_of, multiply_odd_widths, prepare_device, quantization_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY_CONTEXT_TOKENS = 2048


def config_of(path: str, settings: ModelSettings) -> Any:
    """The model's transformers config, of an adapter that of the model below; RunError where it is unavailable."""
    if base := adapter_base(path):
        return config_of(base, settings_below(path, settings))
    require_files(path)
    from transformers import AutoConfig

    with explain_loading(path):
        return AutoConfig.from_pretrained(path, **hub_options(path, settings))


def generation_config_of(path: str, settings: ModelSettings) -> Any:
    """What `generate` obeys: the generation config beside the model, else what its config implies."""
    from transformers import GenerationConfig

    options = hub_options(path, settings)
    options.pop("trust_remote_code")
    try:
        return GenerationConfig.from_pretrained(path, **options)
    except Exception as error:  # whatever the library raises about a file that is there
        if (Path(path) / "generation_config.json").exists():
            raise unavailable_model_error(path, error) from error
        return GenerationConfig.from_model_config(config_of(path, settings))


def load_model(
    path: str,
    settings: ModelSettings,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    quantised: bool = False,
    rooms: Mapping[int | str, int] | None = None,
    stays: bool = False,
) -> PreTrainedModel:
    """A causal LM from a folder or hub id, on `device`; safetensors only, never pickles, and no weight at random.

    `quantised`: with its linear layers (the head's excepted) in the bits of `model.quantize`, to be frozen under
    adapters. `rooms`: its layers spread over places, in this order, by the bytes of weights each may hold (GPU numbers
    and "cpu"; beyond them, on disk), to be run without training. `stays`: in host memory, as it will be on `device`.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if base := adapter_base(path):
        below = load_model(base, settings_below(path, settings), device, dtype=dtype, quantised=quantised, rooms=rooms)
        return merge_adapter(below, Path(path))
    config = config_of(path, settings)
    options = _loading_options(path, settings, dtype or dtype_of(settings.dtype, device))
    options |= {"attn_implementation": attention_of(settings, config, device)}
    prepare_device(settings, device, sharded=is_deepspeed_zero3_enabled())
    if quantised and settings.quantize != "none":
        options["quantization_config"] = quantization_config(settings.quantize, options["dtype"])
        options["device_map"] = {"": device}
    if rooms is not None:
        gc.collect()  # frees an earlier model of this kind, which its hooks refer to
        options |= {"device_map": "auto", "max_memory": dict(rooms)}
    with explain_loading(path):
        model, report = AutoModelForCausalLM.from_pretrained(path, **options)
    if fault := weight_fault(report) or value_fault(model.named_parameters(), table_names(model)):
        raise unavailable_model_error(path, ValueError(fault))
    multiply_odd_widths(model)
    is_there = "device_map" in options or is_deepspeed_zero3_enabled() or stays  # where it belongs, or its parts are
    placed: PreTrainedModel = model if is_there else model.to(device)
    return placed


def borrow_model(
    path: str,
    settings: ModelSettings,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    quantised: bool = False,
    rooms: Mapping[int | str, int] | None = None,
) -> PreTrainedModel:
    """`load_model`, or the same from memory where it is kept: for who changes no weight but adapters."""
    if rooms is not None:
        return load_model(path, settings, device, dtype=dtype, quantised=quantised, rooms=rooms)
    if keeper := keeper_of(path):
        key = (*_kept_key(path, settings, device, dtype), settings.quantize if quantised else "none")
        return keeper.lend(key, lambda: load_model(path, settings, device, dtype=dtype, quantised=quantised))
    if base := adapter_base(path):
        below = borrow_model(base, settings_below(path, settings), device, dtype=dtype, quantised=quantised)
        return merge_adapter(below, Path(path))
    return load_model(path, settings, device, dtype=dtype, quantised=quantised)


def copy_model(path: str, settings: ModelSettings, device: torch.device, *, dtype: torch.dtype) -> PreTrainedModel:
    """`load_model`, or a copy of what is kept in host memory: for who changes every weight."""
    if (keeper := keeper_of(path)) is None:
        return load_model(path, settings, device, dtype=dtype)
    kept_at = _kept_key(path, settings, device, dtype)
    key = (*kept_at, "none" if device.type == "cpu" else "in host memory")  # on a CPU the one that is lent too
    model = keeper.copy(key, lambda: load_model(path, settings, device, dtype=dtype, stays=True))
    moved: PreTrainedModel = model.to(device)
    return moved


def _kept_key(
    path: str, settings: ModelSettings, device: torch.device, dtype: torch.dtype | None
) -> tuple[str | None, str, torch.dtype]:
    return loaded_revision(path, settings), str(device), dtype or dtype_of(settings.dtype, device)


def _loading_options(path: str, settings: ModelSettings, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "dtype": dtype,
        **hub_options(path, settings),
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # `weight_fault` names them
    }


def save_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    keep_adapters: bool = False,
    adapter: Path | None = None,
) -> None:
    """Write an ordinary Hugging Face folder; adapters are merged so that anything can load it, unless kept apart.

    They are written into the folder `adapter` as well, where there is one and the model has some.
    """
    wrapped: Any = model
    if adapter is not None and hasattr(wrapped, "merge_and_unload"):
        wrapped.save_pretrained(adapter, safe_serialization=True)
        tokenizer.save_pretrained(adapter)
    merges = hasattr(wrapped, "merge_and_unload") and not keep_adapters
    if merges:
        remember_weights(model)
    plain: Any = wrapped.merge_and_unload() if merges else wrapped
    plain.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def context_limit(config: Any, settings: ModelSettings) -> int:
    """The longest row [tokens] a model of this transformers config takes."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return settings.max_length or limit or TINY_CONTEXT_TOKENS


def limit_problems(config: Any, settings: ModelSettings) -> Iterator[Problem]:
    """Settings beyond what a model of this config has: more positions than it was made for, adapters wider than it."""
    text = config.get_text_config()
    positions, width = getattr(text, "max_position_embeddings", None), getattr(text, "hidden_size", None)
    if settings.max_length and positions and settings.max_length > positions:
        what = f"{settings.max_length} is more than the {positions} positions of the model (max_position_embeddings)"
        yield Problem(where="model.max_length", what=what, remedy=f"model.max_length={positions}, or null")
    yield from rank_problems(settings.lora, width)
