"""A Closer Look at Machine Unlearning for LLMs (Yuan et al., arXiv:2410.08109): six means of a set, utility, efficacy.

Rows and log-probabilities are those of TOFU (`question_sets.py`); cosine and entailment are judged by two other models.
Model utility is of all sets the task has but the forget set, three of TOFU, one of others; where a single term is
unavailable, there is none. The paper's cap of 300 rows a set is not reproduced: TOFU's retain set has its 400.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lume_run.common.records import Ask, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics import closer_look
from lume_run.evaluation.metrics.bootstrap import Measure, NamedMeasure
from lume_run.evaluation.metrics.closer_look import SetMeans
from lume_run.evaluation.metrics.tofu import truth_ratio
from lume_run.evaluation.question_sets import (
    SET_SPLITS,
    EvaluatedSet,
    LossComparison,
    aggregate_measure,
    evaluated_set,
    evaluated_sets,
    set_measures,
    set_questions,
    sets_to_report,
    text_recall,
)
from lume_run.evaluation.suites.base import (
    Answers,
    Judgement,
    Judgements,
    judgements_by_id,
    judgements_in,
    mean_over,
)

MEANS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine", "entailment")  # the order of SetMeans
EFFICACY = tuple(name for name in MEANS if name != "token_entropy")

Terms = dict[str, NamedMeasure]  # of one set, by their names in MEANS


@dataclass(frozen=True, kw_only=True)
class CloserLook:
    """The score sheet of the paper; `compat` keeps two ways of the released code.

    A text of one token has token entropy 0 there and 1 here: it repeats nothing. Of entailment there, the reference is
    the premise on TOFU's sets other than forget, and the text everywhere else; here the task makes no difference: on
    forget the text is the premise, what it says must be the whole answer, elsewhere the reference, nothing may be
    added to it.
    """

    embedder: str = setting("sentence-transformers/paraphrase-MiniLM-L6-v2", help="sentence embedder: id or folder")
    entailment: str = setting("sileod/deberta-v3-base-tasksource-nli", help="entailment classifier: id or folder")
    compat: bool = setting(False, help="token entropy and direction of entailment as in the released code")

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Greedy answers, and log-probs of right and false ones."""
        return set_questions(data)

    def judges(self) -> list[tuple[Ask, str]]:
        """The embedder and the classifier."""
        return [(Ask.COSINE, self.embedder), (Ask.ENTAILMENT, self.entailment)]

    def judgements(self, answers: Answers) -> list[Judgement]:
        """Text and reference for the embedder, and for the classifier where they have words in common.

        References are sentences where there are some; else the embedder gets the answer that was learned, the
        classifier the one that is scored.
        """
        judgements = []
        for split in SET_SPLITS:
            for row in evaluated_set(answers.responses, split).texts:
                if row.output is not None:
                    judgements.append(self._cosine_judgement(row, row.output))
                    judgements += [self._entailment_judgement(row, row.output)] if _can_entail(row) else []
        return judgements

    def _cosine_judgement(self, row: Response, text: str) -> Judgement:
        learned = row.sentence or row.expected
        return Judgement(ask=Ask.COSINE, model=self.embedder, response=row, first=text, second=learned)

    def _entailment_judgement(self, row: Response, text: str) -> Judgement:
        first, second = self._pair(row, text, row.sentence or row.golden or row.expected)
        return Judgement(
            ask=Ask.ENTAILMENT,
            model=self.entailment,
            response=row,
            first=first,
            second=second,
            variant=self._direction(row),
        )

    def scores(self, answers: Answers) -> list[Score]:
        """`closer_look.<set>.<mean>` of forget, retain and what sets there are, then utilities and efficacy.

        High is good, of a forget set low, token entropy excepted.
        """
        terms = self.terms(answers.responses)
        means = [term for group in terms.values() for term in group.values()]
        return [term.score(answers.bootstrap) for term in (*means, *aggregates(terms))]

    def terms(self, responses: Sequence[Response]) -> dict[Split, Terms]:
        """The six means of forget, retain and what other sets there are."""
        judgements = judgements_in(responses)
        sets = sets_to_report(evaluated_sets(responses))
        return {split: self._terms(evaluated, judgements) for split, evaluated in sets.items()}

    def _terms(self, evaluated: EvaluatedSet, judgements: Judgements) -> Terms:
        makes = {
            "token_entropy": lambda: self._token_entropy(evaluated),
            "cosine": lambda: _cosine(evaluated, judgements),
            "entailment": lambda: self._entailment(evaluated, judgements),
        }
        terms = set_measures("closer_look", evaluated, _closer_look_ratio(evaluated.split))
        for name, make in makes.items():
            full_name = f"closer_look.{evaluated.split}.{name}"
            terms[name] = NamedMeasure(name=full_name, n=len(evaluated.texts), make=make)
        return {name: terms[name] for name in MEANS}

    def _token_entropy(self, evaluated: EvaluatedSet) -> Measure:
        bare = sum(not row.token_ids for row in evaluated.texts if (row.output or "").strip())
        if bare:
            what = f"{bare} of {len(evaluated.texts)} texts were written down without their tokens"
            raise ValueError(f"{what}; run stages=[evaluate] again")
        single = 0.0 if self.compat else 1.0

        def value(row: Response) -> float:
            return closer_look.token_entropy(row.token_ids, single=single)

        return mean_over(evaluated.texts, value, f"{evaluated.split} texts")

    def _entailment(self, evaluated: EvaluatedSet, judgements: Judgements) -> Measure:
        """The share of entailed texts; without words in common none is, and the classifier is not run."""
        candidates = [row for row in evaluated.texts if _can_entail(row)]
        by_id = judgements_by_id(candidates, judgements, Ask.ENTAILMENT, self._direction)

        def value(row: Response) -> float | None:
            if row.output is None:
                return None
            label = by_id[row.id].label if row.id in by_id else closer_look.NO_ENTAILMENT
            return None if label is None else closer_look.entailment_score([label])

        return mean_over(evaluated.texts, value, f"{evaluated.split} texts")

    def _pair(self, row: Response, text: str, reference: str) -> tuple[str, str]:
        tofu = row.subtask == "tofu" or not self.compat
        return closer_look.entailment_pair(text, reference, tofu=tofu, forget=row.split is Split.FORGET)

    def _direction(self, row: Response) -> str:
        return f"{self._pair(row, 'generation', 'reference')[0]}_first"


