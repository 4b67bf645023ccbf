"""The weights of a model: how many, which are trained, and adapters beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from lume_run.common.errors import ConfigError, Problem
from lume_run.config.model_settings import LoraSettings
from lume_run.methods.base import Needs
from lume_run.models.layers import decoder_layers, layer_number, unwrap

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def meta_model(config: Any) -> PreTrainedModel:
    """A causal LM of this config that allocates no weight: for names, shapes and counts."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Weights of a model, or those that train."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not trainable)


def with_adapters(model: PreTrainedModel, lora: LoraSettings, seed: int) -> nn.Module:
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
    except (ValueError, re.error) as error:  # a text is a regular expression to peft
        names = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        )
        remedy = f"linear modules: {', '.join(names)}"
        raise ConfigError([Problem(where="model.lora.target_modules", what=str(error), remedy=remedy)]) from error
    if tied := adapted_and_tied(wrapped):
        what = f"{tied} shares its weights between embedding and head: an adapter on one could not be merged into it"
        raise ConfigError([Problem(where="model.lora.target_modules", what=what, remedy="leave it out: all-linear")])
    return wrapped


def adapted_and_tied(model: Any) -> str:
    """The name of a module with an adapter whose weight another module has as well; "" where there is none."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    weights = [getattr(module, "weight", None) for module in (embedding, head)]
    if weights[0] is None or weights[0] is not weights[1]:
        return ""
    adapted = ((name, module) for name, module in model.named_modules() if hasattr(module, "base_layer"))
    return next((name.split(".", 2)[-1] for name, module in adapted if module.weight is weights[0]), "")


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
    used = layer_number(unwrap(model).config, hidden_layer)
    below = {id(parameter) for layer in layers[: used + 1] for parameter in layer.parameters()}
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    below |= {id(parameter) for embedding in embeddings for parameter in embedding.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in below:
            parameter.requires_grad_(False)
