"""Membership inference by several attacks on whole documents; the loss attack's scoring pass serves most of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lume_run.common.records import Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.bootstrap import Column
from lume_run.evaluation.metrics.membership import (
    auc_of,
    gradient_score,
    loss_score,
    min_k,
    min_k_plus_plus,
    reference_score,
    tpr_at_fpr,
    zlib_score,
)
from lume_run.evaluation.suites.base import Answers, RowValue, column_of

MEMBERSHIP_SPLITS = {Split.MEMBER: "member documents", Split.NONMEMBER: "nonmember documents"}


@dataclass(frozen=True, kw_only=True)
class Membership:
    """AUC (0.5 is best) and true-positive rate at a low false-positive rate (low is good) of each attack."""

    k: float = setting(0.2, low=0, open_low=True, high=1, help="share of least likely tokens in min-k and min-k++")
    fpr: float = setting(0.01, low=0, high=1, help="false-positive rate at which true positives are counted")
    gradient: bool = setting(False, help="also attack by gradient norm: one backward pass for each document")
    compares: bool = setting(False, help="make a model retrained without the forget set, for the reference attack")

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Log-probs, and gradients where wanted, of member and non-member documents."""
        asks = (Ask.LOGPROB, Ask.GRADIENT) if self.gradient else (Ask.LOGPROB,)
        return [
            Question(example=example, ask=ask, moments=ask is Ask.LOGPROB)
            for ask in asks
            for example in (*data.members, *data.nonmembers)
        ]

    def scores(self, answers: Answers) -> list[Score]:
        """`mia.<attack>.auc` and `mia.<attack>.tpr`."""
        attacks: dict[str, RowValue] = {
            "loss": loss_attack_score,
            "zlib": lambda row: zlib_score(require_token_logps(row), row.expected),
            "min_k": lambda row: min_k(require_token_logps(row), self.k),
            "min_k_plus_plus": lambda row: min_k_plus_plus(require_token_logps(row), row.means, row.variances, self.k),
            "reference": _reference_attack(answers),
        }
        rows = membership_documents(answers)
        scores = [score for name, value in attacks.items() for score in self._pair(answers, name, rows, value)]
        if self.gradient:
            rows = membership_documents(answers, Ask.GRADIENT)
            scores += self._pair(answers, "gradient_norm", rows, lambda row: gradient_score(row.gradient))
        return scores

    def _pair(
        self, answers: Answers, attack: str, rows: Sequence[Sequence[Response]], value: RowValue
    ) -> tuple[Score, Score]:
        """AUC and true-positive rate of one attack on the rows of members and non-members."""
        n, columns = sum(map(len, rows)), partial(membership_columns, rows, value)
        return (
            answers.bootstrap.score(f"mia.{attack}.auc", n, lambda: auc_of(*columns())),
            answers.bootstrap.score(f"mia.{attack}.tpr", n, lambda: tpr_at_fpr(*columns(), self.fpr)),
        )


MembershipRows = tuple[list[Response], list[Response]]  # of members and of non-members


def membership_documents(answers: Answers, ask: Ask = Ask.LOGPROB) -> MembershipRows:
    """The whole documents of members and of non-members that a model was asked about."""
    members, nonmembers = (answers.rows(ask, split, kind=Kind.DOCUMENT) for split in MEMBERSHIP_SPLITS)
    return members, nonmembers


def retrained_documents(answers: Answers, setting: str) -> MembershipRows:
    """What the retrained model answered about the documents that the model was asked about; ValueError where some lack.

    `setting` makes such a model.
    """
    ids = {row.id for rows in membership_documents(answers) for row in rows}
    responses = [row for row in answers.require_retrained(setting) if row.id in ids]
    theirs = membership_documents(Answers(responses=responses, evaluator=answers.evaluator))
    if lacking := len(ids) - sum(map(len, theirs)):
        what = f"the retrained model was not asked about {lacking} of {len(ids)} documents"
        raise ValueError(f"{what}; its responses are of another task")
    return theirs


def membership_columns(rows: Sequence[Sequence[Response]], value: RowValue) -> tuple[Column, Column]:
    """A score of every member and of every non-member; ValueError where there are none, or one has no score."""
    members, nonmembers = (
        column_of(documents, value, what) for documents, what in zip(rows, MEMBERSHIP_SPLITS.values(), strict=True)
    )
    return members, nonmembers


def loss_attack_score(row: Response) -> float | None:
    """Mean token log-probability [nats], minus the loss, of the tokens' numbers where there are some; None without any.

    ValueError where a token's number is not finite. `semeval.mean_logp_or_nan` is of the stored sum alone.
    """
    if row.logps or row.logp_sum is None or not row.tokens:
        return loss_score(row.logps)
    return row.logp_sum / row.tokens  # responses of the official script hold no more


def require_token_logps(row: Response) -> Sequence[float]:
    """Log-probability [nats] of each token; ValueError where the responses hold their sums only."""
    if row.tokens and row.logp_sum is not None and not row.logps:
        raise ValueError("the responses hold no log-probabilities of single tokens; run stages=[evaluate] again")
    return row.logps


def _reference_attack(answers: Answers) -> RowValue:
    """How much likelier a document is here than under the retrained model."""
    known = {row.id: row for row in answers.retrained or () if row.ask is Ask.LOGPROB and row.kind is Kind.DOCUMENT}

    def value(row: Response) -> float | None:
        answers.require_retrained("evaluator.suites.mia.compares")
        if row.id not in known:
            what = f"the retrained model was not asked about '{row.document}'"
            raise ValueError(f"{what}; its responses are of another task")
        ours, theirs = loss_attack_score(row), loss_attack_score(known[row.id])
        return None if ours is None or theirs is None else reference_score(-ours, -theirs)

    return value
