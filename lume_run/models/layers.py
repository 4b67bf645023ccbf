"""The decoder layers of a model, whatever the family calls them, and their outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
        caught.append(first_output(output))

    handle = decoder_layers(model)[layer].register_forward_hook(catch)
    if stop:
        config.num_hidden_layers = layer + 1
    try:
        yield caught
    finally:
        config.num_hidden_layers = layers
        handle.remove()


def first_output(output: Any) -> Tensor:
    """The hidden states that a layer gives, which some families put into a tuple."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@dataclass(slots=True)
class LayerStates:
    """The outputs of all decoder layers in one forward, in order; whether the family puts them into `tuples`."""

    states: list[Tensor] = field(default_factory=list)
    tuples: bool = False


@contextmanager
def outputs_of_layers(model: nn.Module) -> Iterator[LayerStates]:
    """Catch what every decoder layer gives in the one forward that is run inside."""
    caught = LayerStates()

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.tuples = isinstance(output, tuple)
        caught.states.append(first_output(output))

    with ExitStack() as hooks:
        for layer in decoder_layers(model):
            hooks.callback(layer.register_forward_hook(catch).remove)
        yield caught


@contextmanager
def replaced_output(model: nn.Module, layer: int, compute: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Have decoder layer `layer` give what `compute` makes of its output; the layers above go on with that."""

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        states = compute(first_output(output))
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = decoder_layers(model)[layer].register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def layers_passed_by(model: nn.Module, states: Tensor, *, tuples: bool) -> Iterator[None]:
    """Have no decoder layer compute anything, and the last one give `states`: what is behind the layers is run on them.

    So norm, head, scales and caps are the family's own.
    """
    layers = list(decoder_layers(model))
    instead = (states,) if tuples else states

    def pass_on(*inputs: Any, **named: Any) -> Any:
        hidden = inputs[0] if inputs else named["hidden_states"]
        return (hidden,) if tuples else hidden

    with ExitStack() as forwards:
        for layer in layers:
            forwards.enter_context(_forward_of(layer, pass_on if layer is not layers[-1] else lambda *_, **__: instead))
        yield


@contextmanager
def _forward_of(module: nn.Module, compute: Callable[..., Any]) -> Iterator[None]:
    """Have a module's forward be another function; one that stood there already, as accelerate's does, comes back."""
    earlier = module.__dict__.get("forward")
    module.forward = compute
    try:
        yield
    finally:
        if earlier is None:
            del module.forward
        else:
            module.forward = earlier
