"""LoRA adapters: put on a model, and read from a folder: the model below it, whether it is whole, merging it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.lazy import nn, torch
from lume_run.config.model_settings import LoraSettings
from lume_run.models.files.faults import explain_loading, unavailable_model_error, weight_fault
from lume_run.models.files.kept import remember_weights
from lume_run.models.files.values import stored_names, stored_weights, value_fault

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"  # peft's word for every linear layer but the head
FUSED_STATE_SPACES = {"bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "zamba2"}  # model types
PART = "folder of an adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def with_adapters(model: PreTrainedModel, lora: LoraSettings, seed: int, *, revision: str | None = None) -> nn.Module:
    """`model` with trainable LoRA adapters and everything else frozen; unchanged when LoRA is off.

    `revision`: the commit that a model of the hub is from, which a saved adapter names.
    """
    if not lora.enabled:
        return cast(nn.Module, model)
    from peft import LoraConfig, get_peft_model

    routers = routers_of(model)
    left_out = [*routers, *fused_outputs_of(model)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        exclude_modules=(left_out or None) if lora.target_modules == ALL_LINEAR else None,
        task_type="CAUSAL_LM",
        revision=revision,
    )
    torch.manual_seed(seed)  # adapters start from random A matrices
    try:
        wrapped: nn.Module = get_peft_model(model, config)
    except (ValueError, re.error) as error:  # a text is a regular expression to peft
        names = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        )
        remedy = f"linear modules: {', '.join(names)}"
        raise ConfigError([Problem(where="model.lora.target_modules", what=str(error), remedy=remedy)]) from error
    adapted = {name for name, module in wrapped.named_modules() if hasattr(module, "base_layer")}
    if wrong := [name for name in routers if any(wrapper.endswith(name) for wrapper in adapted)]:
        what = f"{wrong[0]} returns several tensors, as routers of experts do: an adapter has no place in it"
        raise ConfigError([Problem(where="model.lora.target_modules", what=what, remedy="leave it out: all-linear")])
    if tied := adapted_and_tied(wrapped):
        what = f"{tied} shares its weights between embedding and head: an adapter on one could not be merged into it"
        raise ConfigError([Problem(where="model.lora.target_modules", what=what, remedy="leave it out: all-linear")])
    return wrapped


def routers_of(model: nn.Module) -> list[str]:
    """Names of linear layers that do more than a matrix product, as routers of experts that return several tensors:
    an adapter has no place in those."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and type(module).__module__.startswith("transformers.models.")
        and not maps_rows(module)
    ]


def fused_outputs_of(model: nn.Module) -> list[str]:
    """Names of output layers of state spaces (a convolution beside them) whose weights kernels read past the layer: an
    adapter there would count in some passes and not in others, and peft refuses it."""
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if kind not in FUSED_STATE_SPACES:
        return []
    return [
        f"{name}.out_proj" for name, module in model.named_modules() if {"conv1d", "out_proj"} <= module._modules.keys()
    ]


def maps_rows(layer: nn.Linear) -> bool:
    """Whether a layer's forward turns (1, in_features) into (1, out_features); tried without memory or numbers."""
    weights = {name: torch.empty(weight.shape, device="meta") for name, weight in layer.named_parameters()}
    weights["weight"] = torch.empty(layer.out_features, layer.in_features, device="meta")  # ZeRO-3 leaves it empty
    row = torch.empty(1, layer.in_features, device="meta")
    try:
        result = torch.func.functional_call(layer, weights, (row,))
    except Exception:
        return False
    return isinstance(result, torch.Tensor) and result.shape == (1, layer.out_features)


def adapted_and_tied(model: Any) -> str:
    """The name of a module with an adapter whose weight another module has as well; "" where there is none."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    weights = [getattr(module, "weight", None) for module in (embedding, head)]
    if weights[0] is None or weights[0] is not weights[1]:
        return ""
    adapted = ((name, module) for name, module in model.named_modules() if hasattr(module, "base_layer"))
    return next(
        (name.split(".", 2)[-1] for name, module in adapted if getattr(module, "weight", None) is weights[0]), ""
    )


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A model with the adapter in a folder merged into it; RunError where that is not whole or of another model."""
    from peft import PeftModel

    require_adapter_weights(folder)
    with explain_loading(str(folder), PART):
        adapted: Any = PeftModel.from_pretrained(model, folder)
        if fault := adapter_fault(adapted, "default", folder):
            raise unavailable_model_error(str(folder), ValueError(fault), PART)
        remember_weights(adapted)
        merged: PreTrainedModel = adapted.merge_and_unload()
        if fault := value_fault(merged.named_parameters()):
            raise unavailable_model_error(str(folder), ValueError(fault), PART)
    merged.name_or_path = str(folder)  # an adapter trained on it belongs to it, not to the model below
    return merged.requires_grad_(True)  # under the adapter it was frozen


def require_adapter_weights(folder: Path) -> None:
    """RunError where a folder holds no safetensors: other formats run code when they are read."""
    if ADAPTER_WEIGHTS not in stored_names(folder):
        raise RunError(f"{folder} holds no safetensors\n  - save the adapter again: {ADAPTER_WEIGHTS}")


def adapter_fault(model: Any, name: str, folder: Path) -> str:
    """What is wrong where the weights in the folder of an adapter are not those that it has in the model."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    wanted = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}
    stored: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            stored |= {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118 - no dict
    differing = [(key, stored[key], wanted[key]) for key in wanted.keys() & stored.keys() if stored[key] != wanted[key]]
    report = {
        "missing_keys": wanted.keys() - stored.keys(),
        "unexpected_keys": stored.keys() - wanted.keys(),
        "mismatched_keys": differing,
    }
    return weight_fault(report)


def adapter_folder_fault(folder: Path, model: PreTrainedModel) -> str:
    """What keeps the adapter in a folder from being put on a model, which may be on the meta device; "" if nothing."""
    from peft import PeftConfig, get_peft_model

    require_adapter_weights(folder)
    with explain_loading(str(folder), PART):
        config = PeftConfig.from_pretrained(folder)
        adapted: Any = get_peft_model(model, config)
    if not hasattr(adapted, "merge_and_unload"):
        return f"it is one of {config.peft_type}, which puts tokens before every text and cannot be merged into weights"
    if tied := adapted_and_tied(adapted):
        return f"it is on {tied}, which shares its weights between embedding and head, and cannot be merged into it"
    return adapter_fault(adapted, "default", folder) or value_fault(stored_weights(folder))
