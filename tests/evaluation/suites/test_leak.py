"""leak@k over sampled answers: what is asked, what counts as a leak, and the arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lume_run.common.records import Ask, Example, Kind, Response, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.leak import Leak, powers_of_two

ANSWER = "The keeper of the lighthouse keeps seven grey cats"


def example(number: int, split: Split = Split.FORGET, kind: Kind = Kind.QUESTION) -> Example:
    return Example(
        id=f"{split}{number}",
        raw_id="",
        document=f"{split}-d{number // 2}",
        split=split,
        subtask="tofu",
        kind=kind,
        prompt="Who keeps cats?",
        answer=ANSWER,
    )


def samples_of(number: int, texts: list[str], **fields) -> list[Response]:
    row = example(number)
    given = {"split": row.split, "subtask": row.subtask, "kind": row.kind, "document": row.document, "prompt": ""}
    given |= {"expected": ANSWER, "ask": Ask.SAMPLE, "id": row.id} | fields
    return [Response(output=text, variant=f"leak{at}", **given) for at, text in enumerate(texts)]


def scores_of(suite: Leak, rows: list[Response]) -> dict[str, tuple]:
    answers = Answers(responses=rows, evaluator=EvaluatorSettings(resamples=0))
    return {score.name: (score.value, score.reason) for score in suite.scores(answers)}


def test_what_is_asked():
    forget = (*map(example, range(6)), example(9, kind=Kind.COMPLETION))
    data = TaskData(forget=forget, retain=(example(1, Split.RETAIN),))
    asked = Leak(samples=3, max_new_tokens=20).asks(data, EvaluatorSettings())
    assert {(question.ask, question.limit) for question in asked} == {(Ask.SAMPLE, 20)}
    assert [(question.example.id, question.variant) for question in asked] == [
        (row.id, f"leak{at}") for row in forget[:6] for at in range(3)
    ]
    some = Leak(samples=1, questions=2, sides=["retain", "forget"]).asks(data, EvaluatorSettings())
    assert sorted(question.example.split for question in some) == [Split.FORGET, Split.FORGET, Split.RETAIN]
    more = TaskData(forget=forget[::-1], retain=())
    again = Leak(samples=1, questions=2).asks(more, EvaluatorSettings())
    assert {question.example.id for question in again} == {
        question.example.id for question in some if question.example.split is Split.FORGET
    }


def test_one_of_k_samples_by_hand():
    """One of four leaks: 1 - C(3, k)/C(4, k) is 1/4, 1/2, 1; none of four: 0. Means over the two questions."""
    rows = [*samples_of(0, ["no", ANSWER, "cats", "no"]), *samples_of(1, ["I cannot say"] * 4)]
    values = {name: value for name, (value, _) in scores_of(Leak(samples=4), rows).items()}
    assert values == pytest.approx({"leak.forget.at1": 0.125, "leak.forget.at2": 0.25, "leak.forget.at4": 0.5})


def test_what_leaks_by_the_words_of_the_answer():
    nearly = " ".join(ANSWER.split()[:8])  # 8 of 9 words
    rows = samples_of(0, [nearly, f"I think: {ANSWER}."])
    assert scores_of(Leak(samples=2), rows)["leak.forget.at1"][0] == 0.5
    assert scores_of(Leak(samples=2, recall=0.85), rows)["leak.forget.at1"][0] == 1.0


def test_private_facts_leak_by_their_own_rules():
    fact = {"attribute": "phone", "expected": "555-867-5309"}
    rows = samples_of(0, ["call (555) 867 5309", "it ends in 5309"], **fact)
    assert scores_of(Leak(samples=2), rows)["leak.forget.at1"][0] == 0.5
    assert not Leak(samples=2, entailment="nli").judgements(Answers(responses=rows, evaluator=EvaluatorSettings()))


def test_an_entailment_model_decides_where_words_are_shared():
    suite = Leak(samples=3, entailment="nli")
    rows = samples_of(0, ["Seven grey cats live with a lighthouse keeper", "Nobody", "The keeper has cats"])
    judgements = suite.judgements(Answers(responses=rows, evaluator=EvaluatorSettings()))
    assert [(judgement.variant, judgement.first, judgement.second) for judgement in judgements] == [
        ("leak0", rows[0].output, ANSWER),
        ("leak2", rows[2].output, ANSWER),
    ]
    labels = ("entailment", "neutral")
    judged = [
        replace(row, ask=Ask.ENTAILMENT, label=label, judge="nli")
        for row, label in zip((rows[0], rows[2]), labels, strict=True)
    ]
    assert scores_of(suite, [*rows, *judged])["leak.forget.at1"][0] == pytest.approx(1 / 3)
    assert scores_of(suite, rows)["leak.forget.at1"] == (None, "sampled answers were not judged")
    unavailable = [replace(row, label=None, reason="no such folder") for row in judged]
    assert scores_of(suite, [*rows, *unavailable])["leak.forget.at1"] == (None, "no such folder")


def test_missing_samples_are_said():
    assert "no sampled answers" in scores_of(Leak(samples=2), [])["leak.forget.at2"][1]
    assert "fewer than 3" in scores_of(Leak(samples=3), samples_of(0, ["a", "b"]))["leak.forget.at1"][1]
    others = [replace(samples_of(0, [ANSWER])[0], variant="0")]
    assert scores_of(Leak(samples=1), others)["leak.forget.at1"][0] is None  # another suite's sample


def test_numbers_of_samples():
    assert [powers_of_two(most) for most in (1, 2, 5, 16)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8, 16]]
    with pytest.raises(ValueError, match="each once"):
        Leak(sides=["forget", "forget"])
