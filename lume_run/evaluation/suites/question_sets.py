"""The sets that TOFU and A Closer Look evaluate (arXiv:2401.06121, arXiv:2410.08109), from questions to means.

Both suites ask the same of a model and read the same rows: the greedy answer, and log-probabilities of the answer that
is scored, of its other wording and of false answers. Only questions are asked, no completions and no documents.

The retain set is what both papers evaluate: the neighbors that were not trained on where the task has such, else the
questions of the retain set with false answers; all its questions where none has false answers. Every
other set has all its questions. Responses show the same choice by the false answers asked about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lume_run.common.records import Ask, Example, Kind, Question, Response, Split, TaskData
from lume_run.evaluation.metrics import tofu
from lume_run.evaluation.metrics.answers import rouge_l_recall
from lume_run.evaluation.metrics.bootstrap import Column, Measure, NamedMeasure, combine, mean_of
from lume_run.evaluation.suites.base import column_of, mean_over

SET_SPLITS = (Split.FORGET, Split.RETAIN, Split.REAL_AUTHORS, Split.WORLD_FACTS)
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
    asked = [example for split in SET_SPLITS for example in _examples(data, split) if example.kind is Kind.QUESTION]
    return [question for example in asked for question in _questions(example)]


def _examples(data: TaskData, split: Split) -> Sequence[Example]:
    if split is Split.FORGET:
        return data.forget
    if split is not Split.RETAIN:
        return [example for example in data.others if example.split is split]
    near = [example for example in data.others if example.split is Split.NEIGHBORS]
    return near or [example for example in data.retain if example.perturbed] or data.retain


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
    """What a model answered about one set: texts, and log-probabilities of `scored` and of other answers.

    `compared` are the scored rows whose questions have false answers.
    """

    split: Split
    texts: tuple[Response, ...]
    scored: tuple[Response, ...]
    answers: dict[tuple[str, str], Response]  # by (id, variant): other wordings and false answers

    def __bool__(self) -> bool:
        """Whether the task has it."""
        return bool(self.texts or self.scored)

    @cached_property
    def compared(self) -> list[Response]:
        """See the class."""
        return [row for row in self.scored if (row.id, f"{PERTURBED_VARIANT}0") in self.answers]

    def rouge(self) -> Measure:
        """Mean ROUGE-L recall of the texts."""
        return mean_over(self.texts, text_recall, f"{self.split} texts")

    def probability(self) -> Measure:
        """Mean of exp(-loss) of the scored answers; on `OPTION_SETS` their share among right and false answers."""
        if self.split in OPTION_SETS:
            return self.comparison(tofu.options_probability, paraphrased=False)
        return mean_over(self.scored, _probability, f"{self.split} answers")

    def comparison(self, value: LossComparison, *, paraphrased: bool = True) -> Measure:
        """Mean of `value` over the compared rows; errors as `losses`."""
        found = self.losses(value, paraphrased=paraphrased)
        return mean_of(Column.of(list(found.values()), [row.document for row in self.compared]))

    def losses(self, value: LossComparison, *, paraphrased: bool = True) -> dict[str, float]:
        """`value` of each compared row by id; ValueError where there is none, or one has no finite losses.

        The right answer is the other wording where there is one and `paraphrased`, else the scored answer.
        """
        if not self.compared:
            raise ValueError(
                f"no {self.split} question has false answers: task=tofu, task=real_world and the built-in documents "
                "have them (TOFU's retain set for 20 of its authors)"
            )

        def of(row: Response) -> float | None:
            right = _loss(self.answers.get((row.id, PARAPHRASE_VARIANT), row) if paraphrased else row)
            wrong = [loss for loss in map(_loss, self._wrong(row)) if loss is not None]
            return value(right, wrong) if right is not None and len(wrong) == len(self._wrong(row)) else None

        column = column_of(self.compared, of, f"{self.split} questions with false answers")
        return dict(zip((row.id for row in self.compared), column.values.tolist(), strict=True))

    def _wrong(self, row: Response) -> list[Response]:
        found: list[Response] = []
        while (answer := self.answers.get((row.id, f"{PERTURBED_VARIANT}{len(found)}"))) is not None:
            found.append(answer)
        return found


def evaluated_set(responses: Sequence[Response], split: Split) -> EvaluatedSet:
    """What stands in responses about a set, other suites' among them."""
    near = split is Split.RETAIN and any(row.split is Split.NEIGHBORS for row in responses)
    asked_of = Split.NEIGHBORS if near else split
    asked = [row for row in responses if row.split is asked_of and row.kind is Kind.QUESTION]
    texts = [row for row in asked if row.ask is Ask.GENERATE and not row.variant]
    logprobs = {(row.id, row.variant): row for row in asked if row.ask is Ask.LOGPROB}
    scored = [row for row in logprobs.values() if row.variant == (GOLDEN_VARIANT if row.golden else "")]
    if split is Split.RETAIN:
        chosen = {name for name, variant in logprobs if variant == f"{PERTURBED_VARIANT}0"}
        texts, scored = ([row for row in rows if not chosen or row.id in chosen] for rows in (texts, scored))
    return EvaluatedSet(split=split, texts=tuple(texts), scored=tuple(scored), answers=logprobs)


def text_recall(row: Response) -> float | None:
    """ROUGE-L recall of a text against the scored answer; None without a text."""
    return None if row.output is None else _recall(row.golden or row.expected, row.output)


@functools.lru_cache(maxsize=16384)  # both suites ask for the same ones, the judges once more
def _recall(reference: str, text: str) -> float:
    return rouge_l_recall(reference, text)


def _loss(row: Response) -> float | None:
    return None if row.logp_sum is None or row.tokens is None else tofu.mean_loss(row.logp_sum, row.tokens)


def _probability(row: Response) -> float | None:
    return None if row.logp_sum is None or row.tokens is None else tofu.probability(row.logp_sum, row.tokens)


def aggregate_measure(
    name: str, n: int, terms: Sequence[NamedMeasure], function: Callable[[Sequence[float]], float]
) -> NamedMeasure:
    """`function` of the values of `terms`; it cannot be had where one of them cannot."""

    def make() -> Measure:
        measures = []
        for term in terms:
            try:
                measures.append(term.measure)
            except ValueError as error:
                raise ValueError(f"needs {term.name}: {error}") from error
        return combine(measures, function)

    return NamedMeasure(name=name, n=n, make=make)
