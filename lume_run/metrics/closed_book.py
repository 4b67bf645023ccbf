"""Closed-book question answering: exact match of the normalised answer with any accepted one.

The rule of NQ-Open (Lee et al., arXiv:1906.00300, section 5.1) and of the EfficientQA competition, which goes back to
SQuAD (Rajpurkar et al., arXiv:1606.05250): canonically decomposed characters, lower case, no ASCII punctuation, no
articles, single spaces.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """The answer as it is compared; may be empty, as that of "A+" is."""
    plain = unicodedata.normalize("NFD", answer).lower().translate(NO_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def first_line(output: str) -> str:
    """The answer in a generated text: what stands before the first line break."""
    return output.split("\n", 1)[0].strip()


def answered(output: str, accepted: Sequence[str]) -> float:
    """1 if the first line of a generated text is one of the accepted answers, else 0.

    A blank line never is, though the normalised forms of four rows' answers in the dev file ("---", "A+") are empty.
    """
    said = first_line(output)
    return float(bool(said) and normalised(said) in {normalised(answer) for answer in accepted})
