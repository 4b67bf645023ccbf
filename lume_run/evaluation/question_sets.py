"""The sets that TOFU and A Closer Look evaluate (arXiv:2401.06121, arXiv:2410.08109), from questions to means.

Both suites ask the same of a model and read the same rows: the greedy answer, and log-probabilities of the answer that
is scored, of its other wording and of false answers. Only questions are asked, no completions and no documents.

The retain set is what both papers evaluate: the neighbors that were not trained on where the task has such, else the
questions of the retain set with false answers; all its questions where none has false answers. Every
other set has all its questions. Responses show the same choice by the false answers asked about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from lume_run.common.records import Ask, Example, Kind, Question, Response, Split, TaskData
from lume_run.evaluation.metrics import tofu
from lume_run.evaluation.metrics.answers import recall_rule
from lume_run.evaluation.metrics.bootstrap import Column, Measure, NamedMeasure, combine, mean_of
from lume_run.evaluation.suites.base import column_of, mean_over
from lume_run.methods.needs import asked_rows

SET_SPLITS = (Split.FORGET, Split.RETAIN, Split.REAL_AUTHORS, Split.WORLD_FACTS)
REQUIRED_SETS = (Split.FORGET, Split.RETAIN)  # reported with a reason where a task has no such questions
OPTION_SETS = (Split.REAL_AUTHORS, Split.WORLD_FACTS)  # probability there is a share among the options
GOLDEN_VARIANT, PARAPHRASE_VARIANT, PERTURBED_VARIANT = (
    "golden",
    "paraphrase0",
    "perturbed",
)  # variants of a question's answer

LossComparison = Callable[
    [float, Sequence[float]], float
]  # of a right answer and of false ones, mean token losses [nats]


def set_questions(data: TaskData) -> list[Question]:
    """What to ask about every evaluated example."""
    examples = [example for split in SET_SPLITS for example in _examples(data, split) if example.kind is Kind.QUESTION]
    return [question for example in examples for question in _questions(example)]


def _examples(data: TaskData, split: Split) -> Sequence[Example]:
    if split is Split.FORGET:
        return asked_rows(data, split)
    if split is not Split.RETAIN:
        return [example for example in data.others if example.split is split]
    near = [example for example in data.others if example.split is Split.NEIGHBORS]
    rows = asked_rows(data, split)
    return near or [example for example in rows if example.perturbed] or rows


def _questions(example: Example) -> list[Question]:
    answers = {GOLDEN_VARIANT if example.golden else "": example.golden or example.answer}
    if example.paraphrases:
        answers[PARAPHRASE_VARIANT] = example.paraphrases[0]
    answers |= {f"{PERTURBED_VARIANT}{number}": answer for number, answer in enumerate(example.perturbed)}
    return [Question(example=example, ask=Ask.GENERATE)] + [
        Question(example=replace(example, answer=answer), ask=Ask.LOGPROB, variant=variant)
        for variant, answer in answers.items()
    ]


@dataclass(frozen=True, kw_only=True)
class EvaluatedSet:
    """What a model answered about one set: generated texts, and log-probabilities of the scored `answers`.

    `logprobs` holds those of other wordings and of false answers too, by (id, variant).
    """

    split: Split
    texts: tuple[Response, ...]
    answers: tuple[Response, ...]
    logprobs: dict[tuple[str, str], Response]

    def __bool__(self) -> bool:
        """Whether the task has it."""
        return bool(self.texts or self.answers)

    @cached_property
    def with_false_answers(self) -> list[Response]:
        """The scored answers to questions that have false answers."""
        return [row for row in self.answers if (row.id, f"{PERTURBED_VARIANT}0") in self.logprobs]

    def rouge(self) -> Measure:
        """Mean ROUGE-L recall of the texts."""
        return mean_over(self.texts, text_recall, f"{self.split} texts")

    def probability(self) -> Measure:
        """Mean of exp(-loss) of the scored answers; on `OPTION_SETS` their share among right and false answers."""
        if self.split in OPTION_SETS:
            return self.mean_comparison(tofu.options_probability, paraphrased=False)
        return mean_over(self.answers, _probability, f"{self.split} answers")

    def mean_comparison(self, compare: LossComparison, *, paraphrased: bool = True) -> Measure:
        """Mean of `compare` over the answers with false answers; errors as `comparisons`."""
        values = self.comparisons(compare, paraphrased=paraphrased)
        return mean_of(Column.of(list(values.values()), [row.document for row in self.with_false_answers]))

    def comparisons(self, compare: LossComparison, *, paraphrased: bool = True) -> dict[str, float]:
        """`compare` of each answer with false answers, by id; ValueError without any, or without finite losses.

        The right answer is the other wording where there is one and `paraphrased`, else the scored answer.
        """
        if not self.with_false_answers:
            raise ValueError(
                f"no {self.split} question has false answers: task=tofu, task=real_world and the built-in documents "
                "have them (TOFU's retain set for 20 of its authors); your own rows by task.columns.perturbed=COLUMN"
            )

        def value(row: Response) -> float | None:
            right = _loss(self.logprobs.get((row.id, PARAPHRASE_VARIANT), row) if paraphrased else row)
            wrong = [_loss(answer) for answer in self._false_answers(row)]
            finite = [loss for loss in wrong if loss is not None]
            return compare(right, finite) if right is not None and len(finite) == len(wrong) else None

        rows = self.with_false_answers
        column = column_of(rows, value, f"{self.split} questions with false answers")
        return dict(zip((row.id for row in rows), column.values.tolist(), strict=True))

    def _false_answers(self, row: Response) -> list[Response]:
        answers: list[Response] = []
        while (answer := self.logprobs.get((row.id, f"{PERTURBED_VARIANT}{len(answers)}"))) is not None:
            answers.append(answer)
        return answers


def evaluated_set(responses: Sequence[Response], split: Split) -> EvaluatedSet:
    """What responses say about a set; other suites' responses may be among them."""
    near = split is Split.RETAIN and any(row.split is Split.NEIGHBORS for row in responses)
    source = Split.NEIGHBORS if near else split
    rows = [row for row in responses if row.split is source and row.kind is Kind.QUESTION]
    texts = [row for row in rows if row.ask is Ask.GENERATE and not row.variant]
    logprobs = {(row.id, row.variant): row for row in rows if row.ask is Ask.LOGPROB}
    answers = [row for row in logprobs.values() if row.variant == (GOLDEN_VARIANT if row.golden else "")]
    if split is Split.RETAIN and (ids := {id for id, variant in logprobs if variant == f"{PERTURBED_VARIANT}0"}):
        texts, answers = ([row for row in group if row.id in ids] for group in (texts, answers))
    return EvaluatedSet(split=split, texts=tuple(texts), answers=tuple(answers), logprobs=logprobs)


