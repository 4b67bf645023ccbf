"""Requests to forget that come one after another: the forget set of a task, cut by document.

Request k forgets its own documents. What has not been asked for yet is retained, as a user's data are until she asks
(closer-look, arXiv:2410.08109, continual scenario; MUSE, arXiv:2407.06460, sustainability). Growing requests are the
first k together, each from the target (MUSE, scalability).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import TaskData
from lume_run.config.settings import SequenceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequest:
    """Request `number` of `count`: the documents that are forgotten with it, and those of the requests before it."""

    number: int
    count: int
    documents: frozenset[str]
    earlier: frozenset[str] = frozenset()

    @property
    def is_last(self) -> bool:
        """Whether nothing is to come."""
        return self.number == self.count


def forget_requests(data: TaskData, count: int, *, growing: bool = False) -> tuple[ForgetRequest, ...]:
    """The documents of the forget set in their order, in `count` requests of like size; ConfigError for too few.

    With `growing` earlier documents are forgotten with each.
    """
    documents = list(dict.fromkeys(example.document for example in data.forget))
    if len(documents) < count:
        what = f"{count} requests are asked for, and the forget set has {len(documents)} documents"
        remedy = f"at most {len(documents)}, or a task with more" if len(documents) > 1 else "sequence=none"
        raise ConfigError([Problem(where="sequence.requests", what=what, remedy=remedy)])
    ends = [round(number * len(documents) / count) for number in range(count + 1)]
    return tuple(
        ForgetRequest(
            number=number,
            count=count,
            documents=frozenset(documents[0 if growing else ends[number - 1] : ends[number]]),
            earlier=frozenset(documents[: ends[number - 1]]),
        )
        for number in range(1, count + 1)
    )


def data_of_request(data: TaskData, request: ForgetRequest) -> TaskData:
    """The task as one request sees it: what it forgets, and what it retains. All else is as it was."""
    asked = request.documents | request.earlier
    return replace(
        data,
        forget=tuple(example for example in data.forget if example.document in request.documents),
        retain=(*data.retain, *(example for example in data.forget if example.document not in asked)),
    )


def sequence_problems(sequence: SequenceSettings, stages: Any) -> Iterator[Problem]:
    """Requests where nothing is unlearned, and settings that are about requests without any."""
    if sequence.requests is not None and isinstance(stages, list) and "unlearn" not in stages:
        what = "requests are unlearned, and stages has no unlearn"
        yield Problem(where="sequence.requests", what=what, remedy="add unlearn to stages, or sequence=none")
    if sequence.requests is None and (sequence.growing or sequence.reference != "previous"):
        what = "sequence.reference and sequence.growing are about requests, and there is one for all documents"
        yield Problem(where="sequence.requests", what=what, remedy="sequence=in_turn or sequence=growing")