def aggregates(terms: dict[Split, Terms]) -> list[NamedMeasure]:
    """Model utility, the same of the retain set alone, and forget efficacy."""
    kept = {split: group for split, group in terms.items() if split is not Split.FORGET}
    retain, forget = terms[Split.RETAIN], terms[Split.FORGET]
    return [
        _utility_of_sets("closer_look.model_utility", list(kept.values())),
        _utility_of_sets("closer_look.model_utility_retain", [retain]),
        aggregate_measure(
            "closer_look.forget_efficacy",
            forget["rouge"].n,
            [forget[name] for name in EFFICACY],
            lambda values: closer_look.forget_efficacy(_set_means(EFFICACY, values)),
        ),
    ]


def _utility_of_sets(name: str, groups: Sequence[Terms]) -> NamedMeasure:
    members = [group[mean] for group in groups for mean in MEANS]
    starts = range(0, len(members), len(MEANS))
    return aggregate_measure(
        name,
        sum(group["rouge"].n for group in groups),
        members,
        lambda values: closer_look.closer_look_utility(
            [_set_means(MEANS, values[start : start + len(MEANS)]) for start in starts]
        ),
    )


def _set_means(names: Sequence[str], values: Sequence[float]) -> SetMeans:
    """Values by name; NaN where one is left out, which no number comes of."""
    return SetMeans(**(dict.fromkeys(MEANS, math.nan) | dict(zip(names, values, strict=True))))


def _closer_look_ratio(split: Split) -> LossComparison:
    mean = closer_look.forget_truth_ratio if split is Split.FORGET else closer_look.utility_truth_ratio
    return lambda right, wrong: mean([truth_ratio([right], wrong)])


def _can_entail(row: Response) -> bool:
    """Whether a text has enough in common with the scored answer to entail it."""
    recall = text_recall(row)
    return recall is not None and closer_look.can_entail(recall)


def _cosine(evaluated: EvaluatedSet, judgements: Judgements) -> Measure:
    by_id = judgements_by_id(evaluated.texts, judgements, Ask.COSINE, lambda row: "")

    def value(row: Response) -> float | None:
        cosine = by_id[row.id].cosine
        return None if cosine is None else closer_look.cosine_score(cosine)

    return mean_over(evaluated.texts, value, f"{evaluated.split} texts")
