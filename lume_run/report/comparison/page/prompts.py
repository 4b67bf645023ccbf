"""The prompts of a run to look at: expected, before and after, with what is disclosed marked in the texts.

A few prompts a side are sampled by a hash of their ids, the same for every run of a task, evenly over subtasks and
kinds; those whose answer after unlearning discloses a private fact come along. Facts are the answers of the document's
questions that name one (`attribute`), looked for by the rules of `metrics/pii/disclosure.py`; what a prompt says itself
is not disclosed by the answer. Elsewhere words in a row that the expected answer has too are marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from lume_run.common.records import PLAIN_VARIANTS
from lume_run.common.seeds import stable_digest
from lume_run.common.text_files import file_fault
from lume_run.evaluation.metrics.pii.disclosure import RULES, disclosure_of
from lume_run.report.comparison.run_folders import RunRecord
from lume_run.report.comparison.untrusted import RESPONSE_BYTES

PROMPT_SIDES = ("forget", "retain")
EXACT, PARTIAL, SAME = "exact", "partial", "same"  # a whole private fact, a telling part of one, the expected words
VARIANT_IN_LINE = re.compile(r'"variant": "([^"]*)"')
IN_A_ROW = 4  # words that the expected answer has too, from which on they are marked
LONGEST_ID = 200  # characters of an id
LONGEST_PROMPT = 600  # characters of a text that are shown
MOST_WORDS = 160  # of a text that spans are looked for in
ResponseRow = Mapping[str, Any]
Facts = tuple[tuple[str, str], ...]  # attribute and value


class Mark(NamedTuple):
    """A marked part of a text, by its first and last + 1 character."""

    start: int
    end: int
    kind: str
    attribute: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One text with its marks."""

    text: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptAnswers:
    """One prompt: `before` is None where the target was not asked."""

    id: str
    side: str
    subtask: str
    kind: str
    attribute: str
    prompt: str
    expected: Answer
    before: Answer | None
    after: Answer


