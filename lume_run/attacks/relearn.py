"""Relearning: fine-tune on what was to be forgotten, and see how soon it is back.

Forms: the whole forget set (open-unlearning, arXiv:2506.12618; UDS), half of its documents with the other half scored
(after RTT, Deeb and Roger, arXiv:2410.08827: what comes back without being shown was hidden, not gone), raw text (as
Unlearn-Smooth does on MUSE, arXiv:2502.05374). A model that never knew the forget set, trained alike, tells what was
taught anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from lume_run.attacks.base import Situation, Training, halve_documents
from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.model_settings import ModelSettings
from lume_run.evaluation.datasets.plain_text import load_texts, pieces
from lume_run.evaluation.suites.base import problems_in


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
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1 or self.steps[-1] > 10**6:
            raise ValueError(
                f"steps are {list(self.steps)}; give numbers from 1 to a million that rise (0 is always compared)"
            )
        rates = self.learning_rates
        if rates is not None and (
            not rates or len(set(rates)) < len(rates) or not all(0 < rate <= 1 for rate in rates)
        ):
            raise ValueError(f"learning_rates are {list(rates)}; give different numbers above 0 and at most 1")

    def trains_adapters(self, model: ModelSettings) -> bool:
        """Whether adapters are trained, and not all weights."""
        return model.lora.enabled if self.lora is None else self.lora

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
        adapters = self.trains_adapters(situation.model)
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
    path: str | None = setting(None, help="rows=text: a file with the forget texts, in place of the task's documents")
    words: int = setting(600, low=1, help="rows=text: longest piece of a text [words]; about 2,000 for 2,048 tokens")
    epochs: float | None = setting(
        None, low=0, open_low=True, high=10**5, help="passes over the rows, in place of steps"
    )
    optimization: Optimization = setting(factory=Optimization, help="steps, learning rates, batch; see Optimization")
    measures: ClassVar[str] = "relearning"

    def __post_init__(self) -> None:
        """Raises ValueError for a file that is not read."""
        if self.path is not None and self.rows != "text":
            raise ValueError(f"path has no effect with rows={self.rows}; rows=text reads it")

    def check(self) -> list[Problem]:
        """What keeps the file from being read."""
        return text_problems(self.path, self.words)

    def trainings(self, situation: Situation) -> list[Training]:
        """A training for each learning rate."""
        examples, held_out = self._rows(situation)
        return self.optimization.trainings(examples, situation, epochs=self.epochs, held_out=held_out)

    def _rows(self, situation: Situation) -> tuple[Sequence[Example], frozenset[str]]:
        """The rows to train on, and the documents held out; ConfigError where the task has none."""
        data = situation.data
        if self.rows == "text":
            texts = load_texts(Path(self.path), words=self.words) if self.path else text_pieces(data, self.words)
            if not texts:
                what = "the task has no raw text of its forget documents"
                remedy = "attack=relearn trains on its rows; or give the path of a text file"
                raise ConfigError([Problem(where="attack", what=what, remedy=remedy)])
            return texts, frozenset()
        if self.rows == "all":
            return data.forget, frozenset()
        shown, held_out = halve_documents(data.forget, situation.seed, "attack")
        return [example for example in data.forget if example.document in shown], held_out


def trains_adapters(attack: Any, model: ModelSettings) -> bool:
    """Whether an attack trains adapters at most; one that does not say so trains as the run does."""
    optimization = getattr(attack, "optimization", None)
    return optimization.trains_adapters(model) if isinstance(optimization, Optimization) else model.lora.enabled


def text_pieces(data: TaskData, words: int) -> list[Example]:
    """The forget documents of a task as raw text: as it cuts them, else in pieces of at most so many words."""
    if chunks := [row for row in data.forget if row.kind is Kind.CHUNK]:
        return chunks
    documents = [row for row in data.members if row.split is Split.MEMBER and row.kind is Kind.DOCUMENT]
    return [
        replace(row, id=f"{row.id}-{number}", answer=piece)
        for row in documents
        for number, piece in enumerate(pieces(row.answer, words))
    ]


def text_problems(path: str | None, words: int) -> list[Problem]:
    """What keeps a text file from being read; nothing where none is named."""
    return problems_in(lambda: load_texts(Path(path), words=words)) if path is not None else []


@dataclass(frozen=True, kw_only=True)
class Benign:
    """Fine-tune on what has nothing to do with the forget set: retain rows, or a text of the user's such as WikiText.

    Fine-tuning that means no harm undoes unlearning as well (arXiv:2510.07626, 250 steps).
    """

    path: str | None = setting(None, help="a text file to train on; null: the task's retain rows")
    words: int = setting(600, low=1, help="longest piece of the text [words]")
    optimization: Optimization = setting(factory=Optimization, help="steps, learning rates, batch; see Optimization")

    def check(self) -> list[Problem]:
        """What keeps the file from being read."""
        return text_problems(self.path, self.words)

    def trainings(self, situation: Situation) -> list[Training]:
        """A training for each learning rate; ConfigError for a task without retain rows and no file."""
        rows = load_texts(Path(self.path), words=self.words) if self.path else situation.data.retain
        if not rows:
            remedy = "attack.attacks.benign.path=FILE trains on a text"
            raise ConfigError([Problem(where="attack", what="the task has no rows to keep", remedy=remedy)])
        return self.optimization.trainings(rows, situation)
