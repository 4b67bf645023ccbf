"""NQ-Open: what a model knows of the world without looking it up (Lee et al., arXiv:1906.00300).

Prompts (datasets/nq_open.py) hold a few worked examples; the first line of the greedy continuation is the answer. The
task of that name in lm-evaluation-harness has the same prompt, but ends an answer at a full stop or a comma as well and
compares by other patterns: numbers differ a little. The 5-shot setting of the literature is `shots=5` with the train
split as `shots_path`: all 3,610 questions of the dev split, worked examples drawn for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.records import Ask, Example, Question, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.datasets.nq_open import load_nq_open
from lume_run.evaluation.metrics.answers import normalised_match
from lume_run.evaluation.suites.base import Answers, problems_in

ANSWER_TOKENS = 32  # longest answer [tokens]


@dataclass(frozen=True, kw_only=True)
class NqOpen:
    """Share of questions answered with an accepted answer (high is good)."""

    path: str | None = setting(None, help="NQ-open.*.jsonl as released; null: not measured")
    limit: int | None = setting(None, low=1, help="first N questions; null: all")
    shots: int = setting(5, low=0, high=64, help="worked examples before each question")
    shots_path: str | None = setting(
        None, help="NQ-open.train.jsonl: draws worked examples from it; null: the first rows of path, not asked then"
    )
    seed: int = setting(0, low=0, help="decides what is drawn from shots_path")

    def examples(self) -> list[Example]:
        """The questions; DataError where a file cannot be used."""
        if not self.path:
            return []
        pool = Path(self.shots_path) if self.shots_path else None
        return load_nq_open(Path(self.path), shots=self.shots, shots_path=pool, seed=self.seed, limit=self.limit)

    def check(self) -> list[Problem]:
        """Whether the files can be read."""
        if self.shots_path and not self.path:
            where, what = "evaluator.suites.nq_open.shots_path", "has no effect without questions"
            return [Problem(where=where, what=what, remedy="give evaluator.suites.nq_open.path=FILE, or drop it")]
        return problems_in(self.examples)

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Short greedy answers to every question."""
        return [Question(example=example, ask=Ask.GENERATE, limit=ANSWER_TOKENS) for example in self.examples()]

    def scores(self, answers: Answers) -> list[Score]:
        """`nq_open.exact_match`."""
        name, rows = "nq_open.exact_match", answers.rows(Ask.GENERATE, Split.NQ_OPEN)
        if not rows:
            return [Score(name=name, value=None, n=0, reason="give evaluator.suites.nq_open.path=FILE")]
        return [
            answers.mean(
                name,
                rows,
                lambda row: None if row.output is None else normalised_match(row.output, row.choices),
                "answers",
            )
        ]
