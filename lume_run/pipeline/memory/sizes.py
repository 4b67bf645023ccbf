"""What an estimate of memory counts: the sizes of a model, the length of its rows, how a stage trains it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from lume_run.attacks.base import TrainingAttack
from lume_run.attacks.relearn import trains_adapters
from lume_run.common.lazy import nn, torch
from lume_run.config.model_settings import LoraSettings
from lume_run.config.settings import OptimizationSettings, Settings
from lume_run.methods.likelihood import FineTune
from lume_run.methods.needs import Needs
from lume_run.models.adapters import with_adapters
from lume_run.models.layers import layer_number
from lume_run.models.rows.packed import PACKED_TYPES
from lume_run.models.weights import (
    EMBEDDING,
    VOCABULARY_HEAD,
    ShapedConfig,
    choose_weights,
    count_parameters,
    meta_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A row of the fullest forward [tokens], and how many of its positions are predicted.

    The longest row where rows are padded; where they are packed, the mean of the longest ones.
    """

    tokens: int = 512
    labels: int = 256


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model is made of [numbers].

    `parameters` without adapters; `trained` of them, or of the adapters; `tables` are embeddings, which are never
    multiplied; `linear` what bitsandbytes quantises. `layers` run, of `heads` and `key_value` wide keys. With a
    `plain_head` logits are read in parts.
    """

    parameters: int
    trained: int
    adapters: int
    tables: int
    linear: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value: int
    vocabulary: int
    plain_head: bool


def stages_of(settings: Settings) -> list[str]:
    """The stages whose memory may count: unlearning, or training where nothing is unlearned; attacks that train."""
    attacks = ["attack"] if any(isinstance(it, TrainingAttack) for it in settings.attack.attacks.values()) else []
    if "unlearn" in settings.stages or not (attacks or "train" in settings.stages):
        return ["unlearn", *attacks]
    return ["train"] if "train" in settings.stages else attacks


class Phase(NamedTuple):
    """How a stage optimises, what its loss needs, and whether it trains adapters."""

    settings: OptimizationSettings
    needs: Needs
    adapters: bool


def phase_of(settings: Settings, stage: str) -> Phase:
    """The optimisation of a stage."""
    lora = settings.model.lora.enabled
    if stage == "train":
        return Phase(settings.trainer.train, FineTune().needs, lora and settings.model.path is not None)
    if stage == "attack":
        adapters = all(trains_adapters(attack, settings.model) for attack in settings.attack.attacks.values())
        return Phase(settings.trainer.train, FineTune().needs, adapters)
    return Phase(settings.trainer.unlearn, settings.method.needs, lora)


class _Counts(NamedTuple):
    """Weights of a model: all, those that train, adapters, embeddings, what bitsandbytes quantises."""

    parameters: int
    trained: int
    adapters: int
    tables: int
    linear: int


def _count_model(
    model: PreTrainedModel, trainable: Sequence[str] | None, needs: Needs, lora: LoraSettings | None
) -> _Counts:
    """Counts over a model on the meta device, which gets adapters where there is `lora`."""
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    parameters = count_parameters(model)
    choose_weights(model, trainable, needs)
    trained, adapters = count_parameters(model, trainable=True), 0
    if lora is not None:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of one library's names in another
            adapted = with_adapters(model, lora, 0)
        trained = adapters = count_parameters(adapted, trainable=True)
    table_weights, linear_weights = (sum(module.weight.numel() for module in kind) for kind in (tables, linear))
    return _Counts(parameters, trained, adapters, table_weights, linear_weights)


def _count_shape(config: ShapedConfig, trainable: Sequence[str] | None, needs: Needs, rank: int) -> _Counts:
    """The same by arithmetic; adapters of this rank on all linear layers, none with rank 0."""
    sizes = {name: rows * columns for name, (rows, columns) in config.weights.items()}
    linear = config.weights.keys() - {EMBEDDING, VOCABULARY_HEAD}
    trained = sum(sizes[name] for name in config.weights if _trains(name, config, trainable, needs))
    adapters = sum(rank * sum(config.weights[name]) for name in linear)
    linear_weights = sum(sizes[name] for name in linear)
    return _Counts(sum(sizes.values()), adapters or trained, adapters, sizes[EMBEDDING], linear_weights)


def _trains(name: str, config: ShapedConfig, trainable: Sequence[str] | None, needs: Needs) -> bool:
    """Whether a weight is trained, as `choose_weights` chooses."""
    if trainable is not None and not any(fnmatchcase(name, pattern) for pattern in trainable):
        return False
    if needs.logits or needs.hidden_layer is None or name == EMBEDDING:
        return True
    layer = name.removeprefix("model.layers.").partition(".")[0]
    return layer.isdigit() and int(layer) <= layer_number(config, needs.hidden_layer)


def sizes_of(settings: Settings, config: Any, stage: str) -> Sizes:
    """Counts over a model of this config; RunError where adapters have nothing to adapt."""
    _, needs, adapters_train = phase_of(settings, stage)
    trainable, lora = settings.model.trainable if stage == "unlearn" else None, settings.model.lora
    if isinstance(config, ShapedConfig) and (not adapters_train or lora.target_modules == "all-linear"):
        counts = _count_shape(config, trainable, needs, lora.rank if adapters_train else 0)
    else:
        counts = _count_model(meta_model(config), trainable, needs, lora if adapters_train else None)
    stops = not needs.logits and needs.hidden_layer is not None
    text = config.get_text_config()
    heads, layers = _widest(text.num_attention_heads), text.num_hidden_layers
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Sizes(
        parameters=counts.parameters,
        trained=counts.trained,
        adapters=counts.adapters,
        tables=0 if config.tie_word_embeddings else counts.tables,
        linear=counts.linear,
        hidden=text.hidden_size,
        intermediate=_widest(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        layers=layer_number(config, needs.hidden_layer) + 1 if stops and needs.hidden_layer is not None else layers,
        heads=heads,
        key_value=width * _widest(getattr(text, "num_key_value_heads", None) or heads),
        vocabulary=text.vocab_size,
        plain_head=config.model_type in PACKED_TYPES,
    )


def _widest(size: int | Sequence[int]) -> int:
    """A size that some families give for each layer (Gemma 3n): the largest."""
    return size if isinstance(size, int) else max(size)
