"""LUME / SemEval-2025 Task 4: regurgitation, knowledge, membership inference, MMLU and the official aggregate."""

from __future__ import annotations

from dataclasses import dataclass

from lume_run.common.records import Ask, Example, Question, Score, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.datasets.mmlu import load_mmlu
from lume_run.evaluation.metrics.semeval import lume_scores
from lume_run.evaluation.suites.base import Answers


@dataclass(frozen=True, kw_only=True)
class Lume:
    """The score sheet of `metrics/semeval.py`."""

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Greedy texts of forget and retain prompts, log-probs of (non-)members, MMLU choices."""
        questions = [Question(example=example, ask=Ask.GENERATE) for example in (*data.forget, *data.retain)]
        if evaluator.membership:
            questions += [Question(example=example, ask=Ask.LOGPROB) for example in (*data.members, *data.nonmembers)]
        return questions + [Question(example=example, ask=Ask.CHOICE) for example in mmlu_examples(evaluator)]

    def scores(self, answers: Answers) -> list[Score]:
        """The whole sheet."""
        accuracy = answers.evaluator.mmlu.accuracy
        return lume_scores(answers.responses, mmlu_accuracy=accuracy, bootstrap=answers.bootstrap)


def mmlu_examples(evaluator: EvaluatorSettings) -> list[Example]:
    """The MMLU questions of this evaluator; none without a source."""
    mmlu = evaluator.mmlu
    if not (mmlu.data_dir or mmlu.hub_id):
        return []
    return load_mmlu(
        data_dir=mmlu.data_dir, hub_id=mmlu.hub_id, limit=mmlu.limit, shots=mmlu.shots, as_pandas=evaluator.strict
    )
