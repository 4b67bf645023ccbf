"""MUSE's metrics (Shi et al., arXiv:2407.06460) over texts and AUCs.

Verbatim and knowledge memorisation are ROUGE-L F1 without stemming, here a fraction where the paper prints 100 times
that; low is good on forgotten text, high on retained. Privacy leakage is in percent, as in the paper.
"""

from __future__ import annotations

from lume_run.evaluation.metrics.answers import rouge_l

ANSWER_ENDS = ("\n\n", "\nQuestion", "Question:")
# AUCs of Min-40 % between forget (member) and holdout text under the retrained Llama 2 7B of the paper. They stand in
# its code as 0.4772 and 0.5393, with holdout text taken for the members. For those models and data only.
NEWS_RETRAINED_AUC = 1 - 0.4772
BOOKS_RETRAINED_AUC = 1 - 0.5393


def rouge_l_f1(reference: str, hypothesis: str) -> float:
    """F1 of the longest common subsequence in lower-case tokens of a-z and 0-9; 0 to 1, 0 where either has none.

    Lin 2004, eq. 4 with beta = 1. open-unlearning's form of MUSE has stems, and numbers that are a little higher.
    """
    return float(rouge_l(stem=False).score(reference, hypothesis)["rougeL"].fmeasure)


def verbatim_memorisation(continuation: str, generation: str) -> float:
    """ROUGE-L F1 of a generated continuation, 0 to 1; the paper cuts both texts to 128 tokens, the caller's job.

    0 for an empty generation.
    """
    return rouge_l_f1(continuation, generation)


def knowledge_memorisation(answer: str, generation: str) -> float:
    """ROUGE-L F1 of a generated answer up to where the model begins another question, 0 to 1.

    0 where nothing is left of the generation. The reference answer is taken as it is.
    """
    return rouge_l_f1(answer, cut_answer(generation))


def cut_answer(generation: str) -> str:
    """The text before the first blank line or "Question:", as few-shot prompting needs; no strip, may be empty."""
    for end in ANSWER_ENDS:
        generation = generation.partition(end)[0]
    return generation


def privacy_leakage(auc: float, retrained_auc: float) -> float:
    """(retrained AUC - AUC) / (1 - retrained AUC) [percent]: 0 is best, as if never trained on it.

    Both AUCs are those of "a higher score means member" (`membership.auc_of` of `membership.min_k` with k = 0.4), 1
    minus the AUCs of the paper's code. Negative (down to -100 at an AUC of 1): members are still recognised. Positive:
    they are recognised by being less likely than unseen text, unlearned too far. There is no default for the retrained
    AUC; the published ones are constants of this module. Where it is 1 no leakage is defined: ValueError
    (open-unlearning adds 1e-10 to the denominator and gives a huge number). 0 is an ordinary value.
    """
    _check_auc("AUC", auc)
    _check_auc("retrained AUC", retrained_auc)
    if retrained_auc == 1:
        raise ValueError(
            "the retrained model's AUC is 1, so there is nothing to divide by: the attack tells the two sets apart "
            "without any training on them; choose members and non-members that are alike"
        )
    return (retrained_auc - auc) / (1 - retrained_auc) * 100


def _check_auc(name: str, auc: float) -> None:
    if not 0 <= auc <= 1:
        raise ValueError(f"{name} is {auc}; give a number within 0 to 1")
