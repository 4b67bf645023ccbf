"""Which private fact a question asks for, and other wordings of the question, for the biographies of released files.

The five facts are those of LUME's biographies (Ramakrishna et al. 2025). Each has answers of one form, so the form
decides, and the words of the question only where the form is none of the five.
"""

from __future__ import annotations

import re

from lume_run.tasks.builtin.words import BIO_QUESTIONS, MONTHS

# What the generator calls a fact, and the attribute it is.
ATTRIBUTE_OF_FACT = {"birth": "birth_date", "ssn": "ssn", "phone": "phone", "email": "email", "home": "address"}
FACT_OF_ATTRIBUTE = {attribute: fact for fact, attribute in ATTRIBUTE_OF_FACT.items()}

_MONTH = "|".join(MONTHS)
_FORMS = {
    "ssn": r"\d{3}[- ]?\d{2}[- ]?\d{4}",
    "phone": r"(?:\+?1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-]?)\d{3}[ .-]?\d{4}",
    "email": r"[^\s@]+@[^\s@]+\.[A-Za-z]+",
    "birth_date": rf"\d{{4}}-\d{{2}}-\d{{2}}|(?:{_MONTH}) \d{{1,2}}, \d{{4}}|\d{{1,2}} (?:{_MONTH}) \d{{4}}",
    "address": r"\d+ .+\b[A-Z]{2},? \d{5}\b.*",
}
# In this order: "e-mail address" is no address, and "social security" no phone number.
_WORDS = {
    "ssn": r"social security|\bssn\b",
    "email": r"\be-?mail",
    "phone": r"\bphone|\btelephone",
    "birth_date": r"\bborn\b|\bbirth",
    "address": r"\baddress|\blives?\b|\breside",
}
_NAME = r"(?P<name>[A-Z][\w'’.-]*(?: [A-Z][\w'’.-]*?)+?)"  # as short as can be: the genitive's s is no part of it
_FRAMES = (
    re.compile(rf"What is {_NAME}(?:['’]s?)? (?:Social Security Number|phone number|email address)\?"),
    re.compile(rf"What is the (?:birth date|home address) of {_NAME}\?"),
)


def attribute_of(question: str, answer: str) -> str:
    """ssn, phone, email, address or birth_date; empty where neither the answer nor the question is about one."""
    bare = answer.strip().rstrip(".")
    for attribute, form in _FORMS.items():
        if re.fullmatch(form, bare):
            return attribute
    return next((name for name, words in _WORDS.items() if re.search(words, question, re.IGNORECASE)), "")


def rephrasings_of(question: str, attribute: str) -> tuple[str, ...]:
    """Two other wordings of a question in one of the forms that LUME has; none where it has another form."""
    asked = next((match for frame in _FRAMES if (match := frame.fullmatch(question.strip()))), None)
    if asked is None or attribute not in FACT_OF_ATTRIBUTE:
        return ()
    wordings = (wording.format(name=asked["name"]) for wording in BIO_QUESTIONS[FACT_OF_ATTRIBUTE[attribute]])
    return tuple(wording for wording in wordings if wording != question)[:2]
