"""Who the built-in generator writes about: invented people, their places and their private facts.

All names of a seed are dealt out at once, by slot, so that a document's cast never depends on the documents before it.
Nobody here exists: SSNs begin with 900, which is never issued, no North American exchange starts with 1, and the mail
hosts end in the reserved `.example`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from lume_run.tasks.builtin.words import (
    LAST_NAMES,
    MAIL_HOSTS,
    MEN,
    MONTHS,
    PLACE_NAMES,
    STREET_KINDS,
    STREETS,
    US_STATES,
    WOMEN,
)

# Every document owns this many names, used or not: its names then never depend on the documents before it.
PEOPLE_PER_DOCUMENT = 4
PLACES_PER_DOCUMENT = 2
SLOTS = len(PLACE_NAMES) // PLACES_PER_DOCUMENT  # places run out first

_SSN_GROUPS, _SSN_SERIALS = 99, 9999  # neither is ever zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Someone invented."""

    first: str
    last: str
    woman: bool

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first} {self.last}"

    @property
    def pronouns(self) -> dict[str, str]:
        """The pronouns as `sub`, `pos` and `obj`."""
        return dict(
            zip(("sub", "pos", "obj"), ("she", "her", "her") if self.woman else ("he", "his", "him"), strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """What belongs to one document and to no other."""

    people: tuple[Person, ...]
    places: tuple[str, ...]
    ssn: str


_FIRSTS = tuple((first, True) for first in WOMEN) + tuple((first, False) for first in MEN)


class Registry:
    """All names of a seed, dealt out by slot: no two slots share a full name, a place or an SSN."""

    def __init__(self, seed: int) -> None:
        rng = Random(f"{seed}/names")
        self._firsts = rng.sample(_FIRSTS, len(_FIRSTS))
        self._lasts = rng.sample(LAST_NAMES, len(LAST_NAMES))
        self._places = rng.sample(PLACE_NAMES, len(PLACE_NAMES))
        self._ssns = rng.sample(range(_SSN_GROUPS * _SSN_SERIALS), SLOTS)

    def cast(self, slot: int) -> Cast:
        """The cast of one slot, 0 to `SLOTS` - 1."""
        return Cast(
            people=tuple(self._person(slot * PEOPLE_PER_DOCUMENT + number) for number in range(PEOPLE_PER_DOCUMENT)),
            places=tuple(self._places[slot * PLACES_PER_DOCUMENT : (slot + 1) * PLACES_PER_DOCUMENT]),
            ssn=_format_ssn(self._ssns[slot]),
        )

    def _person(self, number: int) -> Person:
        # Both lists go round at their own length: pairs repeat after its least common multiple, tens of thousands.
        first, woman = self._firsts[number % len(self._firsts)]
        return Person(first=first, last=self._lasts[number % len(self._lasts)], woman=woman)


def stranger(rng: Random) -> Cast:
    """A person of no document, made up on the spot; a place or a name may by chance be some document's."""
    first, woman = rng.choice(_FIRSTS)
    person = Person(first=first, last=rng.choice(LAST_NAMES), woman=woman)
    number = rng.randrange(_SSN_GROUPS * _SSN_SERIALS)
    return Cast(people=(person,), places=(rng.choice(PLACE_NAMES),), ssn=_format_ssn(number))


def _format_ssn(number: int) -> str:
    group, serial = divmod(number, _SSN_SERIALS)
    return f"900-{group + 1:02}-{serial + 1:04}"


def private_facts(rng: Random, cast: Cast) -> tuple[dict[str, str], dict[str, str]]:
    """Birth date, SSN, phone, e-mail and home: as the document writes them, and as the answers do."""
    person = cast.people[0]
    birth = date(1948, 1, 1) + timedelta(days=rng.randrange(57 * 365))
    month = MONTHS[birth.month - 1]
    # No exchange of the North American plan starts with 1, and `.example` is reserved: nobody can be reached.
    area, exchange, line = rng.randint(201, 989), rng.randint(100, 199), rng.randint(0, 9999)
    mailbox = rng.choice((".", "_", "-", "")).join((person.first, person.last)).lower()
    street = f"{rng.randint(11, 9899)} {rng.choice(STREETS)} {rng.choice(STREET_KINDS)}"
    unit = rng.choice(("", "", "", f"#{rng.randint(1, 480)}, ", f"Apt {rng.randint(1, 60)}, "))
    state, postcode = rng.choice(US_STATES), f"{rng.randint(1001, 99899):05}"
    answers = {
        "birth": birth.isoformat(),
        "ssn": cast.ssn.replace("-", ""),
        "phone": f"{area}{exchange}{line:04}",
        "email": f"{mailbox}@{rng.choice(MAIL_HOSTS)}.example",
        "home": f"{street}, {unit}{cast.places[0]}, {state}, {postcode}",
    }
    written = answers | {
        "birth": rng.choice((f"{month} {birth.day}, {birth.year}", f"{birth.day} {month} {birth.year}")),
        "ssn": cast.ssn,
        "phone": rng.choice((f"{area}-{exchange}-{line:04}", f"({area}) {exchange}-{line:04}")),
    }
    return written, answers
