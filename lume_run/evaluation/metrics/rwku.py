"""RWKU's metrics over texts (Jin et al., arXiv:2406.10890): those of the packages that its released code calls.

ROUGE-L recall is that of the package `rouge` (pltrdy), which differs from rouge-score: it keeps case and punctuation,
cuts both texts into sentences at every full stop, and counts different words, each once.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from lume_run.evaluation.metrics.answers import ARTICLES, NO_PUNCTUATION

NO_ANSWER = "NOANSWER"  # stands for a text without any
SAID_ANSWER = re.compile(r"[t|T]he answer is (.*?)\.")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
ENTROPY_WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # of n-grams


def union_recall(reference: str, text: str) -> float:
    """Share of the reference's different words that are in a longest common subsequence of two of the sentences.

    Words are what white space separates, sentences what full stops do. 0 where either has no sentence.
    """
    references, texts = _sentences(reference), _sentences(text)
    words = {word for sentence in references for word in sentence}
    common = {word for first in references for second in texts for word in _common_words(first, second)}
    return len(common) / len(words) if words else 0.0


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence; a sentence of white space alone has one empty word, as in the package."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_words(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """The different words of a longest common subsequence, of several the one that the package takes."""
    lengths = [[0] * (len(second) + 1)]
    for word in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(lengths[-1][place] + 1 if word == other else max(lengths[-1][place + 1], row[place]))
        lengths.append(row)
    words, i, j = set(), len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            words.add(first[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


@lru_cache(maxsize=65536)
def answer_recall(reference: str, output: str) -> float:
    """`union_recall` of a generated answer, white space around it left out; that of NOANSWER where there is none."""
    return union_recall(reference, output.strip() or NO_ANSWER)


def plain_words(text: str) -> list[str]:
    """Words in lower case, without ASCII punctuation and English articles (SQuAD)."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def word_f1(text: str, accepted: Sequence[str]) -> float:
    """F1 of the words that a text shares with an accepted answer, of the answer that gives most; 0 to 1."""
    return max(_shared_f1(plain_words(text), plain_words(answer)) for answer in accepted)


def _shared_f1(words: Sequence[str], reference: Sequence[str]) -> float:
    if not words or not reference:
        return float(words == reference)
    shared = sum((Counter(words) & Counter(reference)).values())
    return 2 * shared / (len(words) + len(reference))


def said_answer(output: str) -> str:
    """What follows `the answer is` up to the next full stop, else the whole text; NOANSWER where that is empty."""
    match = SAID_ANSWER.search(output)
    return (match[1] if match else output).strip() or NO_ANSWER


def said_match(output: str, reference: str, *, compat: bool = False) -> float:
    """1 if the answer that a text gives has the words of the reference, else 0.

    `compat`: as released, where the answer is compared with each character of the reference: whatever is no longer than
    a character is then right or wrong as it should be, `(B)` too, while `True`, `valid` or `49` are never right.
    """
    said = plain_words(said_answer(output))
    return float(any(said == plain_words(answer) for answer in (reference if compat else [reference])))


def ngram_entropy(text: str) -> float:
    """Mean of 2/3 of the entropy of a text's bigrams and 4/3 of that of its trigrams [bits].

    Tokens are those of nltk's word tokenizer, which takes a sentence at a time. Sentences end here at `.`, `!` and `?`
    before white space; the released code has nltk's trained model of English find them, which knows abbreviations.
    """
    tokens = [token for sentence in SENTENCE_END.split(text) for token in _word_tokens(sentence)]
    return sum(weight * _entropy(tokens, n) for n, weight in ENTROPY_WEIGHTS.items()) / len(ENTROPY_WEIGHTS)


def _word_tokens(sentence: str) -> list[str]:
    from nltk.tokenize.destructive import NLTKWordTokenizer  # late: slow to import

    return list(NLTKWordTokenizer().tokenize(sentence))


def _entropy(tokens: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values())
