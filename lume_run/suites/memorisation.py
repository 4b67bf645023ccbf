"""What a model still knows of its answers under teacher forcing, token by token: one scoring pass, three metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lume_run.metrics.memorisation import exact_memorisation, extraction_strength
from lume_run.records import Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.settings import Evaluator

SPLITS = (Split.FORGET, Split.RETAIN)
RowScore = Callable[[Response], float | None]


def row_probability(response: Response) -> float | None:
    """Length-normalised probability of the answer, EOS included: exp(log p / tokens); None where it is not finite."""
    if response.logp_sum is None or not response.tokens:
        return None
    return math.exp(response.logp_sum / response.tokens)


def answer_hits(response: Response) -> Sequence[bool]:
    """Whether each answer token was the likeliest, the closing EOS left out."""
    return response.hits[:-1] if response.closed else response.hits


METRICS: dict[str, RowScore] = {
    "probability": row_probability,
    "exact_memorisation": lambda response: exact_memorisation(answer_hits(response)),
    "extraction_strength": lambda response: extraction_strength(answer_hits(response)),
}


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Means over forget and over retain rows; on forget rows low is good, on retain rows high."""

    def asks(self, data: TaskData, evaluator: Evaluator) -> list[Question]:
        """Log-probs of every forget and retain answer."""
        return [Question(example=example, ask=Ask.LOGPROB) for example in (*data.forget, *data.retain)]

    def scores(self, responses: Sequence[Response], evaluator: Evaluator) -> list[Score]:
        """`<split>.<metric>`; rows without finite numbers make a score missing, never better."""
        return [self.score(responses, split, metric) for split in SPLITS for metric in METRICS]

    def score(self, responses: Sequence[Response], split: Split, metric: str) -> Score:
        """One metric of one split."""
        rows = [row for row in responses if row.ask is Ask.LOGPROB and row.split is split and is_answer(row)]
        values = [METRICS[metric](row) for row in rows]
        known = [value for value in values if value is not None]
        name = f"{split}.{metric}"
        if not rows:
            return Score(name=name, value=None, n=0, reason=f"no {split} answers were scored")
        if len(known) < len(rows):
            odd = len(rows) - len(known)
            return Score(name=name, value=None, n=len(rows), reason=f"{odd} of {len(rows)} rows have no finite numbers")
        return Score(name=name, value=statistics.fmean(known), n=len(rows))


def is_answer(row: Response) -> bool:
    """Whether it is an example's own answer, not a whole document or another answer in its place."""
    return row.kind is not Kind.DOCUMENT and not row.variant
