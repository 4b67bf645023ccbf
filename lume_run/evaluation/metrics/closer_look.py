"""The metrics of "A Closer Look at Machine Unlearning for LLMs" (Yuan et al., arXiv:2410.08109).

Six means per evaluated set, each within 0 to 1, then two aggregates. ROUGE is `answers.rouge_l_recall`, probability
that of `tofu`, or its share among options on real authors and world facts. Truth ratios are those of
`tofu.truth_ratio`, wrong over right: the reciprocal of the ratio s = exp(perturbed loss - paraphrase loss) in the
released code.

The released code does the same arithmetic where it gives a number, with its own ends:
- a row without answer tokens has loss NaN there, and every mean and aggregate with it; here they are missing and say
  why;
- losses above about 745 make all options 0 there and their share NaN; here the share stays defined;
- a cosine may exceed 1 by rounding there, here it does not;
- forget efficacy without a forget set is NaN there; here there is none;
- an empty generation has no NaN in either: entropy 0, ROUGE 0, so label "none";
- a generation of one token has entropy 0 there, here `single` of `token_entropy`.
Empty lists raise ValueError.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import astuple, dataclass

from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.evaluation.metrics.bootstrap import finite_values
from lume_run.evaluation.metrics.tofu import closer_to_1_better, true_better

ENTAILMENT_LABEL = "entailment"
NO_ENTAILMENT = "none"
LEAST_ROUGE = 0.1  # recall of a generation that can entail anything


def unigram_entropy(tokens: Sequence[Hashable]) -> float:
    """Entropy [bits] of the tokens of a generation by their frequency, 0 or more; 0 for fewer than two tokens."""
    total = len(tokens)
    return sum(count / total * math.log2(total / count) for count in Counter(tokens).values())


def token_entropy(tokens: Sequence[Hashable], *, single: float = 0.0) -> float:
    """`unigram_entropy` over log2 of the number of tokens: 1 repeats nothing, near 0 one token only; high is fluent.

    The scale is the number of tokens, not of distinct ones, so long fluent texts stay below 1. For fewer than two
    tokens the quotient is 0 / 0. It is 0 for an empty generation and `single` for one token: 0 in the released code,
    which is hard on a correct answer of one token; 1 says that it repeats nothing.
    """
    if len(tokens) < 2:
        return single if tokens else 0.0
    return unigram_entropy(tokens) / math.log2(len(tokens))


def forget_truth_ratio(ratios: Sequence[float]) -> float:
    """1 - mean(min(x, 1 / x)) of truth ratios, 0 to 1, low is good: the reverse of TOFU's direction on a forget set."""
    return 1 - closer_to_1_better(ratios)


def utility_truth_ratio(ratios: Sequence[float]) -> float:
    """mean(max(0, 1 - x)) of truth ratios, 0 to 1, high is good: every set but the forget set."""
    return true_better(ratios)


def cosine_score(cosine: float) -> float:
    """The cosine between the embeddings of generation and reference, from 0 to 1: opposites count as unrelated."""
    return min(1.0, max(0.0, cosine))


def entailment_pair(generation: str, reference: str, *, tofu: bool, forget: bool) -> tuple[str, str]:
    """(premise, hypothesis) for the classifier: does the first entail the second?

    The reference is the premise on TOFU's retain, real authors and world facts sets: nothing may be added to it. The
    generation is the premise on TOFU's forget set and on every set of another task: nothing may be missing from it.
    """
    return (reference, generation) if tofu and not forget else (generation, reference)


def can_entail(rouge_l_recall: float) -> bool:
    """Whether a generation has enough in common with its reference to entail anything, or else is labelled "none"."""
    return rouge_l_recall >= LEAST_ROUGE


def entailment_score(labels: Sequence[str]) -> float:
    """Share of labels that are exactly "entailment", lower case, 0 to 1: low is good on a forget set, else high."""
    if not labels:
        raise ValueError("no entailment labels; at least one is needed")
    return sum(label == ENTAILMENT_LABEL for label in labels) / len(labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMeans:
    """The six means of one evaluated set, each within 0 to 1, in the order of the paper."""

    rouge: float
    probability: float
    truth_ratio: float
    token_entropy: float
    cosine: float
    entailment: float


def closer_look_utility(sets: Sequence[SetMeans]) -> float:
    """Harmonic mean of all means of all sets but the forget set, token entropy included; 0 to 1, high is good.

    TOFU has retain, real authors and world facts, so 18 terms; of the retain set alone it is the paper's utility on
    retain. 0 as soon as one mean is 0, ValueError on no set, NaN or a negative mean.
    """
    return harmonic_mean([term for means in sets for term in astuple(means)])


def forget_efficacy(forget: SetMeans) -> float:
    """1 - mean of the five means of the forget set other than token entropy; 0 to 1, high is good; else ValueError."""
    terms = (forget.rouge, forget.probability, forget.truth_ratio, forget.cosine, forget.entailment)
    return 1 - float(finite_values(terms, "means of the forget set").mean())
