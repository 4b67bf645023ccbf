"""Relearning: fine-tune on what was to be forgotten, and see how soon it is back.

Forms: the whole forget set (open-unlearning, arXiv:2506.12618; UDS), half of its documents with the other half scored
(after RTT, Deeb and Roger, arXiv:2410.08827: what comes back without being shown was hidden, not gone), raw text (as
Unlearn-Smooth does on MUSE, arXiv:2502.05374). A model that never knew the forget set, trained alike, tells what was
taught anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from lume_run.attacks.base import Situation, Training, halve_documents
from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How an attack that trains optimises: learning rates x steps, one training for each rate."""

    steps: tuple[int, ...] = setting((10, 25, 50, 100), help="optimizer steps after which the model is evaluated")
    learning_rates: tuple[float, ...] | None = setting(
        None, help="constant rates, a training each; null: trainer.train.learning_rate and twice that"
    )
    batch_size: int | None = setting(None, low=1, help="rows in an optimizer step; null: trainer.train.batch_size")
    lora: bool | None = setting(None, help="train adapters of model.lora's shape; null: as model.lora.enabled says")

    def __post_init__(self) -> None:
        """Raises ValueError for no steps, steps out of order, or rates outside of 0 to 1."""
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
            raise ValueError(f"steps are {list(self.steps)}; give numbers from 1 on that rise (0 is always compared)")
        rates = self.learning_rates
        if rates is not None and (
            not rates or len(set(rates)) < len(rates) or not all(0 < rate <= 1 for rate in rates)
        ):
            raise ValueError(f"learning_rates are {list(rates)}; give different numbers above 0 and at most 1")

    def trainings(
        self,
        examples: Sequence[Example],
        situation: Situation,
        *,
        epochs: float | None = None,
        held_out: frozenset[str] = frozenset(),
    ) -> list[Training]:
        """One training on these rows for each learning rate; `epochs` over them in place of `steps`."""
        train = situation.trainer.train
        batch = self.batch_size or train.batch_size
        steps = self.steps if epochs is None else (max(1, -(-round(len(examples) * epochs) // batch)),)
        adapters = situation.model.lora.enabled if self.lora is None else self.lora
        trainings = []
        for rate in self.learning_rates or (train.learning_rate, 2 * train.learning_rate):
            phase = situation.phase(rows=len(examples), steps=steps[-1], learning_rate=rate, batch_size=batch)
            series = f"lr={rate:g}"
            trainings.append(
                Training(
                    series=series,
                    examples=tuple(examples),
                    phase=phase if epochs is None else replace(phase, epochs=epochs),
                    steps=steps,
                    adapters=adapters,
                    held_out=held_out,
                )
            )
        return trainings


@dataclass(frozen=True, kw_only=True)
class Relearn:
    """Fine-tune on forget rows: all of them, those of half of the documents, or the documents' raw text."""

    rows: Literal["all", "half", "text"] = setting(
        "all", help="all forget rows; half: those of half of the documents, the others are scored; text: raw documents"
    )
    epochs: float | None = setting(None, low=0, open_low=True, help="passes over the rows, in place of steps")
    optimization: Optimization = setting(factory=Optimization, help="steps, learning rates, batch; see Optimization")
    measures: ClassVar[str] = "relearning"

    def trainings(self, situation: Situation) -> list[Training]:
        """A training for each learning rate."""
        examples, held_out = self._rows(situation)
        return self.optimization.trainings(examples, situation, epochs=self.epochs, held_out=held_out)

    def _rows(self, situation: Situation) -> tuple[Sequence[Example], frozenset[str]]:
        """The rows to train on, and the documents held out; ConfigError where the task has none."""
        data = situation.data
        if self.rows == "text":
            texts = [row for row in data.members if row.split is Split.MEMBER and row.kind is Kind.DOCUMENT]
            if not texts:
                what = "the task has no raw text of its forget documents"
                raise ConfigError([Problem(where="attack", what=what, remedy="attack=relearn trains on its rows")])
            return texts, frozenset()
        if self.rows == "all":
            return data.forget, frozenset()
        shown, held_out = halve_documents(data.forget, situation.seed, "attack")
        return [example for example in data.forget if example.document in shown], held_out
