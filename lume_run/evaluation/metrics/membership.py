"""Membership inference: does a score separate members from non-members?

The loss attack of Yeom et al. 2018 (arXiv:1709.01604) as scored by SemEval-2025 Task 4: a document's score is its mean
token log-probability, the AUC is best at 0.5, near 1 the model still remembers and near 0 it was unlearned too far.

Shapes: S resamples, M members, N non-members.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lume_run.evaluation.metrics.bootstrap import Column, Interval, Measure, Numbers, finite_values

NORMAL_95 = 1.959964  # standard deviations on either side that hold 95 % of a normal distribution
BISECTIONS = 50
CHANCE = 0.5  # the AUC of scores that tell nothing
VARIANCE_FLOOR = 1e-6  # [nats^2], of min-k++ in open-unlearning: a certain token has variance 0


def auc_of(members: Column, nonmembers: Column) -> Measure:
    """Area under the ROC curve of "a higher score means member", 0 to 1; a tie counts one half.

    The share of weight of (member, non-member) pairs in the right order: Hanley and McNeil 1982.
    """
    order = np.argsort(nonmembers.values)
    ranked = nonmembers.values[order]
    under, upto = (np.searchsorted(ranked, members.values, side=side) for side in ("left", "right"))

    def compute(weights: Sequence[Numbers]) -> Numbers:
        inside, outside = weights[0], cumulative_weights(weights[1][:, order])  # (S, M), (S, N + 1)
        beaten = (outside[:, under] + outside[:, upto]) / 2  # (S, M): weight below each member, of ties the half
        area: Numbers = (inside * beaten).sum(1) / (inside.sum(1) * outside[:, -1])
        return area

    alone = Measure((members, nonmembers), compute)
    counts = [len(set(column.documents)) for column in alone.columns]
    return replace(alone, ends=lambda: auc_interval(alone.value, *counts))


def auc_interval(area: float, members: int, nonmembers: int) -> Interval:
    """The 95 % interval of an AUC over so many documents: all areas t with (t - area)^2 <= z^2 Var(t).

    Var(t) = t (1 - t) (1 + N ((1 - t) / (2 - t) + t / (1 + t))) / (m n), N = (m + n) / 2 - 1: Newcombe 2006, method 5,
    after Hanley and McNeil. It has a width where all are told apart, which resamples have not.
    """
    middle = (members + nonmembers) / 2 - 1

    def is_within(t: float) -> bool:
        variance = t * (1 - t) * (1 + middle * ((1 - t) / (2 - t) + t / (1 + t))) / (members * nonmembers)
        return (t - area) ** 2 <= NORMAL_95**2 * variance

    def end(beyond: float) -> float:
        inside = area
        if is_within(beyond) or beyond == area:
            return beyond
        for _ in range(BISECTIONS):
            half = (inside + beyond) / 2
            inside, beyond = (half, beyond) if is_within(half) else (inside, half)
        return inside

    return Interval(end(0.0), end(1.0))


def cumulative_weights(weights: Numbers) -> Numbers:
    """Weight of the first 0 to N rows, (S, N + 1), of weights (S, N)."""
    return np.concatenate([np.zeros((len(weights), 1)), weights.cumsum(1)], axis=1)


def auc(member_scores: Sequence[float], nonmember_scores: Sequence[float]) -> float:
    """`auc_of` as a number; ValueError where a class is missing or a score is NaN or infinite."""
    return auc_of(
        _single_row_documents(member_scores, "member scores"),
        _single_row_documents(nonmember_scores, "nonmember scores"),
    ).value


def _single_row_documents(scores: Sequence[float], what: str) -> Column:
    """Every score about a document of its own."""
    return Column.of(scores, [str(number) for number in range(len(scores))], what)


def semeval_mia(auc: float) -> float:
    """1 at an AUC of 0.5, 0 at either end: `1 - 2 |AUC - 0.5|`."""
    return 1 - 2 * abs(auc - CHANCE)


def loss_score(token_logps: Sequence[float]) -> float | None:
    """Mean token log-probability [nats], at most 0: minus the loss of Yeom et al., arXiv:1709.01604."""
    if not len(token_logps):
        return None
    return float(finite_values(token_logps, "token log-probabilities").mean())


def zlib_score(token_logps: Sequence[float], text: str) -> float | None:
    """Mean token log-probability [nats] over the bytes of the zlib-compressed UTF-8 text, at most 0.

    Carlini et al., arXiv:2012.07805. The empty text still compresses to 8 bytes. Python builds with another zlib may
    differ by a byte or so.
    """
    score = loss_score(token_logps)
    return None if score is None else score / len(zlib.compress(text.encode("utf-8")))


def min_k(token_logps: Sequence[float], k: float = 0.2) -> float | None:
    """Mean of the share `k` (above 0, up to 1) of least likely tokens [nats], at least one token; at most 0.

    Shi et al., arXiv:2310.16789: k = 0.2; MUSE takes 0.4, and NaN where its share is below one token.
    """
    if not len(token_logps):
        return None
    return _mean_of_lowest(finite_values(token_logps, "token log-probabilities"), k)


def min_k_plus_plus(
    token_logps: Sequence[float], means: Sequence[float], variances: Sequence[float], k: float = 0.2
) -> float | None:
    """Min-k of log-probabilities standardised by the vocabulary; no unit, no bounds.

    Zhang et al., arXiv:2404.02936. `means` [nats] and `variances` [nats^2] are those of log p over the next
    token under p itself, at the same places as `token_logps`; a variance below 1e-6 counts as 1e-6.
    """
    if not len(token_logps) == len(means) == len(variances):
        sizes = f"{len(token_logps)} log-probabilities, {len(means)} means, {len(variances)} variances"
        raise ValueError(f"{sizes}; give one of each per token")
    if not len(token_logps):
        return None
    logps = finite_values(token_logps, "token log-probabilities")
    spread = np.sqrt(np.maximum(finite_values(variances, "variances"), VARIANCE_FLOOR))
    return _mean_of_lowest((logps - finite_values(means, "means")) / spread, k)


def reference_score(loss: float, reference_loss: float) -> float:
    """Mean token loss under a reference model minus that under the model [nats], no bounds.

    Carlini et al., arXiv:2012.07805: a document that is likelier here than under a model that never saw it is a member.
    """
    finite_values((loss, reference_loss), "losses")
    return reference_loss - loss


def gradient_score(gradient: float | None) -> float | None:
    """Minus the norm of the loss gradient: a small gradient means member. None where there is no gradient.

    White-box attack of Wang et al., arXiv:2402.17012. open-unlearning takes the mean of the 2-norms of all weights'
    gradients, with dropout on; `records.Response.gradient` is that mean with dropout off.
    """
    return None if gradient is None else -gradient


def tpr_at_fpr(members: Column, nonmembers: Column, fpr: float = 0.01) -> Measure:
    """Largest share of members above a threshold that at most the share `fpr` of non-members reaches; 0 to 1.

    Carlini et al., arXiv:2112.03570. Only thresholds that exist count, nothing is interpolated: under 1 % and fewer
    than 100 non-members none of them may pass. Chance level is about `fpr`, 1 is full recognition. ValueError on an
    `fpr` that is no fraction.
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr is {fpr}; give a fraction within 0 to 1, not a percentage")
    inner, outer = (np.argsort(-column.values) for column in (members, nonmembers))
    # How many reach each member's score, from the top: a threshold between two members' scores gains nothing.
    thresholds = -members.values[inner]
    caught, mistaken = (
        np.searchsorted(-column.values[order], thresholds, side="right")
        for column, order in ((members, inner), (nonmembers, outer))
    )

    def compute(weights: Sequence[Numbers]) -> Numbers:
        inside, outside = (
            cumulative_weights(weights[0][:, inner]),
            cumulative_weights(weights[1][:, outer]),
        )  # (S, M + 1), (S, N + 1)
        true, false = inside[:, caught] / inside[:, -1:], outside[:, mistaken] / outside[:, -1:]  # (S, M)
        best: Numbers = np.where(false <= fpr, true, 0.0).max(1)
        return best

    return Measure((members, nonmembers), compute)


def _mean_of_lowest(values: Numbers, k: float) -> float:
    if not 0 < k <= 1:
        raise ValueError(f"k is {k}; give a fraction above 0 and up to 1, not a percentage")
    return float(np.sort(values)[: max(1, int(values.size * k))].mean())
