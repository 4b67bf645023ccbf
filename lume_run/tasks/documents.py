"""Examples by document: choosing documents by a seeded shuffle of their ids, and whole documents for membership.

The choice does not depend on the order of the files, and the choice for a smaller count is part of that for a larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import TypeVar

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.tasks.row_files import refuse
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL

Cutter = Callable[[str, int], Iterable[str]]  # a text in stretches of at most so many tokens
Examples = tuple[Example, ...]
Documents = dict[str, Examples]  # the prompts of each document, in file order
SideName = TypeVar("SideName", bound=str)


def byte_chunks(text: str, size: int) -> list[str]:
    """A text in stretches of at most `size` bytes of UTF-8, whole letters each: what a byte-level tokenizer splits it
    into has no more tokens."""
    chunks: list[list[str]] = []
    left = 0
    for letter in text:
        if (left := left - len(letter.encode())) < 0 or not chunks:
            chunks.append([])
            left = size - len(letter.encode())
        chunks[-1].append(letter)
    return ["".join(chunk) for chunk in chunks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a model takes: whether it has room for a row, its longest row [tokens; 0: not known]; how it cuts a text."""

    has_room: Callable[[Example], bool] = lambda _: True
    tokens: int = 0
    cut: Cutter = byte_chunks


def group_by_document(examples: Sequence[Example], subtasks: Sequence[str]) -> Documents:
    """The prompts of the given subtasks by document, in the order in which the documents first appear."""
    documents: dict[str, list[Example]] = {}
    for example in examples:
        if example.subtask in subtasks:
            documents.setdefault(example.document, []).append(example)
    return {document: tuple(prompts) for document, prompts in documents.items()}


def choose_documents(documents: Documents, count: int, seed: int, split: Split) -> Documents:
    """`count` documents in their old order, as many of each subtask as its size allows.

    The subtasks take turns, so one that runs out leaves its turns to the others, and the choice
    for a smaller count is part of the choice for a larger one.
    """
    queues = [shuffle_documents(documents, subtask, seed, split) for subtask in SUBTASK_OF_LABEL.values()]
    turns = [document for turn in zip_longest(*queues) for document in turn if document is not None]
    chosen = set(turns[:count])
    return {document: prompts for document, prompts in documents.items() if document in chosen}


def shuffle_documents(documents: Documents, subtask: str, seed: int, split: Split) -> list[str]:
    """The ids of one subtask's documents in a seeded order that does not depend on the order of the files."""
    names = sorted(document for document, prompts in documents.items() if prompts[0].subtask == subtask)
    Random(f"{seed}:{split}:{subtask}").shuffle(names)
    return names


def choose_by_side(
    sides: dict[SideName, Examples], count: int | None, seed: int, origin: str
) -> dict[SideName, Examples]:
    """`count` documents of each side in their old order, by a seeded shuffle of ids; DataError where there are fewer.

    Those with false answers go first: 20 of TOFU's 180 retain authors have some, and truth ratios need them.
    The examples of a side have one split and one subtask.
    """
    if count is None:
        return sides
    kept, short = {}, []
    for side, examples in sides.items():
        split, subtask = examples[0].split, examples[0].subtask
        with_false_answers = {example.document for example in examples if example.perturbed}
        names = shuffle_documents(group_by_document(examples, [subtask]), subtask, seed, split)
        names.sort(key=lambda name: name not in with_false_answers)
        selected = set(names[:count])
        kept[side] = tuple(example for example in examples if example.document in selected)
        if len(names) < count:
            what = f"{count} documents were asked for and there are {len(names)}"
            remedy = f"set task.num_documents to {len(names)} or less, or null for all"
            short.append(Problem(where=f"{origin}, {split} rows of {subtask}", what=what, remedy=remedy))
    if short:
        refuse(short)
    return kept


def describe_selection(kept: dict[SideName, Examples], sides: dict[SideName, Examples]) -> str:
    """How much of each side is used, in words."""
    documents = {side: (_documents(kept[side]), _documents(sides[side])) for side in sides}
    words = (f"{side} {some} of {all_} documents ({len(kept[side])} rows)" for side, (some, all_) in documents.items())
    return ", ".join(words)


def _documents(examples: Examples) -> int:
    return len({example.document for example in examples})


def page_example(document: str, raw_id: str, split: Split, subtask: str, text: str) -> Example:
    """A whole document for membership inference."""
    return Example(
        id=f"{document}doc",
        raw_id=raw_id,
        document=document,
        split=split,
        subtask=subtask,
        kind=Kind.DOCUMENT,
        prompt="",
        answer=text,
    )
