"""The RWKU suite: what it asks, its table by hand, targets of unlike size, answers that lack something, real rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from helpers.shared import DATA

from lume_run.common.records import Ask, Example, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.inference.answer import response_of
from lume_run.evaluation.questions import deduplicate_questions
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.rwku.suite import LEVEL3_ATTACKS, Rwku
from lume_run.tasks.rwku.task import RwkuTask

EVALUATOR = EvaluatorSettings(resamples=50)
CLEAN = Rwku()
RELEASED = DATA / "rwku"


def example(subtask: str, number: int, target: str = "Ann", answer: str = "Yes", **fields) -> Example:
    split = Split.RETAIN if subtask.startswith(("neighbor", "retain_mia")) else Split.FORGET
    kind = Kind.DOCUMENT if subtask.endswith("mia") else Kind.QUESTION
    id = f"{target}-{subtask}-{number}"
    given = {"split": split, "kind": kind, "subtask": subtask, "document": target, "prompt": "q", "answer": answer}
    return Example(id=id, raw_id=id, **given | fields)


def useful(subtask: str, number: int, **fields) -> Example:
    return example(subtask, number, split=Split.UTILITY, **fields)


OTHERS = (
    example("forget_level1", 0, answer="Richard Bachman"),
    example("forget_level2", 0),
    example("forget_level3 role_play", 0),
    example("forget_level3 cross_lingual", 0),
    example("forget_mia", 0, answer="seen"),
    example("retain_mia", 0, answer="seen too"),
    useful("retain_mmlu", 0, kind=Kind.CHOICE, answer="B", choices=("A", "B", "C", "D")),
    useful("retain_bbh", 0, answer="True"),
    useful("truthful", 0, kind=Kind.CHOICE, answer="no", choices=("yes", "no", "so")),
    useful("triviaqa", 0, answer="Rim of Fire", choices=("Rim of Fire", "Ring")),
    useful("fluency", 0, answer=""),
)
TASK = TaskData(forget=(), retain=(example("neighbor_level1", 0), example("neighbor_level2", 0)), others=OTHERS)


def asked(suite: Rwku = CLEAN, data: TaskData = TASK) -> list[Question]:
    return suite.asks(data, EVALUATOR)


def scores_of(rows: list[Response], suite: Rwku = CLEAN) -> dict[str, Score]:
    scores = suite.scores(Answers(responses=rows, evaluator=EVALUATOR))
    for score in scores:
        definition = definition_of(score.name)
        assert definition is not None, score.name
        assert (score.value is None) == bool(score.reason), score
        if score.value is not None:
            assert math.isfinite(score.value)
            assert definition.low is None or score.value >= definition.low
            assert definition.high is None or score.value <= definition.high
    return {score.name: score for score in scores}


def values_of(rows: list[Response], suite: Rwku = CLEAN) -> dict[str, float | None]:
    return {name: score.value for name, score in scores_of(rows, suite).items()}


def reply(question: Question, output: str = "", logps: tuple[float, ...] = (-1.0, -0.5)) -> Response:
    row = response_of(question)
    if question.ask is Ask.GENERATE:
        return replace(row, output=output)
    if question.ask is Ask.CHOICE:
        return replace(row, choice_logps=(-2.0, -1.0, -3.0, -4.0))
    moments = {"means": (-2.0,) * len(logps), "variances": (0.25,) * len(logps)} if question.moments else {}
    closed = row.kind is not Kind.DOCUMENT
    return replace(row, logp_sum=sum(logps), tokens=len(logps), logps=logps, closed=closed, **moments)


def replies(**outputs: str) -> list[Response]:
    """Answers by the set that they are of; `yes` is the likeliest choice but for the token that ends it."""
    choices = {"yes": (-1.0, -5.0), "no": (-2.0, -0.1), "so": (-3.0, -0.1)}
    return [
        reply(
            question,
            outputs.get(question.example.subtask.partition(" ")[0], "Yes"),
            choices.get(question.example.answer, (-1.0, -0.5)),
        )
        for question in asked()
    ]


def test_what_is_asked():
    questions = asked()
    assert len(deduplicate_questions({"rwku": questions})) == len(questions) == 15
    by_set = {question.example.subtask: question for question in questions}
    assert {question.ask for question in questions} == {Ask.GENERATE, Ask.LOGPROB, Ask.CHOICE}
    limits = {name: question.limit for name, question in by_set.items() if question.ask is Ask.GENERATE}
    assert {limits.pop("retain_bbh"), limits.pop("fluency")} == {256}
    assert set(limits.values()) == {30}
    assert by_set["forget_mia"].moments and by_set["retain_mia"].ask is Ask.LOGPROB
    truthful = [question for question in questions if question.example.subtask == "truthful"]
    assert [(question.example.answer, question.example.golden) for question in truthful] == [
        ("yes", "no"),
        ("no", "no"),
        ("so", "no"),
    ]
    assert not any(question.example.starts_twice for question in questions)
    chats = {question.example.starts_twice for question in asked(Rwku(compat=True)) if question.limit}
    assert chats == {True}
    assert len(asked(Rwku(utility=False))) == 8
    assert asked(data=TaskData(forget=(example("bios", 0),), retain=(example("bios", 1),))) == []


def test_the_table_by_hand():
    rows = replies(
        forget_level1="Richard Burton", retain_bbh="so the answer is True.", triviaqa="Ring of", fluency="go go go"
    )
    values = values_of(rows)
    assert values["rwku.forget.fb"] == 0.5
    assert values["rwku.forget.qa"] == values["rwku.forget.aa"] == values["rwku.neighbor.all"] == 1
    assert values["rwku.forget.all"] == pytest.approx((0.5 + 1 + 1 + 1) / 4)  # rows weigh alike, not levels
    assert values["rwku.forget.aa.role_play"] == 1
    assert "rwku.forget.aa.context_hint" not in values  # nothing of that kind was asked
    assert values["rwku.mia.forget.loss"] == 0.75
    assert values["rwku.mia.forget.min_k"] == -1.0
    assert values["rwku.mia.retain.min_k_plus_plus"] == pytest.approx((-1 + 2) / 0.5)
    assert values["rwku.utility.general"] == values["rwku.utility.reasoning"] == 1
    assert values["rwku.utility.truthfulness"] == 0  # yes at -1 without its end, no at -2
    assert values["rwku.utility.factuality"] == pytest.approx(2 / 3)  # of "ring", and of "rim of fire" 2/5
    assert values["rwku.utility.fluency"] == 0


def test_what_the_released_code_makes_of_the_same_answers():
    rows = replies(forget_level1="Richard\nBachman", retain_bbh="so the answer is True.")
    assert values_of(rows)["rwku.forget.fb"] == 0.5
    values = values_of(rows, Rwku(compat=True))
    assert values["rwku.forget.fb"] == 1  # its stop strings are no tokens
    assert values["rwku.utility.reasoning"] == 0
    assert values["rwku.mia.forget.mink20"] == values["rwku.mia.forget.min_k_plus_plus"]


def test_an_empty_answer_and_one_of_a_later_line():
    values = values_of(replies(forget_level2="", forget_level3="\nYes"))
    assert values["rwku.forget.qa"] == values["rwku.forget.aa"] == 0


def test_targets_weigh_alike_whatever_rows_they_have():
    rows = [
        replace(reply(question, output), document=target, id=f"{target}{number}")
        for target, outputs in {"Ann": ["Yes"], "Bo": ["No", "No", "Yes", "No"]}.items()
        for number, output in enumerate(outputs)
        for question in asked()
        if question.example.subtask == "forget_level2"
    ]
    score = scores_of(rows)["rwku.forget.qa"]
    assert score.value == pytest.approx((1 + 1 / 4) / 2)
    assert (score.n, score.documents) == (5, 2)
    alone = scores_of([row for row in rows if row.document == "Bo"])["rwku.forget.qa"]
    assert (alone.value, alone.documents) == (1 / 4, 4)  # of one target: over its questions


def test_answers_that_lack_something():
    rows = replies()
    without_texts = values_of([replace(row, output=None) for row in rows])
    assert without_texts["rwku.forget.all"] is without_texts["rwku.utility.fluency"] is None
    assert without_texts["rwku.utility.general"] == 1
    without_numbers = values_of([replace(row, logp_sum=None, logps=(), choice_logps=()) for row in rows])
    for name in ("utility.general", "utility.truthfulness", "mia.forget.loss", "mia.retain.zlib"):
        assert without_numbers[f"rwku.{name}"] is None
    assert without_numbers["rwku.forget.all"] == 0.75
    nothing = scores_of([])
    assert all(score.value is None and "task=rwku" in str(score.reason) for score in nothing.values())
    assert {f"rwku.forget.aa.{kind}" for kind in LEVEL3_ATTACKS} <= nothing.keys()
    assert "rwku.utility.general" not in scores_of(rows, Rwku(utility=False))


@pytest.mark.skipif(not RELEASED.is_dir(), reason=f"the real data set is not at {RELEASED}")
def test_a_model_that_knows_every_real_answer():
    data = RwkuTask(name="rwku", data_dir=str(RELEASED), train="none", num_documents=3).load(0)
    questions = asked(data=data)
    rows = [
        reply(question, f"So the answer is {question.example.answer}.")
        if question.example.subtask == "retain_bbh"
        else reply(question, question.example.answer)
        for question in questions
    ]
    values = values_of(rows)
    assert values["rwku.forget.all"] == values["rwku.neighbor.all"] == values["rwku.utility.factuality"] == 1
    assert values["rwku.utility.reasoning"] == 1
    assert len([name for name in values if name.startswith("rwku.forget.aa.")]) == 9
