"""HaluEval: whether a model recognises hallucinated texts (Li et al., arXiv:2305.11747).

`accuracy` is the authors': over all rows, a text from which no judgement can be read being wrong; `answered` is the
share from which one can. Texts are at most 16 tokens, as the completion models' were that the authors measured. A
model that was never taught to follow instructions seldom says Yes or No: `choice_accuracy` takes whichever of the two
X saying No gives the share of No on general requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Ask, Example, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.datasets.halueval import PARTS, load_general, load_part
from lume_run.evaluation.metrics.answers import judgement, likeliest_choice
from lume_run.evaluation.suites.base import Answers, RowValue, problems_in

JUDGEMENT_TOKENS = 16  # longest judgement [tokens]
NAMES = (*(part.name for part in PARTS), "general")
HALUEVAL_SETTINGS = "evaluator.suites.halueval"


@dataclass(frozen=True, kw_only=True)
class HaluEval:
    """Accuracy of judging answers, turns of a dialogue, summaries, and responses to general requests (high is good)."""

    qa_path: str | None = setting(None, help="qa_data.json as released; null: not measured")
    dialogue_path: str | None = setting(None, help="dialogue_data.json as released; null: not measured")
    summarization_path: str | None = setting(None, help="summarization_data.json as released; null: not measured")
    general_path: str | None = setting(None, help="general_data.json as released; null: not measured")
    instruction: str | None = setting(
        None, help="the authors' QA instruction; null: qa_evaluation_instruction.txt beside qa_path"
    )
    dialogue_instruction: str | None = setting(None, help="the same for dialogue; null: beside dialogue_path")
    summarization_instruction: str | None = setting(
        None, help="the same for summarization; null: beside summarization_path"
    )
    limit: int | None = setting(None, low=1, help="first N rows of each file; null: all")
    seed: int = setting(0, low=0, help="decides which rows show their hallucinated text")

    def examples(self) -> list[Example]:
        """The judgements to make; DataError naming everything that keeps a file from being used."""
        examples: list[Example] = []
        problems: list[Problem] = []
        for load in self.loads():
            try:
                examples += load()
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(problems)
        return examples

    def loads(self) -> Iterator[Callable[[], list[Example]]]:
        """What loads the examples of each part that has a file."""
        for part in PARTS:
            path, instruction = getattr(self, f"{part.name}_path"), getattr(self, part.setting)
            if path:
                file = Path(instruction) if instruction else None
                yield partial(load_part, part, Path(path), instruction=file, seed=self.seed, limit=self.limit)
        if self.general_path:
            yield partial(load_general, Path(self.general_path), limit=self.limit)

    def check(self) -> list[Problem]:
        """Whether the files can be read, and whether a given instruction would be."""
        idle = [
            Problem(
                where=f"{HALUEVAL_SETTINGS}.{part.setting}",
                what=f"has no effect without {part.name} data",
                remedy=f"give {HALUEVAL_SETTINGS}.{part.name}_path=FILE, or drop it",
            )
            for part in PARTS
            if getattr(self, part.setting) and not getattr(self, f"{part.name}_path")
        ]
        return idle + problems_in(self.examples)

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """A short greedy text and the two options' log-probs for every row."""
        examples = self.examples()
        texts = [Question(example=example, ask=Ask.GENERATE, limit=JUDGEMENT_TOKENS) for example in examples]
        return texts + [Question(example=example, ask=Ask.CHOICE) for example in examples]

    def scores(self, answers: Answers) -> list[Score]:
        """`halueval.<part>.<accuracy|answered|choice_accuracy>` of the parts that were asked."""
        texts, choices = (answers.rows(ask, Split.HALUEVAL) for ask in (Ask.GENERATE, Ask.CHOICE))
        parts = [part for part in NAMES if any(row.subtask == part for row in (*texts, *choices))]
        if not parts:
            reason = (
                f"give {HALUEVAL_SETTINGS}.qa_path=FILE, dialogue_path=, summarization_path=, general_path= or several"
            )
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
