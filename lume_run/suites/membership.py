"""Membership inference by several attacks on whole documents, from the same scoring pass as the loss attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lume_run.metrics.attacks import loss_score, min_k, min_k_plus_plus, tpr_at_fpr, zlib_score
from lume_run.metrics.membership import auc
from lume_run.metrics.semeval import membership_rows
from lume_run.records import Ask, Question, Response, Score, Split, TaskData
from lume_run.settings import Evaluator, setting


@dataclass(frozen=True, kw_only=True)
class Membership:
    """AUC (0.5 is best) and true-positive rate at a low false-positive rate (low is good) of each attack."""

    k: float = setting(0.2, low=0, open_low=True, high=1, help="share of least likely tokens in min-k and min-k++")
    fpr: float = setting(0.01, low=0, high=1, help="false-positive rate at which true positives are counted")

    def asks(self, data: TaskData, evaluator: Evaluator) -> list[Question]:
        """Log-probs of member and non-member documents."""
        return [Question(example=example, ask=Ask.LOGPROB) for example in (*data.members, *data.nonmembers)]

    def scores(self, responses: Sequence[Response], evaluator: Evaluator) -> list[Score]:
        """`mia.<attack>.auc` and `mia.<attack>.tpr`."""
        members, nonmembers = (membership_rows(responses, split) for split in (Split.MEMBER, Split.NONMEMBER))
        found: list[Score] = []
        for attack, judge in self.attacks().items():
            inside, outside = (
                [score for row in rows if (score := judge(row)) is not None] for rows in (members, nonmembers)
            )
            names, n = [f"mia.{attack}.{what}" for what in ("auc", "tpr")], len(inside) + len(outside)
            if n < len(members) + len(nonmembers) or not inside or not outside:
                reason = "needs documents of both kinds, all with finite log-probabilities of at least one token"
                found += [Score(name=name, value=None, n=n, reason=reason) for name in names]
                continue
            measured = (auc(inside, outside), tpr_at_fpr(inside, outside, self.fpr))
            found += [Score(name=name, value=value, n=n) for name, value in zip(names, measured, strict=True)]
        return found

    def attacks(self) -> dict[str, Callable[[Response], float | None]]:
        """Scores of one document by each attack; higher means likelier a member."""
        return {
            "loss": lambda row: loss_score(row.logps),
            "zlib": lambda row: zlib_score(row.logps, row.expected),
            "min_k": lambda row: min_k(row.logps, self.k),
            "min_k_plus_plus": lambda row: min_k_plus_plus(row.logps, row.means, row.variances, self.k),
        }
