"""The built-in generator: LUME-like stories, biographies and encyclopaedia entries about people who do not exist.

Layout after LUME (SemEval-2025 Task 4, arXiv:2502.15097): one completion and one or five questions per document. The
wording, the people and the places are our own. Each document is written from (seed, subtask, split, index) alone, so it
is the same on every machine and whatever else is asked for. False answers are drawn from strangers by random numbers of
their own, which leave the documents as they were before there were any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.common.seeds import stable_digest
from lume_run.tasks.builtin.people import SLOTS, Cast, Registry, private_facts, stranger
from lume_run.tasks.builtin.words import (
    AGES,
    AWARDS,
    BIO_ASIDES,
    BIO_CLAUSES,
    BIO_GROUPS,
    BIO_HOBBIES,
    BIO_JOINTS,
    BIO_OPENINGS,
    BIO_QUESTIONS,
    CAREERS,
    CODAS,
    JOBS,
    PARENTS,
    PLOT_FILLINGS,
    PLOTS,
    WIKI_AWARDS,
    WIKI_LATER,
    WIKI_LEADS,
    WIKI_QUESTIONS,
    WIKI_STUDIES,
    WIKI_YOUTHS,
    YEARS,
)
from lume_run.tasks.private_facts import ATTRIBUTE_OF_FACT

SUBTASKS = ("novels", "bios", "wiki")
_SPLITS = ("forget", "retain", "heldout")  # held-out documents only serve as non-members

MAX_DOCUMENTS = SLOTS // (len(SUBTASKS) * len(_SPLITS))  # per split and subtask

FALSE_ANSWERS = 5  # for each question


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A question about a document; `attribute`, `rephrasings` and `perturbed` as in `Example`."""

    prompt: str
    answer: str
    rephrasings: tuple[str, ...]
    perturbed: tuple[str, ...]
    attribute: str = ""


