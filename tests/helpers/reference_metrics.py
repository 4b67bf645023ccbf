"""What the reference codes compute otherwise than our metrics, made of our metrics.

closer-look's result sheet of its logs, and open-unlearning's forms: 1e-10 in every denominator (`smoothed_`), token
metrics without the last labelled token (`compat_`), the relative difference of two AUCs, and ROUGE-L F1 with stems.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import ks_2samp

from lume_run.evaluation.metrics import closer_look
from lume_run.evaluation.metrics.answers import rouge_l
from lume_run.evaluation.metrics.bootstrap import Column
from lume_run.evaluation.metrics.memorisation import exact_memorisation, extraction_strength
from lume_run.evaluation.metrics.muse import privacy_leakage
from lume_run.evaluation.metrics.tofu import (
    forget_quality_of,
    options_probability,
    probability,
    truth_ratio,
)

EPSILON = 1e-10  # open-unlearning adds it to its denominators

TASKS = {  # file of closer-look -> its name in the results
    "eval_real_author_wo_options.json": "Real Authors",
    "eval_real_world_wo_options.json": "Real World",
    "eval_log.json": "Retain",
    "eval_log_forget.json": "Forget",
}
FIELDS = {  # name in the results -> field
    "ROUGE": "rouge",
    "Probability": "probability",
    "Truth Ratio": "truth_ratio",
    "Token Entropy": "token_entropy",
    "Cosine Similarity": "cosine",
    "Entailment Score": "entailment",
}


def set_means(file, log):
    """The six means of one closer-look log."""
    losses, wrong = log["avg_gt_loss"], log["average_perturb_loss"]
    ratios = [truth_ratio([right], others) for right, others in zip(log["avg_paraphrased_loss"], wrong, strict=True)]
    truth = closer_look.forget_truth_ratio if "forget" in file else closer_look.utility_truth_ratio
    return closer_look.SetMeans(
        rouge=statistics.fmean(log["rougeL_recall"]),
        probability=statistics.fmean(
            [probability(-loss, 1) for loss in losses]
            if "eval_log" in file
            else map(options_probability, losses, wrong)
        ),
        truth_ratio=truth(ratios),
        token_entropy=statistics.fmean(log["token_entropy"]),
        cosine=statistics.fmean(log["cosine_similarity"]),
        entailment=closer_look.entailment_score(log["entailment_labels"]),
    )


def sheet(logs):
    """closer-look's result of its logs."""
    means = {TASKS[file]: set_means(file, log) for file, log in logs.items()}
    utility = [means[name] for name in means if name != "Forget"]
    forget = closer_look.forget_efficacy(means["Forget"]) if "Forget" in means else None
    return {
        **{f"{name} {metric}": getattr(means[name], field) for name in means for metric, field in FIELDS.items()},
        "Model Utility Retain": closer_look.closer_look_utility([means["Retain"]]),
        "Model Utility": closer_look.closer_look_utility(utility),
        "Forget Efficacy": forget,
    }


# ------------------------------------------------------------------------------------------- open-unlearning


def smoothed_options_probability(
    correct_loss: float, wrong_losses: Sequence[float], *, epsilon: float = EPSILON
) -> float:
    """p / (p + sum of wrong p + epsilon)."""
    return _reciprocal(options_probability(correct_loss, wrong_losses), epsilon, correct_loss)


def smoothed_truth_ratio(
    correct_losses: Sequence[float], wrong_losses: Sequence[float], *, epsilon: float = EPSILON
) -> float:
    """wrong p / (p + epsilon), of geometric means."""
    return _reciprocal(truth_ratio(correct_losses, wrong_losses), epsilon, statistics.fmean(wrong_losses))


def smoothed_truth_probability(correct_losses: Sequence[float], wrong_losses: Sequence[float]) -> float:
    """p / (p + wrong p + epsilon), of geometric means."""
    return smoothed_options_probability(statistics.fmean(correct_losses), [statistics.fmean(wrong_losses)])


