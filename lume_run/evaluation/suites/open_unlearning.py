"""open-unlearning's overall score (arXiv:2506.12618): what is left of the forget answers, who was in the training data,
what still works.

- memorisation: the harmonic mean of 1 - extraction strength, 1 - exact memorisation, 1 - probability of the answer in
  other words, and 1 - p / (p + wrong p) of the truth ratio, over forget questions
- privacy: the harmonic mean over four attacks of max(0, 1 - |AUC - AUC of the retrained model| / that)
- utility: the harmonic mean of model utility and fluency, both as shares of the model's before unlearning, at most 1

Model utility is TOFU's harmonic mean of probability, ROUGE-L recall and truth ratio, over the sets beside forget that
the task has. Fluency is that of the answers to forget questions: the mean probability of `clean` by a classifier of
gibberish, as in the paper, where one is named, else their n-gram entropy, as RWKU measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lume_run.common.records import Ask, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics import tofu
from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.evaluation.metrics.bootstrap import Measure, NamedMeasure, combine
from lume_run.evaluation.metrics.membership import auc_of, min_k, min_k_plus_plus, zlib_score
from lume_run.evaluation.metrics.rwku import ngram_entropy
from lume_run.evaluation.question_sets import (
    PARAPHRASE_VARIANT,
    EvaluatedSet,
    aggregate_measure,
    evaluated_set,
    evaluated_sets,
    set_questions,
)
from lume_run.evaluation.suites.base import (
    Answers,
    Judgement,
    Judgements,
    RowValue,
    judgements_by_id,
    judgements_in,
    mean_over,
)
from lume_run.evaluation.suites.memorisation import METRICS, row_probability
from lume_run.evaluation.suites.mia import (
    loss_attack_score,
    membership_columns,
    membership_documents,
    require_token_logps,
    retrained_documents,
)

PREFIX = "open_unlearning"
FORGET_TEXTS = "forget texts"
OF_MODEL, OF_TARGET = "", "before"  # variants of what is judged


@dataclass(frozen=True, kw_only=True)
class OpenUnlearning:
    """Memorisation, privacy, utility, and the harmonic mean of the three."""

    k: float = setting(0.4, low=0, open_low=True, high=1, help="share of least likely tokens in min-k and min-k++")
    compares: bool = setting(True, help="privacy against a model retrained without the forget set, made where absent")
    classifier: str | None = setting(None, help="classifier of gibberish (id or folder) for fluency; null: n-grams")

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """What TOFU's suite asks, and log-probs with moments of member and non-member documents."""
        documents = (*data.members, *data.nonmembers)
        return set_questions(data) + [Question(example=row, ask=Ask.LOGPROB, moments=True) for row in documents]

    def judges(self) -> list[tuple[Ask, str]]:
        """The classifier, where there is one."""
        return [(Ask.FLUENCY, self.classifier)] if self.classifier else []

    def judgements(self, answers: Answers) -> list[Judgement]:
        """The answers to forget questions, and those of the model before unlearning."""
        rows = {OF_MODEL: answers.responses, OF_TARGET: answers.target or ()} if self.classifier else {}
        return [
            Judgement(
                ask=Ask.FLUENCY, model=str(self.classifier), response=row, first=row.output, second="", variant=variant
            )
            for variant, responses in rows.items()
            for row in evaluated_set(responses, Split.FORGET).texts
            if row.output is not None
        ]

    def scores(self, answers: Answers) -> list[Score]:
        """`open_unlearning.<memorisation|privacy|utility|overall>`."""
        sets = evaluated_sets(answers.responses)
        parts = [_memorisation(sets[Split.FORGET]), self._privacy(answers), self._utility(sets, answers)]
        overall = aggregate_measure(f"{PREFIX}.overall", sum(part.n for part in parts), parts, harmonic_mean)
        return [part.score(answers.bootstrap) for part in (*parts, overall)]

    def _privacy(self, answers: Answers) -> NamedMeasure:
        rows = membership_documents(answers)
        attacks: list[RowValue] = [
            loss_attack_score,
            lambda row: zlib_score(require_token_logps(row), row.expected),
            lambda row: min_k(require_token_logps(row), self.k),
            lambda row: min_k_plus_plus(require_token_logps(row), row.means, row.variances, self.k),
        ]

        def make() -> Measure:
            theirs = retrained_documents(answers, f"evaluator.suites.{PREFIX}.compares")
            pairs = [(attack, of_model) for attack in attacks for of_model in (rows, theirs)]
            return combine([auc_of(*membership_columns(of_model, attack)) for attack, of_model in pairs], _closeness)

        return NamedMeasure(name=f"{PREFIX}.privacy", n=sum(map(len, rows)), make=make)

    def _utility(self, sets: dict[Split, EvaluatedSet], answers: Answers) -> NamedMeasure:
        def make() -> Measure:
            if answers.target is None:
                raise ValueError("there are no answers of the model before unlearning; a run that unlearns has them")
            before = evaluated_sets(answers.target)
            judgements = judgements_in(answers.responses)
            parts: list[Measure] = []
            for variant, of_model in {OF_MODEL: sets, OF_TARGET: before}.items():
                texts = of_model[Split.FORGET].texts
                fluency = _clean_share(texts, judgements, variant) if self.classifier else _mean_entropy(texts)
                parts += [_model_utility(of_model), fluency]
            return combine(parts, _relative)

        n = sum(len(evaluated.texts) for evaluated in sets.values())
        return NamedMeasure(name=f"{PREFIX}.utility", n=n, make=make)


