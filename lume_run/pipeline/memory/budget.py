"""How many tokens a forward takes, and whether activations are computed again: what `auto` means on a device.

Results depend on neither. As many tokens as fit by the estimate, and activations kept as long as enough of them fit;
a method whose value depends on what is in a micro-batch gets the same number everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lume_run.config.settings import Settings
from lume_run.launch.world import World
from lume_run.models.placement import USABLE_MEMORY_SHARE
from lume_run.pipeline.memory.estimate import memory_estimate, step_rows
from lume_run.pipeline.memory.sizes import Lengths, Sizes, phase_of
from lume_run.training.micro_batches import DEFAULT_TOKENS

MOST_TOKENS = 65_536  # of a forward: more would be no faster on any device
ENOUGH_TOKENS = 8192  # that keep a GPU busy: activations are computed again where fewer fit


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Estimates of one run: what does not change between launch modes is counted once.

    `memory` is the bytes of a device (None: unknown, and `auto` takes what it takes on a CPU), `most_tokens` what a
    forward on it is to have at most.
    """

    settings: Settings
    stage: str
    sizes: Sizes
    lengths: Lengths
    compute: int
    memory: float | None = None
    most_tokens: int = DEFAULT_TOKENS

    def parts(self, world: World) -> Mapping[str, float]:
        """Bytes on one device by what takes them, with what `auto` takes there."""
        return self._parts(self.resolved(world), world)

    def total(self, world: World) -> float:
        """Bytes on one device."""
        return sum(self.parts(world).values())

    def least(self, world: World) -> float:
        """Bytes on one device with the fewest tokens that are worth a forward, and activations computed again."""
        return sum(self._parts(self._with(self._fewest_tokens(world), self._checkpointing()[-1]), world).values())

    def resolved(self, world: World) -> Settings:
        """The settings with a number of tokens, and with or without gradient checkpointing, where they say `auto`."""
        tokens = phase_of(self.settings, self.stage).settings.micro_batch_tokens
        room = None if self.memory is None else USABLE_MEMORY_SHARE * self.memory
        for checkpointing in self._checkpointing():
            most = self._most_tokens(world, room, checkpointing) if tokens == "auto" else tokens
            chosen = self._with(most, checkpointing)
            enough = min(ENOUGH_TOKENS, self._step_tokens(world), self.most_tokens) if tokens == "auto" else 0
            if room is None or (most >= enough and sum(self._parts(chosen, world).values()) <= room):
                break
        return chosen

    def _checkpointing(self) -> tuple[bool, ...]:
        wanted = self.settings.model.gradient_checkpointing
        return (False, True) if wanted == "auto" else (wanted,)

    def _step_tokens(self, world: World) -> int:
        phase, needs, _ = phase_of(self.settings, self.stage)
        return step_rows(phase, needs, world) * self.lengths.tokens

    def _fewest_tokens(self, world: World) -> int:
        tokens = phase_of(self.settings, self.stage).settings.micro_batch_tokens
        fewest = min(DEFAULT_TOKENS, self._step_tokens(world)) if tokens == "auto" else tokens
        return max(fewest, self.lengths.tokens)

    def _most_tokens(self, world: World, room: float | None, checkpointing: bool) -> int:
        """As many tokens as fit, the longest row at least."""
        low, high = self.lengths.tokens, max(self.lengths.tokens, min(self.most_tokens, self._step_tokens(world)))
        if room is None or phase_of(self.settings, self.stage).needs.depends_on_micro_batches:
            return max(self.lengths.tokens, DEFAULT_TOKENS)
        while low < high:
            middle = (low + high + 1) // 2
            if sum(self._parts(self._with(middle, checkpointing), world).values()) <= room:
                low = middle
            else:
                high = middle - 1
        return low

    def _with(self, tokens: int, checkpointing: bool) -> Settings:
        settings = with_phase(self.settings, self.stage, micro_batch_tokens=tokens)
        return replace(settings, model=replace(settings.model, gradient_checkpointing=checkpointing))

    def _parts(self, settings: Settings, world: World) -> Mapping[str, float]:
        return memory_estimate(
            settings, self.sizes, compute=self.compute, world=world, lengths=self.lengths, stage=self.stage
        )


def with_phase(settings: Settings, stage: str, **changed: Any) -> Settings:
    """The settings with others of a training stage."""
    name = "unlearn" if stage == "unlearn" else "train"  # attacks train as the target was trained
    phase = replace(getattr(settings.trainer, name), **changed)
    return replace(settings, trainer=replace(settings.trainer, **{name: phase}))
