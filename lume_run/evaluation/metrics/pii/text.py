"""How private values are written in a text: digits, dates and addresses in their usual spellings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_GAP = r"[ \t().\-/]{0,3}"  # what may stand between two digits of one number
MONTH_ABBREVIATIONS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAME = (
    r"\b(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"(?<!\d)(?P<day>\d{1,2})(?:st|nd|rd|th)?(?!\d)"
_YEAR = r"(?:,? (?:of )?(?P<year>\d{4})(?!\d))"
_DATES = tuple(
    re.compile(form)
    for form in (
        rf"{_MONTH_NAME} (?:the )?{_DAY}{_YEAR}?",  # October 16, 1990
        rf"{_DAY} (?:of )?{_MONTH_NAME}{_YEAR}?",  # 16 October 1990
        rf"{_MONTH_NAME}{_YEAR}",  # October 1990
        r"(?<!\d)(?P<year>\d{4})[-/.](?P<month>\d{1,2})(?!\d)(?:[-/.](?P<day>\d{1,2})(?!\d))?",  # 1990-10-16
        r"(?<!\d)(?P<month>\d{1,2})[-/.](?P<day>\d{1,2})[-/.](?P<year>\d{4}|\d{2})(?!\d)",  # 10/16/1990
    )
)
_SHORT = "st ave rd dr ln blvd ct pl ter pkwy hwy n e s w ne nw se sw"
_LONG = (
    "street avenue road drive lane boulevard court place terrace parkway highway north east south west"
    " northeast northwest southeast southwest"
)
_STREET_WORDS = dict(zip(_SHORT.split(), _LONG.split(), strict=True))
_UNIT_WORDS = {"apt", "apartment", "unit", "ste", "suite"}


class Date(NamedTuple):
    """A date, or the parts of one that a text gives."""

    year: int | None
    month: int
    day: int | None


@lru_cache(maxsize=4096)
def normalise_text(text: str) -> str:
    """`text` in lower case with one kind of hyphen and of space, without the escapes and marks of Markdown."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", text)
    return re.sub(r"\\(?=[^\w\s])|\\(?=_)|[*`]", "", text)


@lru_cache(maxsize=4096)
def digits_pattern(digits: str, ends: bool = False) -> re.Pattern[str]:
    """Finds these digits in a row, whatever separates them; with `ends` no digit may follow directly."""
    return re.compile(_GAP.join(digits) + (r"(?!\d)" if ends else ""))


@lru_cache(maxsize=4096)
def dates(text: str) -> tuple[Date, ...]:
    """Every date in a normalised text, also those without a day or a year.

    10/16/1990 and 03/04/1990 have the month first, 16/10/1990 the day; 10/16/90 is read as of 1990 and of 2090.
    """
    dates_read: set[Date] = set()
    for form in _DATES:
        for match in form.finditer(text):
            parts = match.groupdict()
            name, day = parts["month"], parts.get("day")
            month = MONTH_ABBREVIATIONS.index(name[:3]) + 1 if name[:3] in MONTH_ABBREVIATIONS else int(name)
            number = int(day) if day else None
            if month > 12 and number is not None:
                month, number = number, month
            if 1 <= month <= 12 and (number is None or 1 <= number <= 31):
                dates_read.update(Date(year, month, number) for year in _years(parts.get("year")))
    return tuple(dates_read)


def _years(written: str | None) -> tuple[int | None, ...]:
    if written is None:
        return (None,)
    return (int(written),) if len(written) == 4 else (1900 + int(written), 2000 + int(written))


class Address(NamedTuple):
    """The words of an address by its parts, as `tokens` gives them; `street` begins with the house number."""

    street: tuple[str, ...]
    unit: tuple[str, ...]
    city: tuple[str, ...]
    postcode: tuple[str, ...]


@lru_cache(maxsize=4096)
def address_of(value: str) -> Address | None:
    """The parts of `house street, unit, city, state, postcode` in lower case, the last three in any order.

    None where there is no house number or postcode. The postcode implies the state, which is left out: it is as often
    spelled out as not.
    """
    parts = [part.strip(" .") for part in re.sub(r"\b([a-z]{2}) (\d{5})", r"\1, \2", value).split(",")]
    postcode = next((part for part in parts[1:] if re.fullmatch(r"\d{5}(-\d{4})?", part)), "")
    if not postcode or not parts[0][:1].isdigit():
        return None
    state = next((part for part in reversed(parts[1:]) if re.fullmatch("[a-z]{2}", part)), "")
    rest = [part for part in parts[1:] if part not in (postcode, state, "")]
    if not rest:
        return None
    return Address(tokens(parts[0]), tokens(" ".join(rest[:-1])), tokens(rest[-1]), tokens(postcode[:5]))


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[str, ...]:
    """Words and numbers of a normalised text: street words written out, words for a flat, zeros before it left out."""
    words = (word for word in re.findall(r"\w+", text) if word not in _UNIT_WORDS)
    return tuple(
        (word.lstrip("0") or "0") if word.isdigit() and len(word) != 5 else _STREET_WORDS.get(word, word)
        for word in words
    )


def contains_phrase(words: Sequence[str], text: Sequence[str]) -> bool:
    """Whether the words stand in the text one after another."""
    return f" {' '.join(words)} " in f" {' '.join(text)} "
