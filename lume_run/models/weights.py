"""The weights of a model: how many, which are trained, and adapters beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from lume_run.common.errors import Problem
from lume_run.common.lazy import nn, torch
from lume_run.config.model_settings import ShapeSettings
from lume_run.methods.needs import Needs
from lume_run.models.layers import decoder_layers, layer_number, unwrap

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def olmo_config(shape: ShapeSettings, **fields: Any) -> Any:
    """A transformers OlmoConfig of this shape."""
    from transformers import OlmoConfig

    given = {"num_key_value_heads": shape.key_value_heads, "head_dim": shape.head_dim}
    return OlmoConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        tie_word_embeddings=shape.tie_embeddings,
        **{name: value for name, value in given.items() if value is not None},
        **fields,
    )


@dataclass(frozen=True, kw_only=True)
class ShapedConfig:
    """What plans read of the OLMo of a shape, under the names that its transformers config has, without transformers.

    `weights`: the shape of each by its name; that model has matrices alone, its norms have no weights.
    """

    shape: ShapeSettings
    model_type = "olmo"
    max_position_embeddings = 2048  # OlmoConfig's default

    def get_text_config(self) -> ShapedConfig:
        """Itself: it sees no images."""
        return self

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.shape.vocabulary

    @property
    def hidden_size(self) -> int:
        """Width."""
        return self.shape.hidden_size

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""
        return self.shape.intermediate_size

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers."""
        return self.shape.layers

    @property
    def num_attention_heads(self) -> int:
        """Heads of queries."""
        return self.shape.heads

    @property
    def num_key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.shape.key_value_heads or self.shape.heads

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.shape.head_dim or self.shape.hidden_size // self.shape.heads

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the head is the embedding."""
        return self.shape.tie_embeddings

    @property
    def weights(self) -> Mapping[str, tuple[int, int]]:
        """(rows, columns) of each weight by its name, in the model's order."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        layer = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        table = (self.vocab_size, hidden)
        layers = {
            f"model.layers.{number}.{name}.weight": size
            for number in range(self.num_hidden_layers)
            for name, size in layer.items()
        }
        return {EMBEDDING: table, **layers, **({} if self.tie_word_embeddings else {VOCABULARY_HEAD: table})}


EMBEDDING, VOCABULARY_HEAD = "model.embed_tokens.weight", "lm_head.weight"  # as OLMo's are called


def meta_model(config: Any) -> PreTrainedModel:
    """A causal LM of this config that allocates no weight: for names, shapes and counts."""
    from transformers import AutoModelForCausalLM

    if isinstance(config, ShapedConfig):
        config = olmo_config(config.shape)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def parameters_of(config: Any) -> int:
    """Weights of a model of this config."""
    if isinstance(config, ShapedConfig):
        return sum(rows * columns for rows, columns in config.weights.values())
    return count_parameters(meta_model(config))


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Weights of a model, or those that train."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not trainable)


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
