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

STREAMS = ("altup_num_inputs", "hc_mult")  # what families call the number of states that a token has behind a layer


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside adapters and parallel wrappers."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def forward_accepts(model: nn.Module, name: str) -> bool:
    """Whether the (possibly wrapped) model's forward takes this keyword."""
    return name in inspect.signature(unwrap(model).forward).parameters


def stream_fault(config: Any) -> str:
    """Why no single state of a token stands behind a layer of models of this config; "" where it does."""
    text = config.get_text_config()
    streams = next((count for name in STREAMS if (count := getattr(text, name, None) or 1) > 1), 1)
    return f"layers of {config.model_type} pass on {streams} states of a token, not one" if streams > 1 else ""


def layer_number(config: Any, wanted: int) -> int:
    """The decoder layer meant by `wanted`, MIDDLE being layer (L - 1) // 2 of L.

    Raises RunError beyond the last, and where there is no state to read.
    """
    layers: int = config.get_text_config().num_hidden_layers
    if fault := stream_fault(config):
        raise RunError(f"The method reads hidden states, and {fault}; take a method that reads logits.")
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
    """Catch the output of decoder layer `layer`; with `stop` the layers above it compute nothing."""
    caught: list[Tensor] = []
    entries = 0

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal entries
        entries = entries_of(output)
        caught.append(first_output(output))

    def pass_on(*inputs: Any, **named: Any) -> Any:
        return _with_entries(_given(inputs, named), entries)

    layers = decoder_layers(model)
    with ExitStack() as changes:
        changes.callback(layers[layer].register_forward_hook(catch).remove)
        for above in layers[layer + 1 :] if stop else ():
            changes.enter_context(
                _forward_of(above, lambda *inputs, **named: _with_entries(_given(inputs, named), entries))
            )
        yield caught


def _given(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The hidden states that a layer was called with."""
    hidden: Tensor = inputs[0] if inputs else named["hidden_states"]
    return hidden


def _with_entries(hidden: Tensor, entries: int) -> Any:
    """Hidden states as a layer returns them, by `entries_of` its output."""
    return (hidden, *[None] * (entries - 1)) if entries else hidden


def entries_of(output: Any) -> int:
    """How many entries the tuple (GPT-1: the list) has in which a layer gives its states; 0: it gives them alone."""
    return len(output) if isinstance(output, tuple | list) else 0


def first_output(output: Any) -> Tensor:
    """The hidden states that a layer gives, which some families put into a tuple."""
    states: Tensor = output[0] if entries_of(output) else output
    return states


@dataclass(slots=True)
class LayerStates:
    """The outputs of all decoder layers in one forward, in order, and `entries_of` such an output."""

    states: list[Tensor] = field(default_factory=list)
    entries: int = 0


@contextmanager
def outputs_of_layers(model: nn.Module) -> Iterator[LayerStates]:
    """Catch what every decoder layer gives in the one forward that is run inside."""
    caught = LayerStates()

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.entries = entries_of(output)
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
        return (states, *output[1:]) if entries_of(output) else states

    handle = decoder_layers(model)[layer].register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def layers_passed_by(model: nn.Module, states: Tensor, *, entries: int) -> Iterator[None]:
    """Have no decoder layer compute anything, and the last one give `states`: what is behind the layers is run on them.

    So norm, head, scales and caps are the family's own.
    """
    layers = list(decoder_layers(model))
    instead = _with_entries(states, entries)

    def pass_on(*inputs: Any, **named: Any) -> Any:
        return _with_entries(_given(inputs, named), entries)

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