def _closeness(areas: Sequence[float]) -> float:
    """The harmonic mean of how near AUCs are to the retrained model's; they stand in pairs, one pair an attack."""
    pairs = zip(areas[::2], areas[1::2], strict=True)
    return harmonic_mean([max(0.0, 1 - abs(ours - theirs) / theirs) if theirs else 0.0 for ours, theirs in pairs])


def _memorisation(forget: EvaluatedSet) -> NamedMeasure:
    paraphrased = [row for row in forget.logprobs.values() if row.variant == PARAPHRASE_VARIANT]

    def make() -> Measure:
        parts = [
            mean_over(forget.answers, METRICS["extraction_strength"], "forget answers"),
            mean_over(forget.answers, METRICS["exact_memorisation"], "forget answers"),
            mean_over(paraphrased, row_probability, "forget answers in other words"),
            forget.mean_comparison(_truth_share),
        ]
        return combine(parts, lambda known: harmonic_mean([max(0.0, 1 - share) for share in known]))

    return NamedMeasure(name=f"{PREFIX}.memorisation", n=len(forget.answers), make=make)


def _truth_share(right: float, wrong: Sequence[float]) -> float:
    return tofu.truth_probability([right], wrong)


def _relative(values: Sequence[float]) -> float:
    """The harmonic mean of utility and fluency as shares of those before unlearning."""
    utility, fluency, utility_before, fluency_before = values
    pairs = ((utility, utility_before), (fluency, fluency_before))
    return harmonic_mean([min(1.0, after / before) if before else 0.0 for after, before in pairs])


def _model_utility(sets: dict[Split, EvaluatedSet]) -> Measure:
    """The harmonic mean of the three means of every set but forget; of a set without false answers of two."""
    kept = [evaluated for split, evaluated in sets.items() if split is not Split.FORGET and evaluated]
    if not kept:
        raise ValueError("the task has no questions but forget ones")
    parts = [part for evaluated in kept for part in (evaluated.probability(), evaluated.rouge())]
    parts += [evaluated.mean_comparison(_truth) for evaluated in kept if evaluated.with_false_answers]
    return combine(parts, harmonic_mean)


def _truth(right: float, wrong: Sequence[float]) -> float:
    return tofu.true_better([tofu.truth_ratio([right], wrong)])


def _clean_share(texts: Sequence[Response], judgements: Judgements, variant: str) -> Measure:
    """The mean probability that texts are no gibberish."""
    written = [row for row in texts if row.output is not None]
    by_id = judgements_by_id(written, judgements, Ask.FLUENCY, lambda row: variant)
    return mean_over(texts, lambda row: by_id[row.id].clean if row.id in by_id else None, FORGET_TEXTS)


def _mean_entropy(texts: Sequence[Response]) -> Measure:
    def value(row: Response) -> float | None:
        return None if row.output is None else ngram_entropy(row.output)

    return mean_over(texts, value, FORGET_TEXTS)
