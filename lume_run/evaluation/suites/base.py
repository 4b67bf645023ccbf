"""What a suite is: the questions it has for a model, and the scores it makes of the answers.

A suite is a frozen dataclass named in `conf/evaluator/*.yaml`. Beyond `asks` and `scores` it may need more, and has
more methods then: texts of `Judged` suites are judged by other models, `Compared` ones read the answers of a model that
never saw the forget set, `Harnessed` ones run a library of their own on the loaded model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from lume_run.common.errors import Problem, ProblemsError
from lume_run.common.records import JUDGED, Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.bootstrap import Bootstrap, Column, Measure, mean_of

RowValue = Callable[[Response], float | None]

NO_RETRAINED = (
    "there are no answers of a model retrained without the forget set; {setting}=true makes one in a run that trains "
    "its target (of a released one with model.base=FOLDER_OR_ID), evaluator.retrained_responses=FILE reads some"
)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Everything one model answered; `retrained` is what a model answered that never saw the forget set, if any did,
    `target` what the model before unlearning did."""

    responses: Sequence[Response]
    evaluator: EvaluatorSettings
    retrained: Sequence[Response] | None = None
    target: Sequence[Response] | None = None

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(resamples=self.evaluator.resamples)

    def rows(self, ask: Ask, split: Split, *, kind: Kind | None = None, variant: str = "") -> list[Response]:
        """The responses to one ask on one split."""
        return [
            row
            for row in self.responses
            if row.ask is ask and row.split is split and row.variant == variant and kind in (None, row.kind)
        ]

    def mean(self, name: str, rows: Sequence[Response], value: RowValue, what: str = "rows") -> Score:
        """The score of `mean_over`."""
        return self.bootstrap.score(name, len(rows), lambda: mean_over(rows, value, what))

    def require_retrained(self, setting: str) -> Sequence[Response]:
        """`retrained`; ValueError where there are none, which names the `setting` that makes some."""
        if self.retrained is None:
            raise ValueError(NO_RETRAINED.format(setting=setting))
        return self.retrained


def problems_in(load: Callable[[], object]) -> list[Problem]:
    """What keeps files from being loaded, or rows from being used; nothing where they can be."""
    try:
        load()
    except ProblemsError as error:
        return list(error.problems)
    return []


def mean_over(rows: Sequence[Response], value: RowValue, what: str = "rows") -> Measure:
    """The mean of `value` over rows; ValueError saying why where there are none or some have no finite number.

    A row without a number makes the mean missing, never better.
    """
    return mean_of(column_of(rows, value, what))


def column_of(rows: Sequence[Response], value: RowValue, what: str = "rows") -> Column:
    """`value` of every row with its document; errors as `mean_over`."""
    if not rows:
        raise ValueError(f"there are no {what}: the task has none, or stages=[evaluate] ran without this evaluator")
    values = [value(row) for row in rows]
    known = [number for number in values if number is not None]
    if len(known) < len(rows):
        raise ValueError(f"{len(rows) - len(known)} of {len(rows)} {what} have no finite numbers")
    return Column.of(known, [row.document for row in rows], what)


class Suite(Protocol):
    """A set of metrics that are measured together."""

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """What it needs a model to be asked; what several suites ask is asked once."""
        ...

    def scores(self, answers: Answers) -> list[Score]:
        """Its scores, from the answers alone; one that cannot be computed has None and a reason."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Texts for a judge: `ask` is COSINE, ENTAILMENT (does `first` entail `second`?) or FLUENCY (of `first`), where
    `model` is an id or folder, or VERDICT (does `first` give what `second` says?), where it is the judge's fingerprint.

    The answer becomes a response like `response`, with this ask and `variant`.
    """

    ask: Ask
    model: str
    response: Response
    first: str
    second: str
    variant: str = ""


def judgement_response(judgement: Judgement, name: str, **verdict: Any) -> Response:
    """What the judge of this fingerprint has to say, as a response: `cosine`, `label`, `clean`, or the `reason`."""
    ask, variant = judgement.ask, judgement.variant
    return replace(judgement.response, ask=ask, variant=variant, judge=name, tokens=None, token_ids=(), **verdict)


Judgements = Mapping[tuple[Ask, str, str], Response]  # responses of judges by (ask, id, variant)


def judgements_in(responses: Sequence[Response]) -> Judgements:
    """The responses of judges among others."""
    return {(row.ask, row.id, row.variant): row for row in responses if row.ask in JUDGED}


def judgements_by_id(
    rows: Sequence[Response], judgements: Judgements, ask: Ask, variant: Callable[[Response], str]
) -> dict[str, Response]:
    """The judgement of each row, by id; ValueError where some have none, or the judge was unavailable."""
    by_id = {row.id: judgements[key] for row in rows if (key := (ask, row.id, variant(row))) in judgements}
    if reason := next((row.reason for row in by_id.values() if row.reason), None):
        raise ValueError(reason)
    if len(by_id) < len(rows):
        what = f"{len(rows) - len(by_id)} of {len(rows)} texts were not judged"
        raise ValueError(f"{what}; run stages=[evaluate] again with this evaluator")
    return by_id


@runtime_checkable
class Judged(Protocol):
    """A suite whose generated texts are judged by other models before it makes its scores."""

    def judges(self) -> list[tuple[Ask, str]]:
        """The models it needs, each with the ask it answers."""
        ...

    def judgements(self, answers: Answers) -> list[Judgement]:
        """What to judge."""
        ...


@runtime_checkable
class Compared(Protocol):
    """A suite that reads the answers of a retrained model, which the run trains where it can."""

    compares: bool


@runtime_checkable
class Harnessed(Protocol):
    """A suite that runs a library of its own on the loaded model; not loaded where it is not `active`."""

    @property
    def active(self) -> bool:
        """Whether there is anything to measure."""
        ...

    def identity(self) -> dict[str, Any]:
        """What its scores depend on besides its settings and the model: versions, contents of files."""
        ...

    def measure(self, model: Any, tokenizer: Any) -> list[Score]:
        """Its scores."""
        ...
