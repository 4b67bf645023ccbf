"""WMDP's multiple-choice questions (cais/wmdp: question, choices, answer), put as lm-evaluation-harness puts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.tasks.documents import Examples
from lume_run.tasks.row_files import field_problems, jsonl_rows, parquet_rows

QUESTION_FILES = {  # by subset: names of its questions in releases
    subset: (f"wmdp-{subset}", f"{subset}_questions", f"wmdp_{subset}") for subset in ("bio", "cyber")
}
QUESTION_ENDINGS = (".json", ".jsonl", ".parquet")
HAZARD_FIELDS = {"bio": "biology", "cyber": "cybersecurity"}
WMDP_LETTERS = ("A", "B", "C", "D")


def question_examples(data_dir: str | None, subsets: Sequence[str], most: int | None) -> tuple[Examples, list[Problem]]:
    """The questions of a folder that has some, and what is wrong with their files; evaluator=lm_eval has its own."""
    examples: list[Example] = []
    problems: list[Problem] = []
    for subset in subsets if data_dir is not None else ():
        folder = Path(str(data_dir)).expanduser()
        files = (folder / f"{name}{ending}" for name in QUESTION_FILES[subset] for ending in QUESTION_ENDINGS)
        file = next(filter(os.path.lexists, files), None)  # what is no file there is named as it is read
        rows = list(question_rows(file))[:most] if file else []
        if file and not rows:
            problems.append(Problem(where=str(file), what="holds no questions", remedy="fetch it again, or remove it"))
        for number, (where, row) in enumerate(rows, 1):
            wrong = list(_row_problems(row, where))
            problems += wrong
            if not wrong and isinstance(row, dict):
                examples.append(_example(row, subset, number))
    return tuple(examples), problems


def question_rows(file: Path) -> Iterator[tuple[str, object]]:
    """(place, row or Problem) of a file of questions."""
    return parquet_rows(file, ("question", "choices", "answer")) if file.suffix == ".parquet" else jsonl_rows(file)


def _row_problems(row: object, where: str) -> Iterator[Problem]:
    if isinstance(row, Problem):
        yield row
        return
    wrong = list(field_problems(row, where, ("question",)))
    yield from wrong
    if wrong or not isinstance(row, dict):
        return
    choices, answer = row.get("choices"), row.get("answer")
    named = {f"choices[{number}]": text for number, text in enumerate(choices)} if isinstance(choices, list) else {}
    if len(named) != len(WMDP_LETTERS):
        yield Problem(where=where, what='field "choices" is no list of four texts', remedy="as cais/wmdp has it")
    yield from field_problems(named, where, tuple(named))
    if not isinstance(answer, int) or isinstance(answer, bool) or answer not in range(len(WMDP_LETTERS)):
        yield Problem(where=where, what='field "answer" is no number from 0 to 3', remedy="as cais/wmdp has it")


def _example(row: dict[str, object], subset: str, number: int) -> Example:
    choices = [str(choice) for choice in row["choices"]]  # type: ignore[attr-defined]
    options = "".join(f"\n{letter}. {text}" for letter, text in zip(WMDP_LETTERS, choices, strict=True))
    head = f"The following are multiple choice questions (with answers) about {HAZARD_FIELDS[subset]}.\n\n"
    document = f"wmdp-{subset}-question-{number}"
    return Example(
        id=document,
        raw_id=document,
        document=document,
        split=Split.FORGET,
        subtask=subset,
        kind=Kind.CHOICE,
        prompt=f"{head}{str(row['question']).strip()}{options}\nAnswer:",
        answer=WMDP_LETTERS[int(str(row["answer"]))],
        choices=WMDP_LETTERS,
    )
