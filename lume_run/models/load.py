"""Base models and targets: build the tiny one, load any causal LM, add adapters, save."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lume_run.common.devices import dtype_of, is_out_of_memory
from lume_run.common.errors import LumeError, RunError
from lume_run.common.files import HUB_PATIENCE_SECONDS
from lume_run.config.model_settings import ModelSettings
from lume_run.models.precision import attention_of, quantization_config, set_matmul_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY_CONTEXT_TOKENS = 2048
REASON_LETTERS = 300  # of what a library says


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

    with explain_loading(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=only_local(path))


def generation_config_of(path: str, settings: ModelSettings) -> Any:
    """What `generate` obeys: the generation config beside the model, else what its config implies."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path, local_files_only=only_local(path))
    except Exception as error:  # whatever the library raises about a file that is there
        if (Path(path) / "generation_config.json").exists():
            raise unavailable_model_error(path, error) from error
        return GenerationConfig.from_model_config(config_of(path, trust_remote_code=settings.trust_remote_code))


@contextmanager
def explain_loading(path: str, part: str = "model folder") -> Iterator[None]:
    """Turn what the libraries raise about the files of a model, whatever it is, into a RunError that names it."""
    try:
        yield
    except LumeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise unavailable_model_error(path, error, part) from error


def unavailable_model_error(path: str, error: Exception, part: str = "model folder") -> RunError:
    """The error for a model (or another part of its folder) that could not be loaded, with what to do about it."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    reason = " ".join(lines[:2])[:REASON_LETTERS]
    if len(reason.split()) < 2:  # a name alone, as of a key
        reason = f"{type(error).__name__} {reason}"
    if Path(path).exists():
        return RunError(
            f"The model '{path}' is not a usable {part}: {reason}\n"
            "  - copy or download it again: config.json, weights as safetensors and the tokenizer's files, all whole"
        )
    return RunError(
        f"The model '{path}' is neither a folder here nor reachable on the hub: {reason}\n"
        "  - a gated or private id: set HF_TOKEN and accept its licence on the model's page\n"
        "  - already downloaded elsewhere: point HF_HOME at that cache\n"
        "  - no internet here: copy the folder over and give model.path=FOLDER (and task.data_dir=FOLDER for the data)"
    )


def load_model(
    path: str,
    settings: ModelSettings,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    quantised: bool = False,
    rooms: Mapping[int | str, int] | None = None,
) -> PreTrainedModel:
    """A causal LM from a folder or hub id, on `device`; safetensors only, never pickles, and no weight at random.

    `quantised`: with its linear layers (the head's excepted) in the bits of `model.quantize`, to be frozen under
    adapters. `rooms`: its layers spread over places, in this order, by the bytes of weights each may hold (GPU numbers
    and "cpu"; beyond them, on disk), to be run without training.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    config = config_of(path, trust_remote_code=settings.trust_remote_code)
    options = _loading_options(path, settings, dtype or dtype_of(settings.dtype, device))
    options["attn_implementation"] = attention_of(settings, config, device)
    set_matmul_precision(settings, device)
    if quantised and settings.quantize != "none":
        bits = quantization_config(settings.quantize, options["dtype"])
        options |= {"quantization_config": bits, "device_map": {"": device}}
    if rooms is not None:
        gc.collect()  # frees an earlier model of this kind, which its hooks refer to
        options |= {"device_map": "auto", "max_memory": dict(rooms)}
    with explain_loading(path):
        model, report = AutoModelForCausalLM.from_pretrained(path, **options)
    if fault := weight_fault(report):
        raise unavailable_model_error(path, ValueError(fault))
    if "device_map" in options or is_deepspeed_zero3_enabled():  # where it belongs, or in parts that are
        return model
    moved: PreTrainedModel = model.to(device)
    return moved


def _loading_options(path: str, settings: ModelSettings, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "trust_remote_code": settings.trust_remote_code,
        "local_files_only": only_local(path),
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # `weight_fault` names them
    }


def weight_fault(report: Mapping[str, Any]) -> str:
    """What the library reports of weights that do not fit the config, the first of each kind named; "" if all do."""
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted(report["mismatched_keys"], key=str)
    faults = []
    if missing:
        faults.append(f"{weights_are(missing)} missing and would be random, first {missing[0]}")
    if unexpected:
        faults.append(
            f"{weights_are(unexpected)} in the files and not in the model of the config, first {unexpected[0]}"
        )
    if mismatched:
        name, there, here = mismatched[0]
        faults.append(f"{weights_are(mismatched)} of another shape, first {name}: {tuple(there)}, not {tuple(here)}")
    return "; ".join(faults)


def weights_are(names: Sequence[object]) -> str:
    """The beginning of a sentence about so many weights."""
    return "1 weight is" if len(names) == 1 else f"{len(names)} weights are"


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
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return settings.max_length or limit or TINY_CONTEXT_TOKENS
