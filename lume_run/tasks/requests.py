"""Requests to forget that come one after another: the forget set of a task, cut by document or as the task says.

Request k forgets its own documents. What has not been asked for yet is retained, as a user's data are until she asks
(closer-look, arXiv:2410.08109, continual scenario; MUSE, arXiv:2407.06460, sustainability). Growing requests are the
first k together, each from the target (MUSE, scalability). Requests apart are so many experiments: each starts from the
target, and nothing is said of the others (RWKU, arXiv:2406.10890, single targets).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import TaskData
from lume_run.config.settings import SequenceSettings

USUAL_COUNT = 4  # of a task that says nothing of requests


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequest:
    """Request `number` of `count`: the documents that are forgotten with it, and those of the requests before it."""

    number: int
    count: int
    documents: frozenset[str]
    earlier: frozenset[str] = frozenset()
    apart: bool = False  # from the target, asked about its own documents alone

    @property
    def is_last(self) -> bool:
        """Whether nothing is to come."""
        return self.number == self.count


def forget_requests(
    data: TaskData, count: Literal["auto"] | int, *, growing: bool = False, apart: bool = False
) -> tuple[ForgetRequest, ...]:
    """The documents of the forget set in `count` requests; with `growing` earlier ones are forgotten with each.

    Those of the task where it has some, else parts of like size in its order. ConfigError for too few documents, or
    another count than the task has.
    """
    parts = _parts_of_task(data, count) if data.requests else _parts_of_size(data, count)
    return tuple(
        ForgetRequest(
            number=number,
            count=len(parts),
            documents=frozenset(chain(*(parts[:number] if growing else parts[number - 1 : number]))),
            earlier=frozenset() if apart else frozenset(chain(*parts[: number - 1])),
            apart=apart,
        )
        for number in range(1, len(parts) + 1)
    )


def _documents_of(data: TaskData) -> list[str]:
    return list(dict.fromkeys(example.document for example in data.forget))


def _parts_of_task(data: TaskData, count: Literal["auto"] | int) -> list[list[str]]:
    """The task's own requests, without documents that `task.num_documents` left out."""
    documents = _documents_of(data)
    parts = [[document for document in documents if document in request] for request in data.requests]
    parts = [part for part in parts if part]
    if count not in ("auto", len(parts)) or len(parts) < 2:
        what = f"the task has {len(parts)} requests of its own" + (f", not {count}" if count != "auto" else "")
        remedy = "sequence.requests=auto" if len(parts) > 1 else "sequence=none, or more of task.num_documents"
        raise ConfigError([Problem(where="sequence.requests", what=what, remedy=remedy)])
    return parts


def _parts_of_size(data: TaskData, count: Literal["auto"] | int) -> list[list[str]]:
    documents = _documents_of(data)
    wanted = min(USUAL_COUNT, max(len(documents), 2)) if count == "auto" else count
    if len(documents) < wanted:
        plural = "" if len(documents) == 1 else "s"
        what = f"{wanted} requests are asked for, and the forget set has {len(documents)} document{plural}"
        remedy = f"at most {len(documents)}, or a task with more" if len(documents) > 1 else "sequence=none"
        raise ConfigError([Problem(where="sequence.requests", what=what, remedy=remedy)])
    ends = [round(number * len(documents) / wanted) for number in range(wanted + 1)]
    return [documents[start:end] for start, end in pairwise(ends)]


def data_of_request(data: TaskData, request: ForgetRequest) -> TaskData:
    """The task as one request sees it: what it forgets, and what it retains. All else is as it was.

    A request apart retains what of the retain set is about its documents.
    """
    asked = request.documents | request.earlier
    forget = tuple(example for example in data.forget if example.document in request.documents)
    if request.apart:
        return replace(data, forget=forget, retain=tuple(row for row in data.retain if row.document in asked))
    return replace(
        data,
        forget=forget,
        retain=(*data.retain, *(example for example in data.forget if example.document not in asked)),
    )


def sequence_problems(sequence: SequenceSettings, stages: Any, attack: Any = None) -> Iterator[Problem]:
    """Requests where nothing is unlearned, and settings that are about requests without any."""
    if sequence.requests is not None and isinstance(stages, list) and "unlearn" not in stages:
        what = "requests are unlearned, and stages has no unlearn"
        yield Problem(where="sequence.requests", what=what, remedy="add unlearn to stages, or sequence=none")
    if sequence.apart and (sequence.growing or sequence.reference != "previous"):
        what = "requests apart are their own documents from the target, with nothing before them"
        yield Problem(where="sequence.apart", what=what, remedy="sequence=growing, or no growing and no reference")
    if sequence.apart and attack is not None and attack.attacks:
        what = "an attack is on one unlearned model, and with sequence=apart there is one for each request"
        yield Problem(where="attack", what=what, remedy="attack=none, or sequence=none with one document to forget")
    if sequence.requests is None and (sequence.growing or sequence.apart or sequence.reference != "previous"):
        what = "sequence.reference, growing and apart are about requests, and there is one for all documents"
        yield Problem(where="sequence.requests", what=what, remedy="sequence=in_turn, growing or apart")
