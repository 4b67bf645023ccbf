"""LUME / SemEval-2025 Task 4: regurgitation, knowledge, membership inference, MMLU and the official aggregate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lume_run.common.records import Ask, Example, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.datasets.mmlu import load_mmlu
from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.evaluation.metrics.bootstrap import Measure, combine
from lume_run.evaluation.metrics.semeval import TEXT_SPLITS, WORD, is_text_row, lume_scores, text_score
from lume_run.evaluation.suites.base import Answers, mean_over
from lume_run.methods.needs import asked_rows
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL


@dataclass(frozen=True, kw_only=True)
class Lume:
    """The score sheet of `metrics/semeval.py`."""

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Greedy texts of forget and retain prompts, log-probs of (non-)members, MMLU choices."""
        rows = [
            example for example in asked_rows(data, Split.FORGET, Split.RETAIN) if example.kind is not Kind.DOCUMENT
        ]
        questions = [Question(example=example, ask=Ask.GENERATE) for example in rows]
        if evaluator.membership:
            questions += [Question(example=example, ask=Ask.LOGPROB) for example in (*data.members, *data.nonmembers)]
        return questions + [Question(example=example, ask=Ask.CHOICE) for example in mmlu_examples(evaluator)]

    def scores(self, answers: Answers) -> list[Score]:
        """The whole sheet and, for tasks of other people's rows, `partial_aggregate`."""
        accuracy = answers.evaluator.mmlu.accuracy
        sheet = lume_scores(answers.responses, mmlu_accuracy=accuracy, bootstrap=answers.bootstrap)
        rows = [row for row in answers.responses if is_text_row(row)]
        if not rows or {row.subtask for row in rows} <= set(SUBTASK_OF_LABEL.values()):
            return sheet
        absent = set(WORD.values()) - {WORD[row.kind] for row in rows}  # such as completions, of questions alone
        sheet = [score for score in sheet if score.name.rpartition(".")[2] not in absent]
        return [*sheet, answers.bootstrap.score("partial_aggregate", len(rows), lambda: partial_aggregate(rows))]


def partial_aggregate(rows: Sequence[Response]) -> Measure:
    """The harmonic mean of the kinds of rows that there are: 1 - x of the forget side, x of the retain side.

    As `task_aggregate`, which wants completions and questions of both sides. ValueError without a retain side.
    """
    cells: dict[tuple[Split, Kind], list[Response]] = {}
    for row in rows:
        cells.setdefault((row.split, row.kind), []).append(row)
    sides = [split for split, _ in cells]
    if missing := [split for split in TEXT_SPLITS if split not in sides]:
        raise ValueError(f"no {' and no '.join(missing)} rows")
    measures = [mean_over(members, text_score) for members in cells.values()]

    def value(means: Sequence[float]) -> float:
        return harmonic_mean(
            [1 - mean if side is Split.FORGET else mean for side, mean in zip(sides, means, strict=True)]
        )

    return combine(measures, value)


def mmlu_examples(evaluator: EvaluatorSettings) -> list[Example]:
    """The MMLU questions of this evaluator; none without a source."""
    mmlu = evaluator.mmlu
    if not (mmlu.data_dir or mmlu.hub_id):
        return []
    return load_mmlu(
        data_dir=mmlu.data_dir, hub_id=mmlu.hub_id, limit=mmlu.limit, shots=mmlu.shots, as_pandas=evaluator.strict
    )