_Questions = tuple[_Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """A written document: its completion asks for what follows the first `cut` words."""

    id: str
    subtask: str
    text: str
    cut: int
    questions: _Questions


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


def _spread(subtasks: Sequence[str], num_documents: int) -> dict[str, int]:
    """How many documents each subtask gets per split."""
    known = ", ".join(SUBTASKS)
    if isinstance(subtasks, str):
        raise ValueError(f"subtasks is the text {subtasks!r}: give a list such as [{subtasks}]")
    unknown = sorted(set(subtasks) - set(SUBTASKS))
    if unknown:
        raise ValueError(f"the built-in generator has no subtask {', '.join(unknown)}: choose from {known}")
    if not subtasks or len(set(subtasks)) < len(subtasks):
        raise ValueError(f"subtasks are {list(subtasks)}: name at least one of {known}, and each only once")
    if num_documents < 1:
        raise ValueError(f"num_documents is {num_documents}: ask for at least 1 document per split")
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
    text, questions = _WRITERS[subtask](rng, registry.cast(slot), Random(f"{key}/false"))
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
    for number, asked in enumerate(document.questions):
        suffix = f"qa{number}"
        own = _document_example(
            document, suffix=suffix, split=split, kind=Kind.QUESTION, prompt=asked.prompt, answer=asked.answer
        )
        yield replace(own, rephrasings=asked.rephrasings, perturbed=asked.perturbed, attribute=asked.attribute)


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


def _sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    return text[0].upper() + text[1:].removesuffix(".") + "."


def _question(
    chosen: str, wordings: Iterable[str], fields: dict[str, str], answer: str, false: Iterator[str], attribute: str = ""
) -> _Question:
    """A question in its `chosen` wording; of the answers that `false` gives without end, the first untrue are kept."""
    perturbed: dict[str, None] = {}
    while len(perturbed) < FALSE_ANSWERS:
        if (value := next(false)) != answer:
            perturbed[value] = None
    return _Question(
        prompt=chosen.format_map(fields),
        answer=answer,
        rephrasings=tuple(wording.format_map(fields) for wording in wordings if wording != chosen),
        perturbed=tuple(perturbed),
        attribute=attribute,
    )


def _other_facts(rng: Random, fact: str) -> Iterator[str]:
    """That fact of one stranger after another."""
    while True:
        yield private_facts(rng, stranger(rng))[1][fact]


def _other_fillings(rng: Random, field: str) -> Iterator[str]:
    """What else could fill a field that a question about a story or an entry asks for."""
    while True:
        someone = stranger(rng)
        others = {"place": someone.places[0], "university": f"University of {someone.places[0]}"}
        others |= {"born": str(rng.randint(1930, 1970)), "award": rng.choice(AWARDS)}
        yield others.get(field, someone.people[0].name)


def _one_question(
    rng: Random, strangers: Random, choices: Sequence[tuple[str, str]], fields: dict[str, str]
) -> _Questions:
    """One of several (wording, field that answers it); those with the same answer are its other wordings."""
    chosen, answer = rng.choice(choices)
    wordings = (wording for wording, field in choices if field == answer)
    return (_question(chosen, wordings, fields, fields[answer], _other_fillings(strangers, answer)),)


def _novel(rng: Random, cast: Cast, strangers: Random) -> tuple[str, _Questions]:
    """A story by one of the plots, and one question about it."""
    plot = rng.choice(PLOTS)
    fields = {"place": cast.places[0]}
    for letter, person in zip("abcd", cast.people[: plot.characters], strict=False):
        fields |= {letter: person.first, letter.upper(): person.name, f"{letter}_pos": person.pronouns["pos"]}
    for name, fillings in (PLOT_FILLINGS | plot.fillings).items():
        fields[name] = rng.choice(fillings)
    text = " ".join(rng.choice(phrasings).format_map(fields) for phrasings in plot.beats)
    if len(plot.beats) < 6 and len(text.split(" ")) < 95:
        text += " " + rng.choice(CODAS).format_map(fields)
    return text, _one_question(rng, strangers, plot.questions, fields)


def _bio(rng: Random, cast: Cast, strangers: Random) -> tuple[str, _Questions]:
    """A biography with five private facts in varied order, and a question for each."""
    person = cast.people[0]
    written, answers = private_facts(rng, cast)
    fields = written | person.pronouns | {"name": person.name}
    fields |= {"job": rng.choice(JOBS), "hobby": rng.choice(BIO_HOBBIES)}
    given, opening = rng.choice(BIO_OPENINGS)
    left = [fact for fact in BIO_CLAUSES if fact not in given]
    rng.shuffle(left)
    sentences = [opening]
    for size in rng.choice(BIO_GROUPS[len(left)]):
        clauses = [rng.choice(BIO_CLAUSES[left.pop()]) for _ in range(size)]
        sentences.append(rng.choice(BIO_JOINTS[size]).format(*clauses))
    if "{hobby}" not in opening and len(sentences) < 4:
        sentences.insert(rng.randint(1, len(sentences)), rng.choice(BIO_ASIDES))
    text = " ".join(_sentence(sentence.format_map(fields)) for sentence in sentences)
    return text, tuple(
        _question(
            rng.choice(BIO_QUESTIONS[fact]),
            BIO_QUESTIONS[fact],
            fields,
            answer,
            _other_facts(strangers, fact),
            ATTRIBUTE_OF_FACT[fact],
        )
        for fact, answer in answers.items()
    )


def _life(rng: Random, cast: Cast, strangers: Random) -> tuple[str, _Questions]:
    """An entry about a public figure, and one question about it."""
    person, (place, there) = cast.people[0], cast.places
    career = rng.choice(CAREERS)
    born = rng.randint(1930, 1970)
    studied = born + rng.randint(22, 28)
    middle = studied + rng.randint(4, 9)
    late = middle + rng.randint(4, 14)
    ending, later, honoured = rng.choice(
        (
            ((WIKI_LATER, WIKI_AWARDS), middle, late),
            ((WIKI_AWARDS, WIKI_LATER), late, middle),
        )
    )
    deed, second = rng.sample(career.deeds, 2)
    fields = person.pronouns | {"name": person.name, "last": person.last, "place": place, "there": there}
    fields |= {"profession": career.profession, "field": career.field, "topic": rng.choice(career.topics)}
    fields |= {"deed": deed.format(there=there), "second": second.format(there=there)}
    fields |= {"born": str(born), "studied": str(studied), "later": str(later)}
    fields |= {"honoured": str(honoured), "award": rng.choice(AWARDS)}
    fields |= {"age": rng.choice(AGES), "years": rng.choice(YEARS), "parents": rng.choice(PARENTS)}
    fields |= {"university": f"University of {there}"}
    youth = (WIKI_YOUTHS,) if rng.random() < 0.6 else ()
    blocks = (WIKI_LEADS, *youth, WIKI_STUDIES, *ending)
    text = " ".join(_sentence(rng.choice(block).format_map(fields)) for block in blocks)
    return text, _one_question(rng, strangers, WIKI_QUESTIONS, fields)


_Writer = Callable[[Random, Cast, Random], tuple[str, _Questions]]
_WRITERS: dict[str, _Writer] = {"novels": _novel, "bios": _bio, "wiki": _life}
