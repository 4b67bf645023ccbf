"""HaluEval: does a text contain hallucinated information, Yes or No? (Li et al., arXiv:2305.11747).

Rows of the three parts QA, dialogue and summarization hold a right text and a hallucinated one, as released; one of the
two is shown, after the authors' instruction with its worked examples. The authors pick it at random, here a hash of row
and seed does, so that every model is shown the same ones. The prompt is the one they give to completion models; for one
of those (davinci) they cut documents to 2,033 tokens, here none is cut. Their prompts leave out the field `knowledge`.

General rows are {user_query, chatgpt_response, hallucination: yes/no}, judged by people. The authors released neither
an instruction nor code for these, so the instruction (`GENERAL`, without examples) is ours. About four of five answers
are No.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.common.seeds import stable_digest
from lume_run.evaluation.datasets.files import read_jsonl_rows, read_text

YES, NO = "Yes", "No"  # hallucinated or not
GENERAL_FIELDS = ("user_query", "chatgpt_response", "hallucination")
GENERAL = (
    "Below are a request and the response of an assistant to it. Judge whether the response states anything that is "
    "false or made up. Answer Yes if it does, and No if everything in it is right."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPart:
    """A part of the benchmark: the fields of its rows, and what its prompts call them."""

    name: str
    setting: str  # of the suite: the instruction's path
    context: str  # field: what the text belongs to
    right: str
    hallucinated: str
    context_title: str
    text_title: str

    @property
    def instruction(self) -> str:
        """The name of the released instruction."""
        return f"{self.name}_evaluation_instruction.txt"

    def find_instruction(self, data: Path) -> Path:
        """The instruction beside the data, or where the released repository has it."""
        beside = data.parent / self.instruction
        released = data.parent.parent / "evaluation" / self.name / self.instruction
        return released if released.is_file() and not beside.exists() else beside


PARTS = (
    JudgedPart(
        name="qa",
        setting="instruction",
        context="question",
        right="right_answer",
        hallucinated="hallucinated_answer",
        context_title="Question",
        text_title="Answer",
    ),
    JudgedPart(
        name="dialogue",
        setting="dialogue_instruction",
        context="dialogue_history",
        right="right_response",
        hallucinated="hallucinated_response",
        context_title="Dialogue History",
        text_title="Response",
    ),
    JudgedPart(
        name="summarization",
        setting="summarization_instruction",
        context="document",
        right="right_summary",
        hallucinated="hallucinated_summary",
        context_title="Document",
        text_title="Summary",
    ),
)


def load_part(
    part: JudgedPart, path: Path, *, instruction: Path | None = None, seed: int = 0, limit: int | None = None
) -> list[Example]:
    """The first `limit` rows of a part (None: all) as CHOICE examples between Yes and No.

    `instruction` is the authors' file, None: the one beside `path`, or in the released repository around it. Raises
    DataError naming every bad line.
    """
    rows = read_jsonl_rows(path, (part.context, part.right, part.hallucinated), lambda _row, _where: ())
    remedy = f"give evaluator.suites.halueval.{part.setting}=FILE, or put it beside the data"
    instructions = read_text(instruction or part.find_instruction(path), remedy=remedy)
    examples = []
    for number, row in enumerate(rows[:limit]):
        hallucinated = is_hallucinated(number, row[part.context], seed)
        text = row[part.hallucinated if hallucinated else part.right]
        exchange = f"#{part.context_title}#: {row[part.context]}\n#{part.text_title}#: {text}"
        prompt = f"{instructions}\n\n{exchange}\n#Your Judgement#:"
        examples.append(_yes_no_example(part.name, number, prompt, YES if hallucinated else NO))
    return examples


def load_general(path: Path, *, limit: int | None = None) -> list[Example]:
    """The first `limit` general rows (None: all) as CHOICE examples between Yes and No; errors as `load_part`."""
    examples = []
    for number, row in enumerate(read_jsonl_rows(path, GENERAL_FIELDS, verdict_problems)[:limit]):
        exchange = f"#Request#: {row['user_query']}\n#Response#: {row['chatgpt_response']}"
        answer = YES if row["hallucination"].strip().lower() == "yes" else NO
        examples.append(_yes_no_example("general", number, f"{GENERAL}\n\n{exchange}\n#Your Judgement#:", answer))
    return examples


def is_hallucinated(number: int, context: str, seed: int) -> bool:
    """Whether the row shows its hallucinated text: true for half of all rows."""
    return stable_digest(seed, number, context)[0] % 2 == 1


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
    """Whether the verdict of a general row is yes or no."""
    verdict = row["hallucination"]
    if verdict.strip().lower() not in ("yes", "no"):
        what = f'field "hallucination" is "{verdict[:40]}"'
        yield Problem(where=where, what=what, remedy="write yes or no")
