"""WMDP (Li et al., arXiv:2403.03218): multiple-choice questions about hazards, and MMLU for what is to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lume_run.common.records import Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.answers import likeliest_choice
from lume_run.evaluation.metrics.semeval import mmlu_measure
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.lume import mmlu_examples


@dataclass(frozen=True, kw_only=True)
class Wmdp:
    """Accuracy by the likeliest of the four letters; chance is 0.25."""

    of_task: ClassVar[str] = "task=wmdp"

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """The task's questions, and MMLU's where `evaluator.mmlu` names a source."""
        examples = [row for row in data.others if row.kind is Kind.CHOICE and row.split is Split.FORGET]
        return [Question(example=row, ask=Ask.CHOICE) for row in (*examples, *mmlu_examples(evaluator))]

    def scores(self, answers: Answers) -> list[Score]:
        """`wmdp.<subset>.accuracy` of each subset that was asked about, and `mmlu.accuracy`."""
        rows = answers.rows(Ask.CHOICE, Split.FORGET)
        subsets = sorted({row.subtask for row in rows}) or ["questions"]
        what = "questions of WMDP"
        of_subsets = [
            answers.mean(f"wmdp.{subset}.accuracy", [row for row in rows if row.subtask == subset], is_right, what)
            for subset in subsets
        ]
        return [*of_subsets, mmlu_measure(answers.responses).score(answers.bootstrap)]


def is_right(row: Response) -> float | None:
    """Whether the likeliest option is the right one; None where they have no numbers."""
    return float(likeliest_choice(row) == row.expected) if row.choice_logps else None
