"""What a model still knows of its answers under teacher forcing, token by token: one scoring pass, three metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lume_run.common.records import Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics import tofu
from lume_run.evaluation.metrics.memorisation import exact_memorisation, extraction_strength
from lume_run.evaluation.suites.base import Answers, RowValue
from lume_run.methods.needs import asked_rows

ANSWER_SPLITS = (Split.FORGET, Split.RETAIN)


def row_probability(response: Response) -> float | None:
    """Length-normalised probability of the answer, EOS included: exp(log p / tokens); None where it is not finite.

    ValueError for a log-probability above 0.
    """
    if response.logp_sum is None or response.tokens is None:
        return None
    return tofu.probability(response.logp_sum, response.tokens)


def answer_hits(response: Response) -> Sequence[bool]:
    """Whether each answer token was the likeliest, the closing EOS left out."""
    return response.hits[:-1] if response.closed else response.hits


METRICS: dict[str, RowValue] = {
    "probability": row_probability,
    "exact_memorisation": lambda response: exact_memorisation(answer_hits(response)),
    "extraction_strength": lambda response: extraction_strength(answer_hits(response)),
}


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Means over forget and over retain rows; on forget rows low is good, on retain rows high."""

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Log-probs of every forget and retain answer."""
        return [Question(example=example, ask=Ask.LOGPROB) for example in asked_rows(data, Split.FORGET, Split.RETAIN)]

    def scores(self, answers: Answers) -> list[Score]:
        """`<split>.<metric>`; rows without finite numbers make a score missing, never better."""
        scores = []
        for split in ANSWER_SPLITS:
            rows = [row for row in answers.rows(Ask.LOGPROB, split) if row.kind is not Kind.DOCUMENT]
            scores += [
                answers.mean(f"{split}.{name}", rows, value, f"scored {split} answers")
                for name, value in METRICS.items()
            ]
        return scores
