"""The forget set cut into requests: every document once, in order; what was not asked for is retained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lume_run.common.errors import ConfigError
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.config.settings import AttackSettings, SequenceSettings
from lume_run.tasks.requests import data_of_request, forget_requests, sequence_problems


def example(document: str, number: int, split: Split = Split.FORGET) -> Example:
    return Example(
        id=f"{document}{number}",
        raw_id="",
        document=document,
        split=split,
        subtask="bios",
        kind=Kind.QUESTION,
        prompt="p",
        answer="a",
    )


def task(documents: int) -> TaskData:
    forget = tuple(example(f"d{number}", question) for question in range(2) for number in range(documents))
    return TaskData(forget=forget, retain=(example("kept", 0, Split.RETAIN),))


def names(examples: tuple[Example, ...]) -> list[str]:
    return sorted({example.document for example in examples})


@pytest.mark.parametrize(("documents", "count", "sizes"), [(7, 3, [2, 3, 2]), (4, 4, [1, 1, 1, 1]), (10, 2, [5, 5])])
def test_each_document_is_asked_for_once_and_retained_until_then(documents, count, sizes):
    data = task(documents)
    requests = forget_requests(data, count)
    parts = [data_of_request(data, request) for request in requests]
    assert [len(names(part.forget)) for part in parts] == sizes
    assert sorted(name for part in parts for name in names(part.forget)) == names(data.forget)
    asked: set[str] = set()
    for part in parts:
        asked |= set(names(part.forget))
        assert set(names(part.retain)) == {"kept", *names(data.forget)} - asked
        assert len(part.forget) == 2 * len(names(part.forget))  # whole documents
    assert [request.is_last for request in requests] == [False] * (count - 1) + [True]
    assert parts[-1].retain == data.retain


def test_growing_requests_hold_the_earlier_ones():
    data = task(6)
    grown = [data_of_request(data, request) for request in forget_requests(data, 3, growing=True)]
    assert [names(part.forget) for part in grown] == [names(data.forget)[: 2 * number] for number in (1, 2, 3)]
    alone = [data_of_request(data, request) for request in forget_requests(data, 3)]
    assert [part.retain for part in grown] == [part.retain for part in alone]


def test_a_task_says_its_own_requests():
    """As many as it has, in its order; documents that were left out of the task are in none."""
    data = replace(task(5), requests=(frozenset({"d3"}), frozenset({"d0", "d4", "gone"}), frozenset({"d1", "d2"})))
    for count in ("auto", 3):
        requests = forget_requests(data, count)
        assert [sorted(request.documents) for request in requests] == [["d3"], ["d0", "d4"], ["d1", "d2"]]
        assert [request.count for request in requests] == [3, 3, 3]
    assert sorted(forget_requests(data, "auto", growing=True)[1].documents) == ["d0", "d3", "d4"]
    with pytest.raises(ConfigError, match=r"the task has 3 requests of its own, not 4\n.*sequence\.requests=auto"):
        forget_requests(data, 4)
    fewer = replace(data, forget=tuple(row for row in data.forget if row.document in ("d1", "d2")))
    with pytest.raises(ConfigError, match=r"the task has 1 requests of its own\n.*sequence=none"):
        forget_requests(fewer, "auto")


@pytest.mark.parametrize(("documents", "count"), [(9, 4), (4, 4), (3, 3), (2, 2)])
def test_a_task_without_requests_has_four_or_fewer(documents, count):
    assert len(forget_requests(task(documents), "auto")) == count


def test_requests_apart_know_nothing_of_each_other():
    """Nothing of the other requests is retained, nor what is about their documents."""
    near = tuple(replace(example(f"d{number}", 9, Split.RETAIN), id=f"near{number}") for number in range(3))
    data = replace(task(3), retain=near, requests=tuple(frozenset([f"d{number}"]) for number in range(3)))
    requests = forget_requests(data, "auto", apart=True)
    assert [request.documents for request in requests] == list(data.requests)
    assert not any(request.earlier for request in requests)
    for request in requests:
        part = data_of_request(data, request)
        assert {row.document for row in (*part.forget, *part.retain)} == request.documents
        assert len(part.forget) == 2 and len(part.retain) == 1
    attack = AttackSettings(attacks={"prefill": object()})
    (problem,) = sequence_problems(SequenceSettings(requests=2, apart=True), ["unlearn"], attack)
    assert problem.where == "attack"


def test_too_few_documents_are_refused():
    with pytest.raises(ConfigError, match=r"sequence\.requests: 3 requests are asked for, .* has 2 documents"):
        forget_requests(task(2), 3)
    with pytest.raises(ConfigError, match="sequence=none"):
        forget_requests(task(1), 2)
    with pytest.raises(ConfigError, match="sequence=none"):
        forget_requests(task(1), "auto")


@pytest.mark.parametrize(
    ("settings", "stages", "what"),
    [
        ({}, ["evaluate"], None),
        ({"requests": 2}, ["train", "unlearn", "evaluate"], None),
        ({"requests": 2, "reference": "first"}, ["unlearn"], None),
        ({"requests": 2}, ["evaluate"], "no unlearn"),
        ({"requests": 2}, ["score"], "no unlearn"),
        ({"reference": "first"}, ["unlearn"], "one for all documents"),
        ({"growing": True}, ["unlearn"], "one for all documents"),
        ({"apart": True}, ["unlearn"], "one for all documents"),
        ({"requests": 2, "apart": True, "growing": True}, ["unlearn"], "with nothing before them"),
        ({"requests": 2, "apart": True, "reference": "first"}, ["unlearn"], "with nothing before them"),
    ],
)
def test_settings_that_do_not_go_together(settings, stages, what):
    problems = list(sequence_problems(SequenceSettings(**settings), stages))
    assert [what in problem.what for problem in problems] == ([] if what is None else [True])
