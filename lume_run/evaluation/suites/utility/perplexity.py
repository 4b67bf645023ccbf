"""Perplexity of a plain text file: whether a model still writes (low is good).

The file is cut into pieces of whole paragraphs (datasets/plain_text.py), each scored on its own: a token is conditioned
on the tokens of its piece before it, and on nothing of the pieces before. The first token is not scored; where the
tokenizer begins a text with BOS that is BOS, otherwise it is the first of the text. No EOS is added. Tokens past the
model's longest row are left out. The number depends on the tokenizer and on the length of pieces: compare models that
share both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.records import Ask, Example, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.datasets.plain_text import load_texts
from lume_run.evaluation.metrics.bootstrap import Measure
from lume_run.evaluation.metrics.perplexity import perplexity_of
from lume_run.evaluation.suites.base import Answers, column_of, problems_in

REASON = "give evaluator.suites.perplexity.path=FILE"


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Perplexity of one text file."""

    path: str | None = setting(None, help="UTF-8 text file; null: not measured")
    limit: int | None = setting(None, low=1, help="first N pieces; null: all")
    words: int = setting(150, low=2, help="longest piece [words]")

    def examples(self) -> list[Example]:
        """The pieces; DataError where the file cannot be used."""
        return load_texts(Path(self.path), words=self.words, limit=self.limit) if self.path else []

    def check(self) -> list[Problem]:
        """Whether the file can be read."""
        return problems_in(self.examples)

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Log-probs of every piece."""
        return [Question(example=example, ask=Ask.LOGPROB) for example in self.examples()]

    def scores(self, answers: Answers) -> list[Score]:
        """`perplexity`."""
        rows = answers.rows(Ask.LOGPROB, Split.TEXT)
        return [answers.bootstrap.score("perplexity", len(rows), lambda: perplexity_of_rows(rows))]


def perplexity_of_rows(rows: list[Response]) -> Measure:
    """The perplexity of scored pieces; ValueError where there are none, or some have no finite numbers."""
    if not rows:
        raise ValueError(REASON)
    logps = column_of(rows, lambda row: row.logp_sum, "pieces")
    return perplexity_of(logps, column_of(rows, lambda row: row.tokens, "pieces"))
