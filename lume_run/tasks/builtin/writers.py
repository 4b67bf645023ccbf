"""How the built-in generator writes a document: a story, a biography or an encyclopaedia entry, and its questions.

False answers are sampled from strangers by random numbers of their own, so that the documents do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from lume_run.tasks.builtin.people import Cast, private_facts, stranger
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

FALSE_ANSWERS = 5  # for each question


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentQuestion:
    """A question about a document; `attribute`, `rephrasings` and `perturbed` as in `Example`."""

    prompt: str
    answer: str
    rephrasings: tuple[str, ...]
    perturbed: tuple[str, ...]
    attribute: str = ""


Questions = tuple[DocumentQuestion, ...]


def _sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    return text[0].upper() + text[1:].removesuffix(".") + "."


def _question(
    chosen: str, wordings: Iterable[str], fields: dict[str, str], answer: str, false: Iterator[str], attribute: str = ""
) -> DocumentQuestion:
    """A question in its `chosen` wording; of the answers that `false` gives without end, the first untrue are kept."""
    perturbed: dict[str, None] = {}
    while len(perturbed) < FALSE_ANSWERS:
        if (value := next(false)) != answer:
            perturbed[value] = None
    return DocumentQuestion(
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
) -> Questions:
    """One of several (wording, field that answers it); those with the same answer are its other wordings."""
    chosen, answer = rng.choice(choices)
    wordings = (wording for wording, field in choices if field == answer)
    return (_question(chosen, wordings, fields, fields[answer], _other_fillings(strangers, answer)),)


def write_novel(rng: Random, cast: Cast, strangers: Random) -> tuple[str, Questions]:
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


def write_biography(rng: Random, cast: Cast, strangers: Random) -> tuple[str, Questions]:
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


def write_entry(rng: Random, cast: Cast, strangers: Random) -> tuple[str, Questions]:
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


Writer = Callable[[Random, Cast, Random], tuple[str, Questions]]


WRITERS: dict[str, Writer] = {"novels": write_novel, "bios": write_biography, "wiki": write_entry}