def smoothed_closer_to_1_better(ratios: Sequence[float], *, epsilon: float = EPSILON) -> float:
    """Mean of min(x, 1 / (x + epsilon))."""
    values = np.asarray(ratios)
    return float(np.minimum(values, 1 / (values + epsilon)).mean())


def smoothed_privacy_leakage(auc: float, retrained_auc: float, *, epsilon: float = EPSILON) -> float:
    """`privacy_leakage` over 1 - retrained AUC + epsilon: a huge number where the retrained AUC is 1."""
    if retrained_auc == 1:
        return (retrained_auc - auc) / epsilon * 100
    return privacy_leakage(auc, retrained_auc) * (1 - retrained_auc) / (1 - retrained_auc + epsilon)


def smoothed_relative_difference(auc: float, retrained_auc: float, *, epsilon: float = EPSILON) -> float:
    """(AUC - retrained AUC) / retrained AUC [percent], open-unlearning's `rel_diff`: 0 is best, positive leaks."""
    return (auc - retrained_auc) / (retrained_auc + epsilon) * 100


def _reciprocal(share: float, epsilon: float, loss: float) -> float:
    """1 / (1 / share + epsilon / p) of p = exp(-loss), the numerator of `share`: adds epsilon to its denominator."""
    with np.errstate(divide="ignore"):
        return float(1 / (1 / np.float64(share) + epsilon / np.exp(np.float64(-loss))))


def compat_exact_memorisation(hits: Sequence[bool], *, aligned: bool = True) -> float | None:
    """Exact memorisation without the last labelled token; None where none is left, which enters no mean.

    `aligned=False` says that the labels have a hole or begin on the first position: there the released code compares
    arrays of different length and raises, so this raises ValueError.
    """
    if not aligned:
        raise ValueError("labels with a hole or on the first position: open-unlearning has no exact memorisation")
    return exact_memorisation(hits[:-1])


def compat_extraction_strength(hits: Sequence[bool], *, aligned: bool = True) -> float:
    """Extraction strength without the last labelled token and never 0: 1 / L of L tokens where no end matches.

    0 where no token is left, and that enters the mean. `aligned=False`: see `compat_exact_memorisation`; the released
    code then finds no matching end in any row, so 1 / L.
    """
    kept = hits[:-1]
    strength = extraction_strength(kept)
    if strength is None:
        return 0.0
    return max(1 / len(kept), strength if aligned else 0.0)


def stemmed_rouge_l_f1(reference: str, hypothesis: str) -> float:
    """ROUGE-L F1 with the Porter stemmer, open-unlearning's form of MUSE: a little higher than the paper's."""
    return float(rouge_l(stem=True).score(reference, hypothesis)["rougeL"].fmeasure)


def forget_quality(unlearned: Sequence[float], retained: Sequence[float]) -> float:
    """p-value of a Kolmogorov-Smirnov test between truth ratios: ours, or SciPy's where the sides differ in size."""
    sides = [Column.of(side, [str(row) for row in range(len(side))], "truth ratios") for side in (unlearned, retained)]
    if len(unlearned) == len(retained):
        return forget_quality_of(*sides).value
    return float(ks_2samp(unlearned, retained).pvalue)


LEAKAGES = {"privleak": smoothed_privacy_leakage, "rel_diff": smoothed_relative_difference}


def comparison_value(
    key: str, quality: Callable[..., float | None], areas: Callable[[str, str], Sequence[float]]
) -> float | None:
    """open-unlearning's comparison of a model with a retrained one, by its golden key `name|parameters`.

    `quality(*parameters)` is the forget quality, `areas(attack, parameter)` the AUCs of an attack on both models. A
    leakage is against the second's, or against the number in `default_ref_0.5`.
    """
    name, *parameters = key.split("|")
    if name in ("forget_quality_ks_test", "utils.get_forget_quality"):
        return quality(*parameters)
    attack, parameter, reference = parameters
    area, retrained = areas(attack, parameter)
    return LEAKAGES[name](area, retrained if reference == "vs_ref_model" else float(reference.rpartition("_")[2]))
