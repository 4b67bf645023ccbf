"""Scores of one generated text against its expected text.

ROUGE-L: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", eq. 2 (LCS recall); the two rules are
those of SemEval-2025 Task 4. The ROUGE implementation is the `rouge_score` package itself, as in the official script.
"""

from __future__ import annotations

import functools
import logging
import math
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lume_run.common.records import Response
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

PUBLISHED_SUBTASKS = (*SUBTASK_OF_LABEL.values(), "tofu", "real_world", "muse")  # whose numbers are compared
JUDGEMENTS = ("Yes", "No")
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai to Han
SCRIPT_TOKENS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@functools.cache
def rouge_l(*, stem: bool) -> RougeScorer:
    """The package's own scorer, with or without the Porter stemmer."""
    # Imported late and built once: the package pulls in nltk, and `--help` should not wait for it.
    from rouge_score.rouge_scorer import RougeScorer

    logging.getLogger("absl").setLevel(logging.WARNING)  # it announces its default tokenizer
    return RougeScorer(["rougeL"], use_stemmer=stem)


def rouge_l_recall(reference: str, hypothesis: str) -> float:
    """Longest common subsequence over the length of the reference, in stemmed lower-case tokens.

    The tokenizer keeps a-z and 0-9 only, so a reference without any such character scores 0 even
    against itself.
    """
    return float(rouge_l(stem=True).score(reference, hypothesis)["rougeL"].recall)


def script_rouge_l_recall(reference: str, hypothesis: str) -> float:
    """The same, but a reference in another script than the Latin one is compared in the tokens of `ScriptTokenizer`."""
    if is_of_other_script(reference):
        return float(rouge_l_of_scripts().score(reference, hypothesis)["rougeL"].recall)
    return rouge_l_recall(reference, hypothesis)


def recall_rule(subtask: str) -> Callable[[str, str], float]:
    """ROUGE-L recall for the rows of a subtask: as published for those of benchmarks, of any script for others."""
    return rouge_l_recall if subtask in PUBLISHED_SUBTASKS else script_rouge_l_recall


@functools.lru_cache(maxsize=4096)
def is_of_other_script(text: str) -> bool:
    """Whether at least half of its letters are not Latin ones, accents aside."""
    if text.isascii():
        return False
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(letter.isascii() or unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    return bool(letters) and 2 * latin <= len(letters)


class ScriptTokenizer:
    """Lower-case words of any script; of scripts that put no spaces between words each character."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens, in the order of the text."""
        return SCRIPT_TOKENS.findall(unicodedata.normalize("NFKC", text).lower())


@functools.cache
def rouge_l_of_scripts() -> RougeScorer:
    """A scorer in the tokens of `ScriptTokenizer`."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=ScriptTokenizer())


def exact_match(reference: str, hypothesis: str) -> float:
    """1 if the texts are equal after strip and lower case, else 0; punctuation counts."""
    return float(reference.strip().lower() == hypothesis.strip().lower())


def likeliest_choice(response: Response) -> str:
    """The option with the highest log-probability; of equal ones the first."""
    logps = response.choice_logps
    if not logps:
        raise ValueError(
            f"{response.id}: its choices have no finite log-probabilities, or all begin with the same token; "
            "look for a diverged model, or ask with other options"
        )
    if len(logps) != len(response.choices):
        raise ValueError(
            f"{response.id}: {len(logps)} log-probabilities for {len(response.choices)} choices; "
            "ask the model again with Ask.CHOICE"
        )
    if any(math.isnan(logp) for logp in logps):
        raise ValueError(f"{response.id}: a choice has a NaN log-probability; look for a diverged model")
    return response.choices[logps.index(max(logps))]


def accuracy(responses: Sequence[Response]) -> float:
    """Share of questions answered as expected (micro-average)."""
    if not responses:
        raise ValueError("no multiple choice responses; an accuracy needs at least one")
    return sum(likeliest_choice(response) == response.expected for response in responses) / len(responses)


def normalise_answer(answer: str) -> str:
    """The answer as it is compared; may be empty, as that of "A+" is."""
    plain = unicodedata.normalize("NFD", answer).lower().translate(NO_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def answer_line(output: str) -> str:
    """The answer in a generated text: what stands before the first line break."""
    return output.split("\n", 1)[0].strip()


def normalised_match(output: str, accepted: Sequence[str]) -> float:
    """1 if the first line of a generated text is one of the accepted answers, else 0.

    A blank line never is, though the normalised forms of four rows' answers in the dev file ("---", "A+") are empty.
    """
    said = answer_line(output)
    return float(bool(said) and normalise_answer(said) in {normalise_answer(answer) for answer in accepted})


def judgement(output: str) -> str | None:
    """Yes or No, None where the text says neither or both."""
    said = [word for word in JUDGEMENTS if word in output]
    return said[0] if len(said) == 1 else None
