"""MMLU (Hendrycks et al., arXiv:2009.03300): 57 subjects, four options, worked examples before each question.

Read from `dev/<subject>_dev.csv` and `test/<subject>_test.csv` (headerless: question, four options, letter),
or from a hub data set with the columns question, choices, answer, subject. The prompt is the authors'
own, their double space before the subject included.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lume_run.common.errors import DataError, Problem, RunError
from lume_run.common.records import Example, Kind, Split

LETTERS = ("A", "B", "C", "D")
MmluRow = tuple[str, tuple[str, ...], str]  # question, options, letter


def load_mmlu(*, data_dir: str | None, hub_id: str | None, limit: int | None, shots: int) -> list[Example]:
    """Every question (the first `limit` of each subject) as a CHOICE example.

    Raises DataError naming each bad line, RunError when the hub data set cannot be had.
    """
    subjects = _from_folder(Path(data_dir)) if data_dir else _from_hub(str(hub_id))
    examples = []
    for subject, (dev, test) in subjects.items():
        head = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"
        worked = [_question_text(row) + f" {row[2]}\n\n" for row in dev[:shots]]
        for number, row in enumerate(test[:limit]):
            name = f"mmlu-{subject}-{number}"
            examples.append(
                Example(
                    id=name,
                    raw_id=name,
                    document=name,
                    split=Split.MMLU,
                    subtask=subject,
                    kind=Kind.CHOICE,
                    prompt=head + "".join(worked) + _question_text(row),
                    answer=row[2],
                    choices=LETTERS,
                )
            )
    return examples


def _question_text(row: MmluRow) -> str:
    question, options, _ = row
    return (
        question
        + "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
        + "\nAnswer:"
    )


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


def _from_folder(folder: Path) -> dict[str, tuple[list[MmluRow], list[MmluRow]]]:
    problems: list[Problem] = []
    found = {}
    for path in sorted(folder.glob("test/*_test.csv")):
        subject = path.name.removesuffix("_test.csv")
        dev = folder / "dev" / f"{subject}_dev.csv"
        if not dev.exists():
            problems.append(Problem(where=str(dev), what="missing", remedy="every test file needs its dev file"))
            continue
        found[subject] = (_read_csv(dev, problems), _read_csv(path, problems))
    if problems:
        raise DataError(problems)
    if not found:
        raise DataError(check_folder(folder))
    return found


def _read_csv(path: Path, problems: list[Problem]) -> list[MmluRow]:
    rows: list[MmluRow] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        for fields in reader:
            if len(fields) == 6 and fields[5].strip() in LETTERS:
                rows.append((fields[0], tuple(fields[1:5]), fields[5].strip()))
            else:
                what = f"{len(fields)} columns, or an answer that is not one of A B C D"
                problems.append(Problem(where=f"{path}:{reader.line_num}", what=what, remedy="question,A,B,C,D,letter"))
    return rows


def _from_hub(hub_id: str) -> dict[str, tuple[list[MmluRow], list[MmluRow]]]:
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
    subjects: dict[str, tuple[list[MmluRow], list[MmluRow]]] = {}
    for index, part in enumerate(("dev", "test")):
        rows: Sequence[dict[str, Any]] = parts[part]
        for row in rows:
            pair = subjects.setdefault(row["subject"], ([], []))
            pair[index].append((row["question"], tuple(row["choices"]), LETTERS[int(row["answer"])]))
    return dict(sorted(subjects.items()))
