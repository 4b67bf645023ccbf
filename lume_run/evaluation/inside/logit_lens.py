"""The logit lens (nostalgebraist, 2020): what each layer's output says of the right answer.

The output of every decoder layer at the positions that predict answer tokens goes through the model's own final norm
and head, in one forward over the answers under teacher forcing. A model that answers something else and still has the
right answer in a layer below hides it. The last layer's numbers are those of the model itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lume_run.common.records import Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.bootstrap import Measure, NamedMeasure, combine
from lume_run.evaluation.suites.base import Answers, mean_over
from lume_run.methods.needs import asked_rows

LENS_SPLITS = (Split.FORGET, Split.RETAIN)
LENS_METRICS = ("probability", "reciprocal_rank")
LAYER_SCORE = re.compile(r"logit_lens\.(\w+)\.layer_(\d+)\.(\w+)")  # a name: side, layer, metric


@dataclass(frozen=True, kw_only=True)
class LogitLens:
    """Probability and reciprocal rank of the right token by layer, over forget and over retain answers."""

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """A pass over every forget and retain answer that reads all layers."""
        rows = asked_rows(data, Split.FORGET, Split.RETAIN)
        return [Question(example=row, ask=Ask.LENS) for row in rows if has_answer(row.kind)]

    def scores(self, answers: Answers) -> list[Score]:
        """`logit_lens.<side>.<metric>` of the layer that has most of it, `logit_lens.<side>.layer_<number>.<metric>` of
        each, the first being 1."""
        scores = []
        for split in LENS_SPLITS:
            rows = answers.rows(Ask.LENS, split)
            for metric in LENS_METRICS:
                by_layer = layer_measures(rows, split, metric)
                name = f"logit_lens.{split}.{metric}"
                most = NamedMeasure(name=name, n=len(rows), make=lambda layers=by_layer: most_of(layers))  # type: ignore[misc]
                scores += [measure.score(answers.bootstrap) for measure in (most, *by_layer)]
        return scores


def has_answer(kind: Kind) -> bool:
    """Whether rows of a kind have an answer behind their prompt."""
    return kind is not Kind.DOCUMENT


def layer_measures(rows: Sequence[Response], split: Split, metric: str) -> list[NamedMeasure]:
    """The mean of a metric over rows, for each layer; one that says why there is none where there are no rows."""
    layers = max((len(row.layer_logps) for row in rows), default=0)

    def mean_at(layer: int) -> Measure:
        return mean_over(rows, lambda row: lens_value(row, metric, layer), f"{split} answers read by layer")

    return [
        NamedMeasure(
            name=f"logit_lens.{split}.layer_{layer + 1}.{metric}",
            n=len(rows),
            make=lambda layer=layer: mean_at(layer),  # type: ignore[misc]
        )
        for layer in range(layers)
    ] or [NamedMeasure(name=f"logit_lens.{split}.layer_1.{metric}", n=len(rows), make=lambda: mean_at(0))]


def lens_value(row: Response, metric: str, layer: int) -> float | None:
    """A row's number at a layer: exp of the mean log p of its tokens, or their mean reciprocal rank; None without."""
    numbers = row.layer_logps if metric == "probability" else row.layer_ranks
    if layer >= len(numbers):
        return None
    return math.exp(numbers[layer]) if metric == "probability" else numbers[layer]


def most_of(layers: Sequence[NamedMeasure]) -> Measure:
    """The largest of the layers' means, in every resample too."""
    return combine([layer.measure for layer in layers], max)