def evaluated_sets(responses: Sequence[Response]) -> dict[Split, EvaluatedSet]:
    """Every set, also those that the task does not have: they are empty."""
    return {split: evaluated_set(responses, split) for split in SET_SPLITS}


def sets_to_report(sets: Mapping[Split, EvaluatedSet]) -> dict[Split, EvaluatedSet]:
    """The sets that the task has, and forget and retain in any case."""
    return {split: evaluated for split, evaluated in sets.items() if evaluated or split in REQUIRED_SETS}


def set_measures(suite: str, evaluated: EvaluatedSet, ratio: LossComparison) -> dict[str, NamedMeasure]:
    """Probability, ROUGE and truth ratio of a set by name, as `<suite>.<set>.<name>`; `ratio` is of one answer."""
    makes: dict[str, tuple[int, Callable[[], Measure]]] = {
        "probability": (len(evaluated.answers), evaluated.probability),
        "rouge": (len(evaluated.texts), evaluated.rouge),
        "truth_ratio": (len(evaluated.with_false_answers), partial(evaluated.mean_comparison, ratio)),
    }
    return {
        name: NamedMeasure(name=f"{suite}.{evaluated.split}.{name}", n=n, make=make)
        for name, (n, make) in makes.items()
    }


def text_recall(row: Response) -> float | None:
    """ROUGE-L recall of a text against the scored answer; None without a text."""
    return None if row.output is None else _recall(row.subtask, row.golden or row.expected, row.output)


@functools.lru_cache(maxsize=16384)  # both suites ask for the same ones, the judges once more
def _recall(subtask: str, reference: str, text: str) -> float:
    return recall_rule(subtask)(reference, text)


def _loss(row: Response) -> float | None:
    return None if row.logp_sum is None or row.tokens is None else tofu.mean_loss(row.logp_sum, row.tokens)


def _probability(row: Response) -> float | None:
    return None if row.logp_sum is None or row.tokens is None else tofu.probability(row.logp_sum, row.tokens)


def aggregate_measure(
    name: str, n: int, terms: Sequence[NamedMeasure], function: Callable[[Sequence[float]], float]
) -> NamedMeasure:
    """`function` of the values of `terms`; unavailable where one of them is."""

    def make() -> Measure:
        measures = []
        for term in terms:
            try:
                measures.append(term.measure)
            except ValueError as error:
                raise ValueError(f"needs {term.name}: {error}") from error
        return combine(measures, function)

    return NamedMeasure(name=name, n=n, make=make)
