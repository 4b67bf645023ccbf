"""NQ-Open: questions of Google users with short answers from Wikipedia (Lee et al., arXiv:1906.00300).

Rows are {question, answer: [text, ...]} as released, any of the answers being right. The prompt is that of
lm-evaluation-harness's task nq_open: a heading, then worked examples and the question as `Q: ...?` and `A: ...`. Worked
examples are the first rows of the file, so that no second file is needed, and those rows are not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.evaluation.datasets.plain_text import require_file
from lume_run.tasks.readers import field_problems, jsonl_rows, refuse

HEADING = "Answer these questions:\n\n"


class OpenQuestion(NamedTuple):
    """A question and its accepted answers, at least one."""

    question: str
    answers: tuple[str, ...]


def load_nq_open(path: Path, *, shots: int, limit: int | None = None) -> list[Example]:
    """The `limit` questions (None: all) after the first `shots` rows, `choices` being the accepted answers.

    Raises DataError naming every bad line, or where no question is left to ask.
    """
    rows = read_questions(path)
    if len(rows) <= shots:
        what = f"{len(rows)} rows, all of them taken by the {shots} worked examples"
        raise DataError([Problem(where=str(path), what=what, remedy="give a longer file or fewer shots")])
    head = HEADING + "".join(f"{question_text(row)} {row.answers[0]}\n" for row in rows[:shots])
    chosen = list(enumerate(rows))[shots:]
    return [
        Example(
            id=f"nq-open-{number}",
            raw_id=str(number),
            document=f"nq-open-{number}",
            split=Split.NQ_OPEN,
            subtask="nq_open",
            kind=Kind.QUESTION,
            prompt=head + question_text(row),
            answer=row.answers[0],
            choices=row.answers,
        )
        for number, row in chosen[:limit]
    ]


def question_text(row: OpenQuestion) -> str:
    """The question as it is put; released ones have no question mark."""
    return f"Q: {row.question.rstrip(' ?')}?\nA:"


def read_questions(path: Path) -> list[OpenQuestion]:
    """Every row of the file; DataError naming every bad line."""
    require_file(path)
    rows: list[OpenQuestion] = []
    problems: list[Problem] = []
    for where, row in jsonl_rows(path):
        found = [row] if isinstance(row, Problem) else [*field_problems(row, where, ("question",))]
        if not found and isinstance(row, dict):
            found = list(answer_problems(row.get("answer"), where))
        problems += found
        if not found and isinstance(row, dict):
            rows.append(OpenQuestion(row["question"], tuple(row["answer"])))
    if problems:
        refuse(problems)
    if not rows:
        raise DataError([Problem(where=str(path), what="the file has no rows", remedy="fetch it again")])
    return rows


def answer_problems(answers: object, where: str) -> Iterator[Problem]:
    """What keeps a field from being a list of accepted answers."""
    if not isinstance(answers, Sequence) or isinstance(answers, str) or not answers:
        what = 'field "answer" is not a list of accepted answers'
        yield Problem(where=where, what=what, remedy='write "answer": ["...", "..."]')
    elif not all(isinstance(answer, str) and answer.strip() for answer in answers):
        what = 'field "answer" holds something that is blank or not text'
        yield Problem(where=where, what=what, remedy="complete the answer or delete it")
