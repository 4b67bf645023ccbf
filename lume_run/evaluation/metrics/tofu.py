"""TOFU's metrics (Maini et al., arXiv:2401.06121) over mean token losses.

The currency is the mean token loss [nats]: minus the log-probability of an answer over its number of tokens. A row
without tokens has none (None: leave it out and count it); NaN or an infinite loss raises ValueError.

Everything works on differences of losses and is defined for all finite losses, where probabilities of 0 would leave
0 / 0; open-unlearning adds 1e-10 to its denominators instead.
Means over rows are plain means and left to the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.evaluation.metrics.bootstrap import Column, Measure, Numbers, finite_values


def mean_loss(logp_sum: float, tokens: int) -> float | None:
    """Mean token loss [nats] of an answer, 0 at best; None without tokens, infinite for an impossible token.

    `logp_sum` [nats] is the summed log-probability of `tokens` tokens. The released codes give NaN without tokens.
    """
    if math.isnan(logp_sum) or logp_sum > 1e-3 * max(tokens, 1) or tokens < 0:  # rounding may lift it above 0
        raise ValueError(
            f"log-probability {logp_sum} of {tokens} tokens; give a sum of log-probabilities, not a loss; "
            "for NaN look for a diverged model"
        )
    return max(0.0, -logp_sum / tokens) if tokens else None


def probability(logp_sum: float, tokens: int) -> float | None:
    """Length-normalised probability of an answer, exp(logp_sum / tokens), 0 to 1; None without tokens.

    High is good for retained answers, low for forgotten ones.
    """
    loss = mean_loss(logp_sum, tokens)
    return None if loss is None else _exp(-loss)


def options_probability(correct_loss: float, wrong_losses: Sequence[float]) -> float:
    """Probability of the right answer among all options, p / (p + sum of wrong p), 0 to 1, high is good.

    Every p is length-normalised. `wrong_losses` holds one mean loss per wrong option, at least one.
    """
    correct = _mean_of_losses((correct_loss,))
    wrong = finite_values(wrong_losses, "losses of wrong options")
    return 1 / (1 + sum(map(_exp, correct - wrong)))


def truth_ratio(correct_losses: Sequence[float], wrong_losses: Sequence[float]) -> float:
    """Wrong over right: geometric mean probability of the wrong answers over that of the right ones; 0 or more.

    About 1 where the model cannot tell them apart, near 0 where it knows the right one. TOFU, eq. 1, with one
    paraphrase of the answer on the right side, five perturbed answers on the wrong side.
    """
    return _exp(_mean_of_losses(correct_losses) - _mean_of_losses(wrong_losses))


def log_truth_ratio(correct_losses: Sequence[float], wrong_losses: Sequence[float]) -> float:
    """Logarithm of `truth_ratio` [nats], finite for all finite losses; above 0 the wrong answers are likelier."""
    return _mean_of_losses(correct_losses) - _mean_of_losses(wrong_losses)


def arithmetic_truth_ratio(correct_losses: Sequence[float], wrong_losses: Sequence[float]) -> float:
    """`truth_ratio` with arithmetic means of probabilities, as TOFU's released code has it in one place; 0 or more.

    Never below the geometric one where there is one right answer.
    """
    return _exp(_arithmetic_loss(correct_losses) - _arithmetic_loss(wrong_losses))


def truth_probability(correct_losses: Sequence[float], wrong_losses: Sequence[float]) -> float:
    """p / (p + wrong p) with geometric means on both sides, 0 to 1: 1 / (1 + truth ratio); 1 knows the answer."""
    return options_probability(_mean_of_losses(correct_losses), (_mean_of_losses(wrong_losses),))


def closer_to_1_better(ratios: Sequence[float]) -> float:
    """Mean of min(x, 1 / x) of truth ratios, 0 to 1; on a forget set 1 is best: right and wrong are equally likely.

    An infinite ratio counts 0, as 0 does. ValueError on no, NaN or negative ratios.
    """
    values = _ratios(ratios)
    with np.errstate(divide="ignore", over="ignore"):  # 1 / 0 is infinite and then not the smaller one
        return float(np.minimum(values, 1 / values).mean())


def true_better(ratios: Sequence[float]) -> float:
    """Mean of max(0, 1 - x) of truth ratios, 0 to 1, high is good on retained data; errors as `closer_to_1_better`."""
    return float(np.maximum(0, 1 - _ratios(ratios)).mean())


def forget_quality_of(unlearned: Column, retrained: Column) -> Measure:
    """p-value of a two-sided Kolmogorov-Smirnov test between truth ratios, 0 to 1, as a function of row weights.

    High is good: the unlearned model and one that never saw the forget set cannot be told apart. With few rows it is
    high whatever the model does: it is comparable at equal numbers of rows only. Both models answered the same N
    questions; columns are in one order and hold `log_truth_ratio`, for the test sees the order of values alone. As many
    rows stand on either side, so that the p-value is exact (Gnedenko and Korolyuk 1951), as SciPy's default is up to
    10,000 rows. ValueError where the columns are about different rows.

    The interval of a score made of this is the spread of the p-value over forget sets of resampled documents. It is no
    confidence interval of a quantity that more rows would settle: between different models p falls with the number of
    rows, and rows sampled twice are steps twice as high, so that most resamples lie at or below the score.
    """
    if unlearned.documents != retrained.documents:
        raise ValueError("the two models' truth ratios are about different rows; give matched ones in the same order")
    values = np.concatenate([unlearned.values, retrained.values])
    order = np.argsort(values)
    ends = np.append(np.diff(values[order]) > 0, True)  # of ties, where both distributions have taken their step

    def compute(weights: Sequence[Numbers]) -> Numbers:
        steps = np.concatenate([weights[0], -weights[1]], axis=1)[:, order]
        return _exact_p(np.abs(steps.cumsum(1)[:, ends]).max(1), weights[0].sum(1))

    return Measure((unlearned, retrained), compute)


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilityTerms:
    """Means over one retained set, each within 0 to 1: `truth_ratio` is `true_better` of its rows.

    `probability` is plain on the retain set and `options_probability` on real authors and world facts.
    """

    probability: float
    rouge: float
    truth_ratio: float


def tofu_utility(*, retain: UtilityTerms, real_authors: UtilityTerms, world_facts: UtilityTerms) -> float:
    """Harmonic mean of nine terms, 0 to 1, high is good; 0 as soon as one is 0, ValueError on NaN or below 0."""
    return harmonic_mean(
        [
            x
            for terms in (retain, real_authors, world_facts)
            for x in (terms.probability, terms.rouge, terms.truth_ratio)
        ]
    )


def _exact_p(distances: Numbers, sizes: Numbers) -> Numbers:
    """P(n D >= h) for two samples of n each: 2 sum_k (-1)^(k-1) (2n choose n - kh) / (2n choose n), k >= 1.

    `distances` are h, `sizes` are n, whole numbers, both (S,).
    """
    from scipy.special import gammaln  # late: slow to import

    h, n = np.maximum(distances, 1)[:, None], sizes[:, None]  # h = 0 is as likely as h >= 1: certain
    shift = np.arange(1, int((n / h).max()) + 1) * h
    terms = np.exp(2 * gammaln(n + 1) - gammaln(np.maximum(n - shift, 0) + 1) - gammaln(n + shift + 1))
    signs = np.where(np.arange(shift.shape[1]) % 2, -2.0, 2.0)
    p_values: Numbers = np.clip((signs * terms * (shift <= n)).sum(1), 0.0, 1.0)
    return p_values


def _mean_of_losses(losses: Sequence[float]) -> float:
    return float(finite_values(losses, "mean token losses").mean())


def _arithmetic_loss(losses: Sequence[float]) -> float:
    values = finite_values(losses, "mean token losses")
    lowest = values.min()  # taken out, so that no probability rounds to 0
    return float(lowest - np.log(np.exp(lowest - values).mean()))


def _ratios(ratios: Sequence[float]) -> Numbers:
    values = np.asarray(ratios, dtype=np.float64)
    if not values.size:
        raise ValueError("no truth ratios; at least one is needed")
    odd = int((~(values >= 0)).sum())
    if odd:
        raise ValueError(f"{odd} of {values.size} truth ratios are NaN or negative; look for a diverged model")
    return values


def _exp(x: float) -> float:
    with np.errstate(over="ignore"):  # infinite, as documented, where math.exp would raise
        return float(np.exp(x))
