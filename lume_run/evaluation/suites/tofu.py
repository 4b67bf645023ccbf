"""TOFU (Maini et al., arXiv:2401.06121): forget quality, model utility and what they are made of.

Probability, ROUGE-L recall and truth ratio of four sets (`question_sets.py` says which rows), from one generation and
one scoring pass that A Closer Look shares. Model utility is a harmonic mean of nine and needs the real authors and
world facts, which only TOFU has; that of A Closer Look is of the sets there are. Two ways in which the published codes
compute a forget truth ratio other than eq. 1 stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lume_run.common.records import Question, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics import tofu
from lume_run.evaluation.metrics.bootstrap import Column, Measure, NamedMeasure
from lume_run.evaluation.question_sets import (
    EvaluatedSet,
    LossComparison,
    aggregate_measure,
    evaluated_set,
    evaluated_sets,
    set_measures,
    set_questions,
    sets_to_report,
)
from lume_run.evaluation.suites.base import Answers

UTILITY_SETS = (Split.RETAIN, Split.REAL_AUTHORS, Split.WORLD_FACTS)


@dataclass(frozen=True, kw_only=True)
class Tofu:
    """The score sheet of TOFU; its answers of a retrained model are those to the same forget questions."""

    compares: bool = setting(
        True, help="forget quality against a model retrained without the forget set, made where absent"
    )

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Greedy answers, and log-probs of right and false ones."""
        return set_questions(data)

    def scores(self, answers: Answers) -> list[Score]:
        """`tofu.<set>.<metric>` of forget, retain and what sets there are, two more of forget, forget quality, utility.

        Truth ratios are wrong over right: on forget rows the mean of min(x, 1/x), 1 is best; on others of max(0, 1-x).
        """
        sets = evaluated_sets(answers.responses)
        terms = {
            split: list(set_measures("tofu", evaluated, _tofu_ratio(split)).values())
            for split, evaluated in sets_to_report(sets).items()
        }
        forget = sets[Split.FORGET]
        measures = [term for group in terms.values() for term in group] + _other_ratios(forget)
        measures += [_forget_quality(forget, answers), _utility_of_three_sets(sets, terms)]
        return [measure.score(answers.bootstrap) for measure in measures]


def _tofu_ratio(split: Split) -> LossComparison:
    better = tofu.closer_to_1_better if split is Split.FORGET else tofu.true_better
    return lambda right, wrong: better([tofu.truth_ratio([right], wrong)])


def _other_ratios(forget: EvaluatedSet) -> list[NamedMeasure]:
    """The forget truth ratio with arithmetic means, and p / (p + wrong p), 0.5 where both are equally likely."""
    values: dict[str, LossComparison] = {"truth_ratio_arithmetic": _arithmetic, "truth_probability": _truth_probability}
    return [
        NamedMeasure(
            name=f"tofu.forget.{name}", n=len(forget.with_false_answers), make=partial(forget.mean_comparison, value)
        )
        for name, value in values.items()
    ]


def _arithmetic(right: float, wrong: Sequence[float]) -> float:
    return tofu.closer_to_1_better([tofu.arithmetic_truth_ratio([right], wrong)])


def _truth_probability(right: float, wrong: Sequence[float]) -> float:
    return tofu.truth_probability([right], wrong)


def _forget_quality(forget: EvaluatedSet, answers: Answers) -> NamedMeasure:
    """The p-value over the forget rows that both models answered; see `forget_quality_of` on its interval."""
    other = evaluated_set(answers.retrained or (), Split.FORGET)
    known = {row.id for row in other.with_false_answers}
    matched = [row for row in forget.with_false_answers if row.id in known]

    def make() -> Measure:
        answers.require_retrained("evaluator.suites.tofu.compares")
        ratios = forget.comparisons(_log_ratio)
        if not matched:
            raise ValueError("the retrained model answered none of these questions; its responses are of another task")
        sides = (ratios, other.comparisons(_log_ratio))
        documents = [row.document for row in matched]
        return tofu.forget_quality_of(*(Column.of([side[row.id] for row in matched], documents) for side in sides))

    return NamedMeasure(name="tofu.forget_quality", n=len(matched), make=make)


def _log_ratio(right: float, wrong: Sequence[float]) -> float:
    return tofu.log_truth_ratio([right], wrong)


def _utility_of_three_sets(sets: dict[Split, EvaluatedSet], terms: dict[Split, list[NamedMeasure]]) -> NamedMeasure:
    """The harmonic mean of nine, or the reason that names the sets which are not there."""
    name, n = "tofu.model_utility", sum(len(sets[split].texts) for split in UTILITY_SETS)
    absent = [split for split in UTILITY_SETS if not sets[split]]

    def make() -> Measure:
        if absent:
            what = " and ".join(absent)
            raise ValueError(f"needs {what} questions, which this task does not have; task=tofu has them")
        return aggregate_measure(
            name, n, [term for split in UTILITY_SETS for term in terms[split]], _nine_term_utility
        ).measure

    return NamedMeasure(name=name, n=n, make=make)


def _nine_term_utility(nine: Sequence[float]) -> float:
    triples = (
        tofu.UtilityTerms(probability=nine[start], rouge=nine[start + 1], truth_ratio=nine[start + 2])
        for start in (0, 3, 6)
    )
    retain, real_authors, world_facts = triples
    return tofu.tofu_utility(retain=retain, real_authors=real_authors, world_facts=world_facts)
