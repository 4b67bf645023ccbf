"""NQ-Open: questions of Google users with short answers from Wikipedia (Lee et al., arXiv:1906.00300).

Rows are {question, answer: [text, ...]} as released, any of the answers being right. The prompt is that of
lm-evaluation-harness's task nq_open: a heading, then worked examples and the question as `Q: ...?` and `A: ...`.

Worked examples are the first rows of the file, the same for every question, so that no second file is needed; those
rows are not asked. Given the train split they are as in the literature: drawn from it anew for each question (Brown et
al., arXiv:2005.14165; the harness), by a hash of the question and a seed here, and every row of the file is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.common.seeds import stable_digest
from lume_run.evaluation.datasets.files import read_jsonl_rows
from lume_run.tasks.row_files import field_problems

HEADING = "Answer these questions:\n\n"


class OpenQuestion(NamedTuple):
    """A question and its accepted answers, at least one."""

    question: str
    answers: tuple[str, ...]


def load_nq_open(
    path: Path, *, shots: int, shots_path: Path | None = None, seed: int = 0, limit: int | None = None
) -> list[Example]:
    """The first `limit` questions (None: all), `choices` being the accepted answers.

    Worked examples are of `shots_path`, None: the first `shots` rows, which are not asked then. Raises DataError naming
    every bad line, or where there are too few rows.
    """
    questions = _read_questions(path)
    first = 0 if shots_path else shots
    if len(questions) <= first:
        what = f"{len(questions)} rows, all of them taken by the {shots} worked examples"
        raise DataError([Problem(where=str(path), what=what, remedy="give a longer file or fewer shots")])
    pool = _read_questions(shots_path) if shots_path else questions[:shots]
    asked = {question.question for question in questions} if shots_path else set()
    shared = Counter(row.question for row in pool if row.question in asked)
    if (rows := len(pool) - max(shared.values(), default=0)) < shots:
        what = f"{rows} rows, fewer than the {shots} worked examples"
        raise DataError([Problem(where=str(shots_path), what=what, remedy="give a longer file or fewer shots")])
    return [
        Example(
            id=f"nq-open-{number}",
            raw_id=str(number),
            document=f"nq-open-{number}",
            split=Split.NQ_OPEN,
            subtask="nq_open",
            kind=Kind.QUESTION,
            prompt=HEADING + _worked(_draw(pool, shots, question, seed) if shots_path else pool) + _text(question),
            answer=question.answers[0],
            choices=question.answers,
        )
        for number, question in list(enumerate(questions))[first:][:limit]
    ]


def _read_questions(path: Path) -> list[OpenQuestion]:
    rows = read_jsonl_rows(path, ("question",), answer_problems)
    return [OpenQuestion(row["question"], tuple(row["answer"])) for row in rows]


def _draw(pool: Sequence[OpenQuestion], shots: int, question: OpenQuestion, seed: int) -> list[OpenQuestion]:
    """Rows of the pool, none of them the question itself."""
    random = Random(stable_digest(seed, question.question))
    rows = random.sample(pool, shots)
    if question.question in (row.question for row in rows):
        rows = random.sample([row for row in pool if row.question != question.question], shots)
    return rows


def _worked(examples: Sequence[OpenQuestion]) -> str:
    return "".join(f"{_text(example)} {example.answers[0]}\n" for example in examples)


def _text(question: OpenQuestion) -> str:
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
    else:
        named = {f"answer[{number}]": answer for number, answer in enumerate(answers)}
        yield from field_problems(named, where, tuple(named))
