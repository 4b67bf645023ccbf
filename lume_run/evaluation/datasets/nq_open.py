"""NQ-Open: questions of Google users with short answers from Wikipedia (Lee et al., arXiv:1906.00300).

Rows are {question, answer: [text, ...]} as released, any of the answers being right. The prompt is that of
lm-evaluation-harness's task nq_open: a heading, then worked examples and the question as `Q: ...?` and `A: ...`. Worked
examples are the first rows of the file, so that no second file is needed, and those rows are not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.evaluation.datasets.files import read_jsonl_rows

HEADING = "Answer these questions:\n\n"


class OpenQuestion(NamedTuple):
    """A question and its accepted answers, at least one."""

    question: str
    answers: tuple[str, ...]


def load_nq_open(path: Path, *, shots: int, limit: int | None = None) -> list[Example]:
    """The `limit` questions (None: all) after the first `shots` rows, `choices` being the accepted answers.

    Raises DataError naming every bad line, or where no question is left to ask.
    """
    rows = read_jsonl_rows(path, ("question",), answer_problems)
    questions = [OpenQuestion(row["question"], tuple(row["answer"])) for row in rows]
    if len(questions) <= shots:
        what = f"{len(questions)} rows, all of them taken by the {shots} worked examples"
        raise DataError([Problem(where=str(path), what=what, remedy="give a longer file or fewer shots")])
    head = HEADING + "".join(f"{question_text(question)} {question.answers[0]}\n" for question in questions[:shots])
    return [
        Example(
            id=f"nq-open-{number}",
            raw_id=str(number),
            document=f"nq-open-{number}",
            split=Split.NQ_OPEN,
            subtask="nq_open",
            kind=Kind.QUESTION,
            prompt=head + question_text(question),
            answer=question.answers[0],
            choices=question.answers,
        )
        for number, question in list(enumerate(questions))[shots:][:limit]
    ]


def question_text(question: OpenQuestion) -> str:
    """The question as it is put; released ones have no question mark."""
    return f"Q: {question.question.rstrip(' ?')}?\nA:"


def answer_problems(row: dict[str, Any], where: str) -> Iterator[Problem]:
    """What keeps a row from having a list of accepted answers."""
    answers = row.get("answer")
    if not isinstance(answers, Sequence) or isinstance(answers, str) or not answers:
        what = 'field "answer" is not a list of accepted answers'
        yield Problem(where=where, what=what, remedy='write "answer": ["...", "..."]')
    elif not all(isinstance(answer, str) and answer.strip() for answer in answers):
        what = 'field "answer" holds something that is blank or not text'
        yield Problem(where=where, what=what, remedy="complete the answer or delete it")
