"""Scores over requests: after each one, of the documents of every request and of what is to be kept.

m(t, r) is a score of the documents of request r after t requests; after 0 it is the target's. Of N requests

    current   mean over t of m(t, t)                      what each request leaves of its own documents
    earlier   mean over t > 1 and r < t of m(t, r)        whether what was forgotten stays so
    returned  mean over r < N of m(N, r) - m(r, r)        what later requests bring back
    to_come   mean over t < N and r > t of m(t, r)        documents that nobody asked to forget yet

and of what is to be kept m(t): `area` is its mean over t, and the last value is the unlearned model's own score.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lume_run.attacks.base import is_scored
from lume_run.attacks.results import USE_GROUPS
from lume_run.attacks.scores import KNOWS_MORE, combined_score, is_about_forgetting
from lume_run.common.records import Response, Score
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.scoring import ScoredModel, score_answers
from lume_run.tasks.requests import ForgetRequest

WHAT_IS_KEPT = 0  # stands for a request where a score is of what is to be kept
Moment = tuple[int, int]  # requests done, and whose documents


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceResults:
    """Scores by name and by (requests done, request whose documents they are of; 0: of what is to be kept).

    `summary` are scores over all requests, by names of the catalogue.
    """

    count: int
    scores: Mapping[str, Mapping[Moment, Score]]
    summary: Mapping[str, Score]

    def value(self, name: str, done: int, request: int) -> float | None:
        """One number, None where there is none."""
        score = self.scores.get(name, {}).get((done, request))
        return score.value if score else None

    def mean(self, name: str, cells: Sequence[Moment]) -> float | None:
        """The mean of a score over cells; None where one has no number, or there is no cell."""
        values = [self.value(name, *cell) for cell in cells]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known and len(known) == len(values) else None


def is_of_forgetting(name: str) -> bool:
    """Whether a score is taken for the documents of each request: those that are larger the more a model knows."""
    definition = definition_of(name)
    return definition is not None and is_about_forgetting(definition) and KNOWS_MORE[definition.wanted] > 0


def score_requests(requests: Sequence[ForgetRequest], models: Sequence[ScoredModel]) -> SequenceResults | None:
    """What requests did; None without a sequence. `models` are the target and the model after each request."""
    if not requests or not models:
        return None
    scores: dict[str, dict[Moment, Score]] = {}
    for done, model in enumerate(models):
        for request, score in _scores_of(model, requests):
            scores.setdefault(score.name, {})[done, request] = score
    summary = {score.name: score for score in _summary(scores, len(requests))}
    return SequenceResults(count=len(requests), scores=scores, summary=summary)


def _scores_of(model: ScoredModel, requests: Sequence[ForgetRequest]) -> Iterator[tuple[int, Score]]:
    """Scores of one model: those of forgetting for the documents of each request, the others once."""
    for score in (*model.scores, *model.measured):
        definition = definition_of(score.name)
        if definition is not None and definition.group in USE_GROUPS:
            yield WHAT_IS_KEPT, score
    answers = replace(model.answers, evaluator=replace(model.answers.evaluator, strict=False))
    for request in requests:
        taken = partial(_of_documents, documents=request.documents)
        part = replace(
            answers,
            responses=taken(answers.responses),
            retrained=None if answers.retrained is None else taken(answers.retrained),
        )
        for score in score_answers(part)[0]:
            if is_of_forgetting(score.name) and score.value is not None:
                yield request.number, score


def _of_documents(rows: Sequence[Response], documents: frozenset[str]) -> list[Response]:
    return [row for row in rows if is_scored(row, documents)]


def cells_of(kind: str, count: int, done: int | None = None) -> list[Moment]:
    """The cells that `current`, `earlier` or `to_come` is the mean of: of all times, or after `done` requests."""
    holds: Callable[[int, int], bool] = {
        "current": lambda t, r: r == t,
        "earlier": lambda t, r: r < t,
        "to_come": lambda t, r: r > t,
    }[kind]
    times = range(1, count + 1) if done is None else [done]
    return [(t, r) for t in times for r in range(1, count + 1) if holds(t, r)]


def _summary(scores: Mapping[str, Mapping[Moment, Score]], count: int) -> Iterator[Score]:
    for name, cells in scores.items():
        if not is_of_forgetting(name):
            terms = [cells.get((done, WHAT_IS_KEPT)) for done in range(1, count + 1)]
            yield combined_score(f"sequence.{name}.area", terms, _mean)
            continue
        for kind in ("current", "earlier", "to_come"):
            yield combined_score(f"sequence.{name}.{kind}", [cells.get(cell) for cell in cells_of(kind, count)], _mean)
        then = [cells.get((number, number)) for number in range(1, count)]
        last = [cells.get((count, number)) for number in range(1, count)]
        yield combined_score(f"sequence.{name}.returned", [*last, *then], _difference_of_halves)


def _mean(*values: float) -> float:
    return statistics.fmean(values)


def _difference_of_halves(*values: float) -> float:
    """Mean of the first half of the values less that of the second."""
    half = len(values) // 2
    return statistics.fmean(values[:half]) - statistics.fmean(values[half:])


def sequence_json(results: SequenceResults) -> dict[str, Any]:
    """The section `sequence` of report.json: a record for each score, time and request (null: of what is kept)."""
    return {
        "requests": results.count,
        "rows": [
            {
                "score": name,
                "after": done,
                "documents_of": request or None,
                "value": score.value,
                "n": score.n,
                **({"interval": [score.low, score.high]} if score.low is not None else {}),
                **({"reason": score.reason} if score.reason else {}),
            }
            for name, cells in results.scores.items()
            for (done, request), score in sorted(cells.items())
        ],
        "summary": list(results.summary),
    }