def prompts_of(run: RunRecord, most: int) -> list[PromptAnswers]:
    """Up to `most` prompts of either side, those that leak first."""
    after = read_answers(run.folder / f"responses.{run.subject}.jsonl")
    before = read_answers(run.folder / "responses.target.jsonl") if run.subject == "unlearned" else {}
    facts = facts_of(after.values())
    prompts: list[PromptAnswers] = []
    for side in PROMPT_SIDES:
        rows = [row for row in after.values() if row["split"] == side]
        leaking = [row for row in rows if side == "forget" and leaks(row, facts.get(row["document"], ()))]
        first = [*list(interleave_kinds(leaking))[: most // 3], *list(interleave_kinds(rows))[:most]]
        chosen = {row["id"]: row for row in first}
        prompts += [mark_row(row, before.get(row["id"]), facts) for row in list(chosen.values())[:most]]
    return prompts


def read_answers(path: Path) -> dict[str, ResponseRow]:
    """The greedy answers of both sides by id; lines that are none are passed over."""
    answers: dict[str, ResponseRow] = {}
    if file_fault(path, limit=RESPONSE_BYTES):
        return answers
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            if '"generate"' not in line:  # parsing a line costs 20 times as much
                continue
            variant = VARIANT_IN_LINE.search(line)
            if variant and variant[1] not in PLAIN_VARIANTS:
                continue
            row = parse_row(line)
            if row is not None:
                answers.setdefault(row["id"], row)
    return answers


def parse_row(line: str) -> ResponseRow | None:
    """A greedy answer of the forget or the retain set, None for another line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("ask") != "generate" or row.get("variant", "") not in PLAIN_VARIANTS:
        return None
    fields = ("id", "split", "subtask", "kind", "document", "prompt", "expected", "output")
    if row.get("split") not in PROMPT_SIDES or not all(isinstance(row.get(field), str) for field in fields):
        return None
    if any(len(row[field]) > LONGEST_ID for field in fields[:5]):
        return None
    attribute = row.get("attribute")
    return {field: row[field] for field in fields} | {"attribute": attribute if attribute in RULES else ""}


def facts_of(rows: Iterable[ResponseRow]) -> dict[str, Facts]:
    """The private facts of every document, from the questions that ask for them."""
    by_document: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        if row["attribute"]:
            by_document.setdefault(row["document"], {})[row["attribute"], row["expected"]] = None
    return {document: tuple(facts) for document, facts in by_document.items()}


def interleave_kinds(rows: Sequence[ResponseRow]) -> Iterator[ResponseRow]:
    """By a hash of the id, a row of each subtask and kind in turn."""
    kinds: dict[tuple[str, str], list[ResponseRow]] = {}
    for row in sorted(rows, key=lambda row: stable_digest(row["id"])):
        kinds.setdefault((row["subtask"], row["kind"]), []).append(row)
    for turn in zip_longest(*(kinds[name] for name in sorted(kinds))):
        yield from (row for row in turn if row is not None)


def leaks(row: ResponseRow, facts: Facts) -> bool:
    """Whether the answer discloses a whole fact that its prompt does not."""
    return any(
        disclosure_of(attribute, value, row["output"]).exact
        and not disclosure_of(attribute, value, row["prompt"]).partial
        for attribute, value in facts
    )


def mark_row(row: ResponseRow, before: ResponseRow | None, facts: Mapping[str, Facts]) -> PromptAnswers:
    """The answers to one prompt, marked."""
    secret = tuple(
        (attribute, value)
        for attribute, value in facts.get(row["document"], ())
        if not disclosure_of(attribute, value, row["prompt"]).partial
    )
    expected = row["expected"]

    def answer(text: str) -> Answer:
        short = shorten(text.strip())
        return Answer(text=short, marks=find_marks(short, expected, secret, only_facts=bool(row["attribute"])))

    return PromptAnswers(
        id=row["id"],
        side=row["split"],
        subtask=row["subtask"],
        kind=row["kind"],
        attribute=row["attribute"],
        prompt=row["prompt"] if len(row["prompt"]) <= LONGEST_PROMPT else "… " + row["prompt"][-LONGEST_PROMPT:],
        expected=Answer(text=shorten(expected.strip()), marks=()),
        before=answer(before["output"]) if before else None,
        after=answer(row["output"]),
    )


def shorten(text: str) -> str:
    """The beginning of a text."""
    return text if len(text) <= LONGEST_PROMPT else text[:LONGEST_PROMPT] + " …"


@lru_cache(maxsize=8192)  # before unlearning the answers of all runs of a target are the same
def find_marks(text: str, expected: str, facts: Facts, *, only_facts: bool) -> tuple[Mark, ...]:
    """Where private facts stand in a text and, unless `only_facts`, the words it shares with the expected answer."""
    painted: list[tuple[str, str] | None] = [None] * len(text)
    for start, end in [] if only_facts else repeated_spans(text, expected):
        painted[start:end] = [(SAME, "")] * (end - start)
    for kind in (PARTIAL, EXACT):  # what is whole goes over what is not
        for attribute, value in facts:
            if disclosure_kind(attribute, value, text) == kind:
                for start, end in disclosing_spans(attribute, value, text):
                    painted[start:end] = [(kind, attribute)] * (end - start)
    marks: list[Mark] = []
    for place, paint in enumerate(painted):
        if paint is None:
            continue
        if marks and marks[-1].end == place and marks[-1][2:] == paint:
            marks[-1] = marks[-1]._replace(end=place + 1)
        else:
            marks.append(Mark(place, place + 1, *paint))
    return tuple(marks)


def disclosure_kind(attribute: str, value: str, text: str) -> str:
    """EXACT, PARTIAL, or "" for nothing."""
    disclosure = disclosure_of(attribute, value, text)
    return EXACT if disclosure.exact else PARTIAL if disclosure.partial else ""


def disclosing_spans(attribute: str, value: str, text: str) -> Iterator[tuple[int, int]]:
    """The shortest runs of words that disclose a fact as far as the whole text does, from the left.

    The rules of disclosure only say whether, so words are taken from either end until the rule no longer holds.
    """
    words = [match.span() for match in re.finditer(r"\S+", text)][:MOST_WORDS]
    kind, start = disclosure_kind(attribute, value, text), 0
    while kind and start < len(words):

        def discloses(first: int, last: int) -> bool:
            disclosure = disclosure_of(attribute, value, text[words[first][0] : words[last][1]])
            return disclosure.exact if kind == EXACT else disclosure.partial

        last = next((place for place in range(start, len(words)) if discloses(start, place)), None)
        if last is None:
            return
        first = next(place for place in range(last, start - 1, -1) if discloses(place, last))
        begin, end = words[first][0], words[last][1]
        trimmed = text[begin:end].rstrip(".,;:!?)\"'")
        yield begin, begin + len(trimmed)
        start = last + 1


def repeated_spans(text: str, expected: str) -> Iterator[tuple[int, int]]:
    """Where `IN_A_ROW` words of the expected answer, or all it has, stand in the text as they do there."""
    spans = [match.span() for match in re.finditer(r"\w+", text)]
    words = [text[start:end].lower() for start, end in spans]
    expected_words = [word.lower() for word in re.findall(r"\w+", expected)]
    for block in SequenceMatcher(None, words, expected_words, autojunk=False).get_matching_blocks():
        if block.size >= min(IN_A_ROW, max(1, len(expected_words))):
            yield spans[block.a][0], spans[block.a + block.size - 1][1]
