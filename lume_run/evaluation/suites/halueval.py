"""HaluEval: whether a model recognises hallucinated answers (Li et al., arXiv:2305.11747).

`accuracy` is the authors': over all rows, a text from which no judgement can be read being wrong; `answered` is the
share from which one can. Texts are at most 16 tokens, as the completion models' were that the authors measured. A
model that was never taught to follow instructions seldom says Yes or No: `choice_accuracy` takes whichever of the two
is likelier as the next token. Guessing gives 0.5 on QA; always saying No gives the share of No on general requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.records import Ask, Example, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.datasets.halueval import load_general, load_qa
from lume_run.evaluation.metrics.answers import judgement, likeliest_choice
from lume_run.evaluation.suites.base import Answers, RowValue, problems_in

JUDGEMENT_TOKENS = 16  # longest judgement [tokens]
PARTS = ("qa", "general")


@dataclass(frozen=True, kw_only=True)
class HaluEval:
    """Accuracy of judging answers to questions, and responses to general requests (high is good)."""

    qa_path: str | None = setting(None, help="qa_data.json as released; null: not measured")
    general_path: str | None = setting(None, help="general_data.json as released; null: not measured")
    instruction: str | None = setting(
        None, help="the authors' QA instruction; null: qa_evaluation_instruction.txt beside qa_path"
    )
    limit: int | None = setting(None, low=1, help="first N rows of each file; null: all")
    seed: int = setting(0, low=0, help="decides which QA rows show their hallucinated answer")

    def examples(self) -> list[Example]:
        """The judgements to make; DataError where a file cannot be used."""
        examples: list[Example] = []
        if self.qa_path:
            instruction = Path(self.instruction) if self.instruction else None
            examples += load_qa(Path(self.qa_path), instruction=instruction, seed=self.seed, limit=self.limit)
        if self.general_path:
            examples += load_general(Path(self.general_path), limit=self.limit)
        return examples

    def check(self) -> list[Problem]:
        """Whether the files can be read, and whether a given instruction would be."""
        if self.instruction and not self.qa_path:
            where, what = "evaluator.suites.halueval.instruction", "has no effect without QA data"
            return [Problem(where=where, what=what, remedy="give evaluator.suites.halueval.qa_path=FILE, or drop it")]
        return problems_in(self.examples)

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """A short greedy text and the two options' log-probs for every row."""
        examples = self.examples()
        texts = [Question(example=example, ask=Ask.GENERATE, limit=JUDGEMENT_TOKENS) for example in examples]
        return texts + [Question(example=example, ask=Ask.CHOICE) for example in examples]

    def scores(self, answers: Answers) -> list[Score]:
        """`halueval.<part>.<accuracy|answered|choice_accuracy>` of the parts that were asked."""
        texts, choices = (answers.rows(ask, Split.HALUEVAL) for ask in (Ask.GENERATE, Ask.CHOICE))
        parts = [part for part in PARTS if any(row.subtask == part for row in (*texts, *choices))]
        if not parts:
            reason = "give evaluator.suites.halueval.qa_path=FILE, general_path=FILE or both"
            return [Score(name="halueval.qa.accuracy", value=None, n=0, reason=reason)]
        values: list[tuple[str, Sequence[Response], RowValue]] = [
            ("accuracy", texts, lambda row: None if row.output is None else judgement(row.output) == row.expected),
            ("answered", texts, lambda row: None if row.output is None else judgement(row.output) is not None),
            ("choice_accuracy", choices, lambda row: likeliest_choice(row) == row.expected),
        ]
        return [
            answers.mean(f"halueval.{part}.{name}", [row for row in rows if row.subtask == part], value, "judgements")
            for part in parts
            for name, rows, value in values
        ]
