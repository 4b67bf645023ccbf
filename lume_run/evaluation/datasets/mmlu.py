"""MMLU (Hendrycks et al., arXiv:2009.03300): 57 subjects, four options, worked examples before each question.

Read from `dev/<subject>_dev.csv` and `test/<subject>_test.csv` (headerless: question, four options, letter),
or from a hub data set with the columns question, choices, answer, subject. The prompt is the authors'
own, their double space before the subject included.
"""

from __future__ import annotations

import csv
import io
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from lume_run.common.errors import DataError, Problem, RunError
from lume_run.common.records import Example, Kind, Split
from lume_run.common.text_files import read_utf8

LETTERS = ("A", "B", "C", "D")


class MmluQuestion(NamedTuple):
    """A question, its four options, and the letter of the right one."""

    question: str
    options: tuple[str, ...]
    letter: str


class SubjectQuestions(NamedTuple):
    """The questions of one subject: worked examples come from `dev`, the model is asked those of `test`."""

    dev: list[MmluQuestion]
    test: list[MmluQuestion]


def load_mmlu(
    *, data_dir: str | None, hub_id: str | None, limit: int | None, shots: int, as_pandas: bool = False
) -> list[Example]:
    """Every question (the first `limit` of each subject) as a CHOICE example.

    `as_pandas` takes the cells of a folder's files for what pandas makes of them, as the official run does: an option
    "None" becomes nan. Raises DataError naming each bad line, RunError when the hub data set is unavailable.
    """
    subjects = _from_folder(Path(data_dir), as_pandas=as_pandas) if data_dir else _from_hub(str(hub_id))
    examples = []
    for name, subject in subjects.items():
        head = f"The following are multiple choice questions (with answers) about  {name.replace('_', ' ')}.\n\n"
        parts = [f"{_question_text(question)} {question.letter}\n\n" for question in subject.dev[:shots]]
        places = tuple(accumulate(map(len, parts), initial=len(head)))
        for number, question in enumerate(subject.test[:limit]):
            example_id = f"mmlu-{name}-{number}"
            examples.append(
                Example(
                    id=example_id,
                    raw_id=example_id,
                    document=example_id,
                    split=Split.MMLU,
                    subtask=name,
                    kind=Kind.CHOICE,
                    prompt=head + "".join(parts) + _question_text(question),
                    answer=question.letter,
                    choices=LETTERS,
                    shots=places,
                )
            )
    return examples


def _question_text(question: MmluQuestion) -> str:
    options = zip(LETTERS, question.options, strict=True)
    return question.question + "".join(f"\n{letter}. {option}" for letter, option in options) + "\nAnswer:"


def check_folder(folder: Path) -> list[Problem]:
    """Whether the folder looks like MMLU, without reading it."""
    if sorted(folder.glob("test/*_test.csv")):
        return []
    return [
        Problem(
            where="evaluator.mmlu.data_dir",
            what=f"no test/*_test.csv in {folder}",
            remedy="give the folder that holds dev/ and test/ of the released CSV files",
        )
    ]


def _from_folder(folder: Path, *, as_pandas: bool) -> dict[str, SubjectQuestions]:
    problems: list[Problem] = []
    subjects = {}
    for path in sorted(folder.glob("test/*_test.csv")):
        name = path.name.removesuffix("_test.csv")
        dev = folder / "dev" / f"{name}_dev.csv"
        if not dev.exists():
            problems.append(Problem(where=str(dev), what="missing", remedy="every test file needs its dev file"))
            continue
        examples, questions = (_read_csv(file, problems) for file in (dev, path))
        if as_pandas and not problems:
            examples, questions = (_read_with_pandas(file) for file in (dev, path))
        subjects[name] = SubjectQuestions(dev=examples, test=questions)
    if problems:
        raise DataError(problems)
    if not subjects:
        raise DataError(check_folder(folder))
    return subjects


def _read_csv(path: Path, problems: list[Problem]) -> list[MmluQuestion]:
    """The questions of a file; what is wrong with its lines is added to `problems`."""
    questions: list[MmluQuestion] = []
    try:
        reader = csv.reader(io.StringIO(read_utf8(path, remedy="fetch it again"), newline=""))
    except DataError as error:
        problems += error.problems
        return questions
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:  # a field without end
            problems.append(Problem(where=f"{path}:{reader.line_num}", what=str(error), remedy="fetch it again"))
            return questions
        if fields is None:
            break
        if len(fields) == 6 and fields[5].strip() in LETTERS:
            questions.append(MmluQuestion(fields[0], tuple(fields[1:5]), fields[5].strip()))
        else:
            what = f"{len(fields)} columns, or an answer that is not one of A B C D"
            problems.append(Problem(where=f"{path}:{reader.line_num}", what=what, remedy="question,A,B,C,D,letter"))
    if not reader.line_num:
        problems.append(Problem(where=str(path), what="holds no questions", remedy="fetch it again"))
    return questions


def _read_with_pandas(path: Path) -> list[MmluQuestion]:
    """The questions of a sound file, with each cell as the text of what pandas takes it for."""
    import pandas

    rows = pandas.read_csv(path, header=None).to_numpy()
    return [MmluQuestion(str(row[0]), tuple(map(str, row[1:5])), str(row[5])) for row in rows]


def _from_hub(hub_id: str) -> dict[str, SubjectQuestions]:
    from datasets import load_dataset

    try:
        data: Any = load_dataset(hub_id, "all")
        parts = {part: data[part] for part in ("dev", "test")}
    except Exception as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise RunError(
            f"The MMLU data set '{hub_id}' could not be loaded: {reason}\n"
            "  - gated or private: set HF_TOKEN; cached elsewhere: set HF_HOME\n"
            "  - no internet here: evaluator.mmlu.data_dir=FOLDER with the released CSV files"
        ) from error
    subjects: dict[str, SubjectQuestions] = {}
    for part, rows in parts.items():
        for row in rows:
            subject = subjects.setdefault(row["subject"], SubjectQuestions(dev=[], test=[]))
            question = MmluQuestion(row["question"], tuple(row["choices"]), LETTERS[int(row["answer"])])
            (subject.dev if part == "dev" else subject.test).append(question)
    return dict(sorted(subjects.items()))
