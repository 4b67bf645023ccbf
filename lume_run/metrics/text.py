"""Scores of one generated text against its expected text.

ROUGE-L: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", eq. 2 (LCS recall); the two rules are
those of SemEval-2025 Task 4. The ROUGE implementation is the `rouge_score` package itself, as in the official script.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


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


def exact_match(reference: str, hypothesis: str) -> float:
    """1 if the texts are equal after strip and lower case, else 0; punctuation counts."""
    return float(reference.strip().lower() == hypothesis.strip().lower())
