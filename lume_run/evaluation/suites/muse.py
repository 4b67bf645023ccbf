"""MUSE (Shi et al., arXiv:2407.06460): verbatim and knowledge memorisation, and privacy leakage.

Texts are asked for under a variant of their own, since the paper's are shorter than those of other suites: 128 tokens
of a document, whose continuation is compared over the same length, and 32 of an answer. Privacy leakage compares the
attack's AUC with that of a model that never saw the forget set, both on the same documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lume_run.common.records import Ask, Example, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.bootstrap import Measure, combine
from lume_run.evaluation.metrics.membership import auc_of, min_k
from lume_run.evaluation.metrics.muse import (
    BOOKS_RETRAINED_AUC,
    NEWS_RETRAINED_AUC,
    knowledge_memorisation,
    privacy_leakage,
    verbatim_memorisation,
)
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.mia import (
    MembershipRows,
    membership_columns,
    membership_documents,
    require_token_logps,
    retrained_documents,
)
from lume_run.methods.needs import asked_rows

MUSE_VARIANT = "muse"
TEXT_METRICS = {
    Kind.COMPLETION: ("verbatim", verbatim_memorisation),
    Kind.QUESTION: ("knowledge", knowledge_memorisation),
}
COMPARES = "evaluator.suites.muse.compares"
PUBLISHED = {"news": NEWS_RETRAINED_AUC, "books": BOOKS_RETRAINED_AUC}


@dataclass(frozen=True, kw_only=True)
class Muse:
    """The paper's scores; ROUGE-L F1 as a fraction, privacy leakage in percent.

    `published` takes the AUC of the paper's own retrained Llama 2 7B on News or Books: right for that model and those
    texts only.
    """

    verbatim_tokens: int = setting(128, low=1, help="longest continuation of a document [tokens]")
    answer_tokens: int = setting(32, low=1, help="longest answer to a question [tokens]")
    k: float = setting(0.4, low=0, open_low=True, high=1, help="share of least likely tokens in privacy leakage")
    published: Literal["none", "news", "books"] = setting(
        "none", help="privacy leakage against the paper's retrained model on this corpus, not one of this run"
    )
    compares: bool = setting(True, help="make a model retrained without the forget set, for privacy leakage")

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Greedy continuations and answers of forget and retain prompts, log-probs of (non-)member documents."""
        limits = {Kind.COMPLETION: self.verbatim_tokens, Kind.QUESTION: self.answer_tokens}

        def question(example: Example) -> Question:
            return Question(example=example, ask=Ask.GENERATE, variant=MUSE_VARIANT, limit=limits[example.kind])

        texts = [
            question(example) for example in asked_rows(data, Split.FORGET, Split.RETAIN) if example.kind in limits
        ]
        documents = [Question(example=example, ask=Ask.LOGPROB) for example in (*data.members, *data.nonmembers)]
        return texts + documents

    def scores(self, answers: Answers) -> list[Score]:
        """`muse.<split>.<verbatim|knowledge>` and `muse.privacy_leakage`."""
        texts = [
            self._memorisation(answers, split, kind) for split in (Split.FORGET, Split.RETAIN) for kind in TEXT_METRICS
        ]
        n = sum(map(len, membership_documents(answers)))
        return [*texts, answers.bootstrap.score("muse.privacy_leakage", n, lambda: self._leakage(answers))]

    def _memorisation(self, answers: Answers, split: Split, kind: Kind) -> Score:
        name, metric = TEXT_METRICS[kind]
        rows = answers.rows(Ask.GENERATE, split, kind=kind, variant=MUSE_VARIANT)

        def value(row: Response) -> float | None:
            return None if row.output is None else metric(row.expected, row.output)

        return answers.mean(f"muse.{split}.{name}", rows, value, f"{split} {kind} texts")

    def _leakage(self, answers: Answers) -> Measure:
        """Against the published AUC, or the retrained model's, resampled by the same documents."""
        auc = self._auc(membership_documents(answers))
        if self.published != "none":
            published = PUBLISHED[self.published]
            return combine([auc], lambda aucs: privacy_leakage(aucs[0], published))
        retrained_auc = self._auc(retrained_documents(answers, COMPARES))
        return combine([auc, retrained_auc], lambda aucs: privacy_leakage(aucs[0], aucs[1]))

    def _auc(self, rows: MembershipRows) -> Measure:
        return auc_of(*membership_columns(rows, lambda row: min_k(require_token_logps(row), self.k)))
