"""A model that is read from its files once, for many trainings and evaluations that start from it.

Requests apart put a hundred adapters on one model, and would read it for each training and each evaluation. While a
`ModelKeeper` holds that model it is lent to one of them after another, and taken back as it was read: adapters come
off, weights into which one was merged are put back from copies, so that no digit depends on what ran before. Who trains
all weights gets a copy of what lies in host memory.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lume_run.common.lazy import nn, torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ADAPTED = "base_layer"  # the attribute by which a layer with an adapter holds the layer below


@dataclass(slots=True)
class KeptModel:
    """A model in memory: whether somebody has it now, and copies of weights that a merged adapter is to change.

    `wanted`: lent or copied since the artifact was begun.
    """

    model: PreTrainedModel
    name: str
    lent: bool = False
    wanted: bool = True
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def take_back(self) -> None:
        """Make it what it was when it was read."""
        with torch.no_grad():
            for weight, before in reversed(self.copies):
                weight.copy_(before)
        self.copies.clear()
        _remove_adapters(self.model)
        if any(getattr(layer, "gradient_checkpointing", False) for layer in self.model.modules()):
            self.model.gradient_checkpointing_disable()
            self.model.disable_input_require_grads()
        for parameter in self.model.parameters():
            parameter.grad = None
            parameter.requires_grad_(parameter.is_floating_point())  # not those of 4 or 8 bits
        self.model.eval()
        self.model.name_or_path = self.name
        self.lent = self.wanted = False


class ModelKeeper:
    """Holds the model at one path (folder or hub id), in each precision and place in which it is asked for."""

    def __init__(self, path: str) -> None:
        self._place = _place_of(path)
        self._models: dict[Hashable, KeptModel] = {}

    def keeps(self, path: str) -> bool:
        """Whether it is about the model at this path."""
        return _place_of(path) == self._place

    def lend(self, key: Hashable, read: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The model as it was read, until `lending` ends; a new one where somebody has it already."""
        kept = self._models.get(key)
        if kept is not None and kept.lent:
            return read()
        kept = kept or self._keep(key, read)
        kept.lent = kept.wanted = True
        return kept.model

    def copy(self, key: Hashable, read: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """A copy of the model, to do with as one likes; a new one where somebody has the model."""
        kept = self._models.get(key)
        if kept is not None and kept.lent:
            return read()
        kept = kept or self._keep(key, read)
        kept.wanted = True
        return copy.deepcopy(kept.model)

    def remember(self, adapted: nn.Module) -> None:
        """Copy the weights of a lent model into which adapters are about to be merged."""
        weights = {id(weight) for kept in self._models.values() if kept.lent for weight in kept.model.parameters()}
        below: list[Any] = [layer.base_layer for layer in adapted.modules() if hasattr(layer, ADAPTED)]
        changed = [weight for layer in below for weight in layer.parameters() if id(weight) in weights]
        for kept in self._models.values():
            ids = {id(weight) for weight in kept.model.parameters()}
            kept.copies += [(weight, weight.detach().clone()) for weight in changed if id(weight) in ids]

    @contextmanager
    def lending(self) -> Iterator[None]:
        """Lend to everything that runs within, and take all back behind it; nothing is kept of what failed."""
        token = KEEPER.set(self)
        try:
            yield
        except BaseException:
            self._models.clear()
            raise
        finally:
            KEEPER.reset(token)
            for kept in self._models.values():
                kept.take_back()
            if any(kept.model.device.type != "cpu" for kept in self._models.values()):
                gc.collect()  # trainers refer to themselves, and to memory of the device

    def around(self, build: Callable[[Path], None]) -> Callable[[Path], None]:
        """What builds an artifact, with this model lent to it."""

        def lent(folder: Path) -> None:
            with self.lending():
                build(folder)

        return lent

    def _keep(self, key: Hashable, read: Callable[[], PreTrainedModel]) -> KeptModel:
        """Read it, in place of those that this artifact has not wanted: trainings, then evaluations, are alike."""
        for other in [other for other, kept in self._models.items() if not kept.wanted]:
            del self._models[other]
        model = read()
        self._models[key] = KeptModel(model, model.name_or_path)
        return self._models[key]


KEEPER: ContextVar[ModelKeeper | None] = ContextVar("KEEPER", default=None)


def keeper_of(path: str) -> ModelKeeper | None:
    """Who keeps the model at this path in memory now; None where nobody does."""
    keeper = KEEPER.get()
    return keeper if keeper is not None and keeper.keeps(path) else None


def remember_weights(adapted: nn.Module) -> None:
    """Before adapters are merged: have the keeper of the model below copy what will change."""
    if (keeper := KEEPER.get()) is not None:
        keeper.remember(adapted)


def _remove_adapters(model: Any) -> None:
    for name, layer in list(model.named_modules()):
        if hasattr(layer, ADAPTED):
            model.set_submodule(name, layer.base_layer)
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(name, None)


def _place_of(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path
