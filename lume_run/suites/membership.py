"""Membership inference by several attacks on whole documents; the loss attack's scoring pass serves most of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lume_run.metrics.attacks import (
    gradient_score,
    loss_score,
    min_k,
    min_k_plus_plus,
    reference_score,
    tpr_at_fpr,
    zlib_score,
)
from lume_run.metrics.membership import auc_of
from lume_run.metrics.uncertainty import Column
from lume_run.records import Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.settings import Evaluator, setting
from lume_run.suites.contract import Answers, RowValue, column_of

SIDES = {Split.MEMBER: "member documents", Split.NONMEMBER: "nonmember documents"}


@dataclass(frozen=True, kw_only=True)
class Membership:
    """AUC (0.5 is best) and true-positive rate at a low false-positive rate (low is good) of each attack."""

    k: float = setting(0.2, low=0, open_low=True, high=1, help="share of least likely tokens in min-k and min-k++")
    fpr: float = setting(0.01, low=0, high=1, help="false-positive rate at which true positives are counted")
    gradient: bool = setting(False, help="also attack by gradient norm: one backward pass for each document")
    compares: bool = setting(False, help="make a model retrained without the forget set, for the reference attack")

    def asks(self, data: TaskData, evaluator: Evaluator) -> list[Question]:
        """Log-probs, and gradients where wanted, of member and non-member documents."""
        asks = (Ask.LOGPROB, Ask.GRADIENT) if self.gradient else (Ask.LOGPROB,)
        return [Question(example=example, ask=ask) for ask in asks for example in (*data.members, *data.nonmembers)]

    def scores(self, answers: Answers) -> list[Score]:
        """`mia.<attack>.auc` and `mia.<attack>.tpr`."""
        attacks: dict[str, RowValue] = {
            "loss": lambda row: loss_score(row.logps),
            "zlib": lambda row: zlib_score(row.logps, row.expected),
            "min_k": lambda row: min_k(row.logps, self.k),
            "min_k_plus_plus": lambda row: min_k_plus_plus(row.logps, row.means, row.variances, self.k),
            "reference": partial(_against, _by_id(answers.retrained)),
        }
        found = [
            score for name, value in attacks.items() for score in self._pair(answers, name, documents(answers), value)
        ]
        if self.gradient:
            rows = documents(answers, Ask.GRADIENT)
            found += self._pair(answers, "gradient_norm", rows, lambda row: gradient_score(row.gradient))
        return found

    def _pair(
        self, answers: Answers, attack: str, rows: Sequence[Sequence[Response]], value: RowValue
    ) -> tuple[Score, Score]:
        """AUC and true-positive rate of one attack on the rows of members and non-members."""
        n, columns = sum(map(len, rows)), partial(sides, rows, value)
        return (
            answers.bootstrap.score(f"mia.{attack}.auc", n, lambda: auc_of(*columns())),
            answers.bootstrap.score(f"mia.{attack}.tpr", n, lambda: tpr_at_fpr(*columns(), self.fpr)),
        )


def documents(answers: Answers, ask: Ask = Ask.LOGPROB) -> tuple[list[Response], list[Response]]:
    """The whole documents of members and of non-members that a model was asked about."""
    members, nonmembers = (answers.rows(ask, split, kind=Kind.DOCUMENT) for split in SIDES)
    return members, nonmembers


def sides(rows: Sequence[Sequence[Response]], value: RowValue) -> tuple[Column, Column]:
    """A score of every member and of every non-member; ValueError where there are none, or one has no score."""
    members, nonmembers = (column_of(own, value, what) for own, what in zip(rows, SIDES.values(), strict=True))
    return members, nonmembers


def _by_id(retrained: Sequence[Response] | None) -> dict[str, Response] | None:
    if retrained is None:
        return None
    return {row.id: row for row in retrained if row.ask is Ask.LOGPROB and row.kind is Kind.DOCUMENT}


def _against(retrained: dict[str, Response] | None, row: Response) -> float | None:
    """How much likelier a document is here than under the retrained model."""
    if retrained is None:
        raise ValueError(
            "there are no answers of a model retrained without the forget set; set evaluator.metrics.mia.compares="
            "true to make one, or evaluator.retrained_responses=FILE"
        )
    if row.id not in retrained:
        raise ValueError(f"the retrained model was not asked about '{row.document}'; its responses are of another task")
    ours, theirs = loss_score(row.logps), loss_score(retrained[row.id].logps)
    return None if ours is None or theirs is None else reference_score(-ours, -theirs)
