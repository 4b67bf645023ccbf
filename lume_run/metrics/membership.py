"""Membership inference: can members be told from non-members by a score?

The loss attack of Yeom et al. 2018 (arXiv:1709.01604) as scored by SemEval-2025 Task 4: a document's score is its mean
token log-probability, the AUC is best at 0.5, near 1 the model still remembers and near 0 it was unlearned too far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def auc(member_scores: Sequence[float], nonmember_scores: Sequence[float]) -> float:
    """Area under the ROC curve of "a higher score means member"; a tie counts one half."""
    for name, scores in (("member", member_scores), ("nonmember", nonmember_scores)):
        if not scores:
            raise ValueError(f"no {name} scores; an AUC needs documents of both classes, so give some {name} documents")
        odd = sum(not math.isfinite(score) for score in scores)
        if odd:
            raise ValueError(
                f"{odd} of {len(scores)} {name} scores are NaN or infinite; "
                "look for a diverged model, or evaluate in a wider dtype"
            )
    from sklearn.metrics import roc_auc_score  # late: slow to import

    labels = [1] * len(member_scores) + [0] * len(nonmember_scores)
    return float(roc_auc_score(labels, [*member_scores, *nonmember_scores]))


def semeval_mia(auc: float) -> float:
    """1 at an AUC of 0.5, 0 at either end: `1 - 2 |AUC - 0.5|`."""
    return 1 - 2 * abs(auc - 0.5)
