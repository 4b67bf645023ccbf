"""Examples by document: choosing documents by a seeded shuffle of their ids, and whole documents for membership.

The choice does not depend on the order of the files, and the choice for a smaller count is part of that for a larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from random import Random
from typing import TypeVar

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.tasks.row_files import refuse
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL

Examples = tuple[Example, ...]
Documents = dict[str, Examples]  # the prompts of each document, in file order
SideName = TypeVar("SideName", bound=str)


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
