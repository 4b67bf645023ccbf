"""HaluEval: does an answer contain hallucinated information, Yes or No? (Li et al., arXiv:2305.11747).

QA rows are {question, right_answer, hallucinated_answer, ...} as released; one of the two answers is shown, after the
authors' instruction with its worked examples. The authors pick it at random, here a hash of row and seed does, so that
every model is shown the same ones. The prompt is the one they give to completion models.

General rows are {user_query, chatgpt_response, hallucination: yes/no}, judged by people. The authors released neither
an instruction nor code for these, so the instruction (`GENERAL`, without examples) is ours. About four of five answers
are No.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.common.seeds import stable_digest
from lume_run.evaluation.datasets.files import read_jsonl_rows, read_text

YES, NO = "Yes", "No"  # hallucinated or not
QA_FIELDS = ("question", "right_answer", "hallucinated_answer")
GENERAL_FIELDS = ("user_query", "chatgpt_response", "hallucination")
INSTRUCTION = "qa_evaluation_instruction.txt"  # its name beside the released data
GENERAL = (
    "Below are a request and the response of an assistant to it. Judge whether the response states anything that is "
    "false or made up. Answer Yes if it does, and No if everything in it is right."
)


def load_qa(path: Path, *, instruction: Path | None = None, seed: int = 0, limit: int | None = None) -> list[Example]:
    """The first `limit` QA rows (None: all) as CHOICE examples between Yes and No.

    `instruction` is the authors' file, None: the one beside `path`. Raises DataError naming every bad line.
    """
    rows = read_jsonl_rows(path, QA_FIELDS, verdict_problems)
    file = instruction or path.parent / INSTRUCTION
    instructions = read_text(file, remedy="give evaluator.suites.halueval.instruction=FILE, or put it beside the data")
    examples = []
    for number, row in enumerate(rows[:limit]):
        hallucinated = is_hallucinated(number, row["question"], seed)
        answer = row["hallucinated_answer" if hallucinated else "right_answer"]
        prompt = f"{instructions}\n\n#Question#: {row['question']}\n#Answer#: {answer}\n#Your Judgement#:"
        examples.append(_yes_no_example("qa", number, prompt, YES if hallucinated else NO))
    return examples


def load_general(path: Path, *, limit: int | None = None) -> list[Example]:
    """The first `limit` general rows (None: all) as CHOICE examples between Yes and No; errors as `load_qa`."""
    examples = []
    for number, row in enumerate(read_jsonl_rows(path, GENERAL_FIELDS, verdict_problems)[:limit]):
        exchange = f"#Request#: {row['user_query']}\n#Response#: {row['chatgpt_response']}"
        answer = YES if row["hallucination"].strip().lower() == "yes" else NO
        examples.append(_yes_no_example("general", number, f"{GENERAL}\n\n{exchange}\n#Your Judgement#:", answer))
    return examples


def is_hallucinated(number: int, question: str, seed: int) -> bool:
    """Whether the row shows its hallucinated answer: true for half of all rows."""
    return stable_digest(seed, number, question)[0] % 2 == 1


def _yes_no_example(part: str, number: int, prompt: str, answer: str) -> Example:
    name = f"halueval-{part}-{number}"
    return Example(
        id=name,
        raw_id=str(number),
        document=name,
        split=Split.HALUEVAL,
        subtask=part,
        kind=Kind.CHOICE,
        prompt=prompt,
        answer=answer,
        choices=(YES, NO),
    )


def verdict_problems(row: dict[str, str], where: str) -> Iterator[Problem]:
    """Whether a row that has a verdict says yes or no."""
    verdict = row.get("hallucination", "no")
    if verdict.strip().lower() not in ("yes", "no"):
        what = f'field "hallucination" is "{verdict[:40]}"'
        yield Problem(where=where, what=what, remedy="write yes or no")
