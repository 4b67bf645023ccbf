"""Membership inference: can members be told from non-members by a score?

The loss attack of Yeom et al. 2018 (arXiv:1709.01604) as scored by SemEval-2025 Task 4: a document's score is its mean
token log-probability, the AUC is best at 0.5, near 1 the model still remembers and near 0 it was unlearned too far.

Shapes: S resamples, M members, N non-members.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lume_run.metrics.uncertainty import Column, Measure, Numbers


def auc_of(members: Column, nonmembers: Column) -> Measure:
    """Area under the ROC curve of "a higher score means member", 0 to 1; a tie counts one half.

    The share of weight of (member, non-member) pairs in the right order: Hanley and McNeil 1982.
    """
    order = np.argsort(nonmembers.values)
    ranked = nonmembers.values[order]
    under, upto = (np.searchsorted(ranked, members.values, side=side) for side in ("left", "right"))

    def compute(weights: Sequence[Numbers]) -> Numbers:
        inside, outside = weights[0], running(weights[1][:, order])  # (S, M), (S, N + 1)
        beaten = (outside[:, under] + outside[:, upto]) / 2  # (S, M): weight below each member, of ties the half
        area: Numbers = (inside * beaten).sum(1) / (inside.sum(1) * outside[:, -1])
        return area

    return Measure((members, nonmembers), compute)


def running(weights: Numbers) -> Numbers:
    """Weight of the first 0 to N rows, (S, N + 1), of weights (S, N)."""
    return np.concatenate([np.zeros((len(weights), 1)), weights.cumsum(1)], axis=1)


def auc(member_scores: Sequence[float], nonmember_scores: Sequence[float]) -> float:
    """`auc_of` as a number; ValueError where a class is missing or a score is NaN or infinite."""
    return auc_of(_alone(member_scores, "member scores"), _alone(nonmember_scores, "nonmember scores")).value


def _alone(scores: Sequence[float], what: str) -> Column:
    """Every score about a document of its own."""
    return Column.of(scores, [str(number) for number in range(len(scores))], what)


def semeval_mia(auc: float) -> float:
    """1 at an AUC of 0.5, 0 at either end: `1 - 2 |AUC - 0.5|`."""
    return 1 - 2 * abs(auc - 0.5)
