"""The built-in generator: LUME-like stories, biographies and encyclopaedia entries about people who do not exist.

Layout after LUME (SemEval-2025 Task 4, arXiv:2502.15097): one completion and one or five questions per document. The
wording, the people and the places are our own. Each document is written from (seed, subtask, split, index) alone, so it
is the same on every machine and whatever else is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from lume_run.common.records import Example, Kind, Split, TaskData, continuation
from lume_run.common.seeds import stable_digest
from lume_run.tasks.builtin.people import SLOTS, Registry
from lume_run.tasks.builtin.writers import WRITERS, DocumentQuestion

SUBTASKS = ("novels", "bios", "wiki")
_SPLITS = ("forget", "retain", "heldout")  # held-out documents only serve as non-members

NO_SIDE_SEED, NO_SIDE_DOCUMENTS = 2**40, 60  # a seed that no run can have: settings end at 2**32

MAX_DOCUMENTS = SLOTS // (len(SUBTASKS) * len(_SPLITS))  # per split and subtask


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """A written document: its completion asks for what follows the first `cut` words."""

    id: str
    subtask: str
    text: str
    cut: int
    questions: tuple[DocumentQuestion, ...]


def generate_task(*, subtasks: Sequence[str], num_documents: int, seed: int) -> TaskData:
    """`num_documents` documents each to forget, to retain and to hold out, spread evenly over `subtasks`.

    The first subtasks get what cannot be spread evenly. Fewer documents are a prefix of more, per subtask and split.
    """
    counts = _spread(subtasks, num_documents)
    registry = Registry(seed)
    forget, retain, held_out = (
        [
            _write_document(registry, seed=seed, subtask=subtask, split=split, index=index)
            for subtask, count in counts.items()
            for index in range(count)
        ]
        for split in _SPLITS
    )
    return TaskData(
        forget=tuple(example for document in forget for example in _prompt_examples(document, Split.FORGET)),
        retain=tuple(example for document in retain for example in _prompt_examples(document, Split.RETAIN)),
        members=tuple(_page(document, Split.MEMBER) for document in forget),
        nonmembers=tuple(_page(document, Split.NONMEMBER) for document in held_out),
        source=f"built-in generator (seed {seed})",
    )


@cache
def documents_of_no_side() -> tuple[str, ...]:
    """Prompts and answers about others than any task is about, the same in every run: to train a tokenizer on."""
    data = generate_task(subtasks=SUBTASKS, num_documents=NO_SIDE_DOCUMENTS, seed=NO_SIDE_SEED)
    examples = (*data.forget, *data.retain)
    return tuple(row.prompt + continuation(row) for row in examples)


def _spread(subtasks: Sequence[str], num_documents: int) -> dict[str, int]:
    """How many documents each subtask gets per split."""
    known = ", ".join(SUBTASKS)
    if isinstance(subtasks, str):
        raise ValueError(f"subtasks is the text {subtasks!r}; give a list such as [{subtasks}]")
    unknown = sorted(set(subtasks) - set(SUBTASKS))
    if unknown:
        raise ValueError(f"the built-in generator has no subtask {', '.join(unknown)}; choose from {known}")
    if not subtasks or len(set(subtasks)) < len(subtasks):
        raise ValueError(f"subtasks are {list(subtasks)}; name at least one of {known}, and each only once")
    if num_documents < 1:
        raise ValueError(f"num_documents is {num_documents}; ask for at least 1 document per split")
    most = MAX_DOCUMENTS * len(subtasks)
    if num_documents > most:
        raise ValueError(f"num_documents is {num_documents}: {len(subtasks)} subtask(s) have names for at most {most}")
    share, extra = divmod(num_documents, len(subtasks))
    return {subtask: share + (position < extra) for position, subtask in enumerate(subtasks)}


def _write_document(registry: Registry, *, seed: int, subtask: str, split: str, index: int) -> _Document:
    """Document number `index` of a subtask in a split."""
    key = f"{seed}/{subtask}/{split}/{index}"
    rng = Random(key)  # a text seeds through SHA-512, whatever PYTHONHASHSEED says
    slot = (index * len(_SPLITS) + _SPLITS.index(split)) * len(SUBTASKS) + SUBTASKS.index(subtask)
    text, questions = WRITERS[subtask](rng, registry.cast(slot), Random(f"{key}/false"))
    return _Document(
        id=f"builtin-{subtask}-{split}-{stable_digest(key).hex()[:8]}",
        subtask=subtask,
        text=text,
        cut=_cut_position(rng, text),
        questions=questions,
    )


def _cut_position(rng: Random, text: str) -> int:
    """A place around the middle of the text [words]: now and then the end of a sentence, mostly not."""
    text_words = text.split(" ")
    window = range(len(text_words) * 2 // 5, len(text_words) * 3 // 5 + 1)
    ends = [cut for cut in window if text_words[cut - 1].endswith(".")]
    return rng.choice(ends if ends and rng.random() < 0.3 else window)


def _prompt_examples(document: _Document, split: Split) -> Iterator[Example]:
    """The completion and the questions of a document."""
    text_words = document.text.split(" ")
    start, rest = " ".join(text_words[: document.cut]), " ".join(text_words[document.cut :])
    yield _document_example(document, suffix="sc1", split=split, kind=Kind.COMPLETION, prompt=start, answer=rest)
    for number, question in enumerate(document.questions):
        example = _document_example(
            document,
            suffix=f"qa{number}",
            split=split,
            kind=Kind.QUESTION,
            prompt=question.prompt,
            answer=question.answer,
        )
        yield replace(
            example, rephrasings=question.rephrasings, perturbed=question.perturbed, attribute=question.attribute
        )


def _page(document: _Document, split: Split) -> Example:
    """The full text, for membership inference."""
    return _document_example(document, suffix="doc", split=split, kind=Kind.DOCUMENT, prompt="", answer=document.text)


def _document_example(
    document: _Document, *, suffix: str, split: Split, kind: Kind, prompt: str, answer: str
) -> Example:
    return Example(
        id=document.id + suffix,
        raw_id=document.id + suffix,
        document=document.id,
        split=split,
        subtask=document.subtask,
        kind=kind,
        prompt=prompt,
        answer=answer,
    )
