"""The decoder layers of a model, whatever the family calls them, and their outputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lume_run.common.errors import RunError
from lume_run.common.lazy import nn
from lume_run.methods.needs import MIDDLE

if TYPE_CHECKING:
    from torch import Tensor


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside adapters and parallel wrappers."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def forward_accepts(model: nn.Module, name: str) -> bool:
    """Whether the (possibly wrapped) model's forward takes this keyword."""
    return name in inspect.signature(unwrap(model).forward).parameters


def layer_number(config: Any, wanted: int) -> int:
    """The decoder layer meant by `wanted`, MIDDLE being layer (L - 1) // 2 of L. Raises RunError beyond the last."""
    layers: int = config.get_text_config().num_hidden_layers
    if wanted >= layers:
        raise RunError(
            f"The method reads layer {wanted}, but the model's last layer is {layers - 1}; lower its `layer`."
        )
    return (layers - 1) // 2 if wanted == MIDDLE else wanted


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of decoder layers: the module list as long as the config says."""
    inner = unwrap(model)
    layers, language = inner.config.get_text_config().num_hidden_layers, inner.get_decoder()  # not of what sees images
    for module in (*language.modules(), *inner.modules()):
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return module
    raise RunError(f"No list of {layers} decoder layers in {type(inner).__name__}.")


@contextmanager
def output_of_layer(model: nn.Module, layer: int, *, stop: bool) -> Iterator[list[Tensor]]:
    """Catch the output of decoder layer `layer`; with `stop` no layer above it runs (where the model's loop
    obeys `config.num_hidden_layers`, as transformers' Llama-like models do)."""
    caught: list[Tensor] = []
    config = unwrap(model).config.get_text_config()
    layers = config.num_hidden_layers

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = decoder_layers(model)[layer].register_forward_hook(catch)
    if stop:
        config.num_hidden_layers = layer + 1
    try:
        yield caught
    finally:
        config.num_hidden_layers = layers
        handle.remove()
