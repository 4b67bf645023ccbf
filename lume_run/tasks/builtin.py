"""The built-in generator: LUME-like stories, biographies and encyclopaedia entries about people who do not exist.

Layout after LUME (SemEval-2025 Task 4, arXiv:2502.15097): one completion and one or five questions per document. The
wording, the people and the places are our own. Each document is written from (seed, subtask, split, index) alone, so it
is the same on every machine and whatever else is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from lume_run.records import Example, Kind, Split, TaskData
from lume_run.tasks import words

SUBTASKS = ("novels", "bios", "wiki")
_SPLITS = ("forget", "retain", "heldout")  # held-out documents only serve as non-members

# Every document owns this many names, used or not: its names then never depend on the documents before it.
_PEOPLE = 4
_PLACES = 2
_SLOTS = len(words.PLACES) // _PLACES  # places run out first
MAX_DOCUMENTS = _SLOTS // (len(SUBTASKS) * len(_SPLITS))  # per split and subtask

_Questions = tuple[tuple[str, str], ...]  # (question, answer)

_SSN_GROUPS, _SSN_SERIALS = 99, 9999  # neither is ever zero


@dataclass(frozen=True, slots=True, kw_only=True)
class _Person:
    """Someone invented."""

    first: str
    last: str
    woman: bool

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def pronouns(self) -> dict[str, str]:
        return dict(
            zip(("sub", "pos", "obj"), ("she", "her", "her") if self.woman else ("he", "his", "him"), strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    """What belongs to one document and to no other."""

    people: tuple[_Person, ...]
    places: tuple[str, ...]
    ssn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """A written document: its completion asks for what follows the first `cut` words."""

    id: str
    subtask: str
    text: str
    cut: int
    questions: _Questions


class _Registry:
    """All names of a seed, dealt out by slot: no two slots share a full name, a place or an SSN."""

    def __init__(self, seed: int) -> None:
        rng = Random(f"{seed}/names")
        firsts = [(first, True) for first in words.WOMEN] + [(first, False) for first in words.MEN]
        self._firsts = rng.sample(firsts, len(firsts))
        self._lasts = rng.sample(words.LAST_NAMES, len(words.LAST_NAMES))
        self._places = rng.sample(words.PLACES, len(words.PLACES))
        self._ssns = rng.sample(range(_SSN_GROUPS * _SSN_SERIALS), _SLOTS)

    def cast(self, slot: int) -> _Cast:
        group, serial = divmod(self._ssns[slot], _SSN_SERIALS)
        return _Cast(
            people=tuple(self._person(slot * _PEOPLE + number) for number in range(_PEOPLE)),
            places=tuple(self._places[slot * _PLACES : (slot + 1) * _PLACES]),
            ssn=f"900-{group + 1:02}-{serial + 1:04}",
        )

    def _person(self, number: int) -> _Person:
        # Both lists go round at their own length: pairs repeat after its least common multiple, tens of thousands.
        first, woman = self._firsts[number % len(self._firsts)]
        return _Person(first=first, last=self._lasts[number % len(self._lasts)], woman=woman)


def generate(*, subtasks: Sequence[str], num_documents: int, seed: int) -> TaskData:
    """`num_documents` documents each to forget, to retain and to hold out, spread evenly over `subtasks`.

    The first subtasks get what cannot be spread evenly. Fewer documents are a prefix of more, per subtask and split.
    """
    counts = _spread(subtasks, num_documents)
    registry = _Registry(seed)
    forget, retain, held_out = (
        [
            _document(registry, seed=seed, subtask=subtask, split=split, index=index)
            for subtask, count in counts.items()
            for index in range(count)
        ]
        for split in _SPLITS
    )
    return TaskData(
        forget=tuple(example for document in forget for example in _prompts(document, Split.FORGET)),
        retain=tuple(example for document in retain for example in _prompts(document, Split.RETAIN)),
        members=tuple(_whole(document, Split.MEMBER) for document in forget),
        nonmembers=tuple(_whole(document, Split.NONMEMBER) for document in held_out),
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


def _document(registry: _Registry, *, seed: int, subtask: str, split: str, index: int) -> _Document:
    """Document number `index` of a subtask in a split."""
    key = f"{seed}/{subtask}/{split}/{index}"
    rng = Random(key)  # a text seeds through SHA-512, whatever PYTHONHASHSEED says
    slot = (index * len(_SPLITS) + _SPLITS.index(split)) * len(SUBTASKS) + SUBTASKS.index(subtask)
    text, questions = _WRITERS[subtask](rng, registry.cast(slot))
    return _Document(
        id=f"builtin-{subtask}-{split}-{hashlib.sha256(key.encode()).hexdigest()[:8]}",
        subtask=subtask,
        text=text,
        cut=_cut(rng, text),
        questions=questions,
    )


def _cut(rng: Random, text: str) -> int:
    """A place around the middle of the text [words]: now and then the end of a sentence, mostly not."""
    text_words = text.split(" ")
    window = range(len(text_words) * 2 // 5, len(text_words) * 3 // 5 + 1)
    ends = [cut for cut in window if text_words[cut - 1].endswith(".")]
    return rng.choice(ends if ends and rng.random() < 0.3 else window)


def _prompts(document: _Document, split: Split) -> Iterator[Example]:
    """The completion and the questions of a document."""
    text_words = document.text.split(" ")
    start, rest = " ".join(text_words[: document.cut]), " ".join(text_words[document.cut :])
    yield _example(document, suffix="sc1", split=split, kind=Kind.COMPLETION, prompt=start, answer=rest)
    for number, (question, answer) in enumerate(document.questions):
        yield _example(document, suffix=f"qa{number}", split=split, kind=Kind.QUESTION, prompt=question, answer=answer)


def _whole(document: _Document, split: Split) -> Example:
    """The full text, for membership inference."""
    return _example(document, suffix="doc", split=split, kind=Kind.DOCUMENT, prompt="", answer=document.text)


def _example(document: _Document, *, suffix: str, split: Split, kind: Kind, prompt: str, answer: str) -> Example:
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


def _novel(rng: Random, cast: _Cast) -> tuple[str, _Questions]:
    """A story by one of the plots, and one question about it."""
    plot = rng.choice(words.PLOTS)
    fields = {"place": cast.places[0]}
    for letter, person in zip("abcd", cast.people[: plot.characters], strict=False):
        fields |= {letter: person.first, letter.upper(): person.name, f"{letter}_pos": person.pronouns["pos"]}
    for name, fillings in (words.PLOT_FILLINGS | plot.fillings).items():
        fields[name] = rng.choice(fillings)
    text = " ".join(rng.choice(phrasings).format_map(fields) for phrasings in plot.beats)
    if len(plot.beats) < 6 and len(text.split(" ")) < 95:
        text += " " + rng.choice(words.CODAS).format_map(fields)
    question, answer = rng.choice(plot.questions)
    return text, ((question.format_map(fields), fields[answer]),)


def _bio(rng: Random, cast: _Cast) -> tuple[str, _Questions]:
    """A biography with five private facts in varied order, and a question for each."""
    person = cast.people[0]
    written, answers = _facts(rng, cast)
    fields = written | person.pronouns | {"name": person.name}
    fields |= {"job": rng.choice(words.JOBS), "hobby": rng.choice(words.BIO_HOBBIES)}
    given, opening = rng.choice(words.BIO_OPENINGS)
    left = [fact for fact in words.BIO_CLAUSES if fact not in given]
    rng.shuffle(left)
    sentences = [opening]
    for size in rng.choice(words.BIO_GROUPS[len(left)]):
        clauses = [rng.choice(words.BIO_CLAUSES[left.pop()]) for _ in range(size)]
        sentences.append(rng.choice(words.BIO_JOINTS[size]).format(*clauses))
    if "{hobby}" not in opening and len(sentences) < 4:
        sentences.insert(rng.randint(1, len(sentences)), rng.choice(words.BIO_ASIDES))
    text = " ".join(_sentence(sentence.format_map(fields)) for sentence in sentences)
    questions = ((rng.choice(words.BIO_QUESTIONS[fact]).format_map(fields), answers[fact]) for fact in answers)
    return text, tuple(questions)


def _facts(rng: Random, cast: _Cast) -> tuple[dict[str, str], dict[str, str]]:
    """Birth date, SSN, phone, e-mail and home: as the document writes them, and as the answers do."""
    person = cast.people[0]
    birth = date(1948, 1, 1) + timedelta(days=rng.randrange(57 * 365))
    month = words.MONTHS[birth.month - 1]
    # No exchange of the North American plan starts with 1, and `.example` is reserved: nobody can be reached.
    area, exchange, line = rng.randint(201, 989), rng.randint(100, 199), rng.randint(0, 9999)
    mailbox = rng.choice((".", "_", "-", "")).join((person.first, person.last)).lower()
    street = f"{rng.randint(11, 9899)} {rng.choice(words.STREETS)} {rng.choice(words.STREET_KINDS)}"
    unit = rng.choice(("", "", "", f"#{rng.randint(1, 480)}, ", f"Apt {rng.randint(1, 60)}, "))
    state, postcode = rng.choice(words.STATES), f"{rng.randint(1001, 99899):05}"
    answers = {
        "birth": birth.isoformat(),
        "ssn": cast.ssn.replace("-", ""),
        "phone": f"{area}{exchange}{line:04}",
        "email": f"{mailbox}@{rng.choice(words.MAIL_HOSTS)}.example",
        "home": f"{street}, {unit}{cast.places[0]}, {state}, {postcode}",
    }
    written = answers | {
        "birth": rng.choice((f"{month} {birth.day}, {birth.year}", f"{birth.day} {month} {birth.year}")),
        "ssn": cast.ssn,
        "phone": rng.choice((f"{area}-{exchange}-{line:04}", f"({area}) {exchange}-{line:04}")),
    }
    return written, answers


def _life(rng: Random, cast: _Cast) -> tuple[str, _Questions]:
    """An entry about a public figure, and one question about it."""
    person, (place, there) = cast.people[0], cast.places
    career = rng.choice(words.CAREERS)
    born = rng.randint(1930, 1970)
    studied = born + rng.randint(22, 28)
    middle = studied + rng.randint(4, 9)
    late = middle + rng.randint(4, 14)
    ending, later, honoured = rng.choice(
        (
            ((words.WIKI_LATER, words.WIKI_AWARDS), middle, late),
            ((words.WIKI_AWARDS, words.WIKI_LATER), late, middle),
        )
    )
    deed, second = rng.sample(career.deeds, 2)
    fields = person.pronouns | {"name": person.name, "last": person.last, "place": place, "there": there}
    fields |= {"profession": career.profession, "field": career.field, "topic": rng.choice(career.topics)}
    fields |= {"deed": deed.format(there=there), "second": second.format(there=there)}
    fields |= {"born": str(born), "studied": str(studied), "later": str(later)}
    fields |= {"honoured": str(honoured), "award": rng.choice(words.AWARDS)}
    fields |= {"age": rng.choice(words.AGES), "years": rng.choice(words.YEARS), "parents": rng.choice(words.PARENTS)}
    fields |= {"university": f"University of {there}"}
    youth = (words.WIKI_YOUTHS,) if rng.random() < 0.6 else ()
    blocks = (words.WIKI_LEADS, *youth, words.WIKI_STUDIES, *ending)
    text = " ".join(_sentence(rng.choice(block).format_map(fields)) for block in blocks)
    question, answer = rng.choice(words.WIKI_QUESTIONS)
    return text, ((question.format_map(fields), fields[answer]),)


_WRITERS: dict[str, Callable[[Random, _Cast], tuple[str, _Questions]]] = {"novels": _novel, "bios": _bio, "wiki": _life}
