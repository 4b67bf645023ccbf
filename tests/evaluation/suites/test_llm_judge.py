"""A language model as judge, against a server that stands in for it: verdicts, retries, resuming, secrets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.configs import problems_of, settings_of
from helpers.judge_server import judge_server

from lume_run.common.records import Ask, Kind, Response, Split
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.scoring import add_judgements
from lume_run.evaluation.suites.base import Answers, judgement_response
from lume_run.evaluation.suites.llm_judge.endpoint import Endpoint, NoVerdict
from lume_run.evaluation.suites.llm_judge.prompts import PROMPTS, messages, verdict_in
from lume_run.evaluation.suites.llm_judge.suite import LlmJudge, url_fault
from lume_run.evaluation.suites.llm_judge.verdicts import VERDICTS_FILE, verdicts_on

KEY = "sk-0123456789-secret"
ASKED = [(f"Who is {name}?", f"{name} Smith", f"It is {name} Smith") for name in ("Ada", "Bo", "Cy")]


@pytest.fixture
def server():
    with judge_server() as running:
        yield running


def endpoint(server, **options) -> Endpoint:
    given = {"key_variable": None, "timeout": 5.0, "retries": 2, "max_tokens": 8, "pause": 0.0} | options
    return Endpoint(url=server.url, model="grader", **given)


def ask(server, folder: Path, asked=ASKED, **options):
    return verdicts_on(asked, endpoint(server, **options), name="grader", version=1, folder=folder)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("YES", "yes"),
        ("no.", "no"),
        ("**No**, it does not", "no"),
        ("<think>yes, or is it?</think>\nNO", "no"),
        ("", None),
        ("Not sure", None),
        ("The answer is yes", None),
        ("Yesterday", None),
    ],
)
def test_how_a_reply_is_read(reply, verdict):
    assert verdict_in(reply) == verdict


def test_the_prompt_holds_all_three_texts_as_they_are():
    """Braces in an answer are no places to fill in."""
    system, user = messages(1, "Q {x}?", "R", "{answer}")
    assert system["content"] == PROMPTS[1][0] and "Q {x}?" in user["content"] and "{answer}" in user["content"]


def test_nothing_is_asked_twice(server, tmp_path):
    """Not by the same command, not by one that has more to ask, not where the last line is torn."""
    server.verdict = lambda text: "NO" if "Bo" in text else "YES"
    verdicts = [{"label": "yes"}, {"label": "no"}, {"label": "yes"}]
    assert ask(server, tmp_path) == ask(server, tmp_path) == verdicts
    assert len(server.asked) == 3
    assert server.asked[0]["temperature"] == 0 and server.asked[0]["model"] == "grader"
    lines = (tmp_path / VERDICTS_FILE).read_text(encoding="utf-8")
    (tmp_path / VERDICTS_FILE).write_text(lines[:-9], encoding="utf-8")
    assert ask(server, tmp_path, [*ASKED, ("Who is Di?", "Di", "Di")]) == [*verdicts, {"label": "yes"}]
    assert len(server.asked) == 5  # the torn one and the new one
    assert ask(server, tmp_path, [*ASKED]) == verdicts and len(server.asked) == 5


def test_what_passes_is_tried_again(server, tmp_path):
    server.statuses = [503, 429]
    assert ask(server, tmp_path, ASKED[:1]) == [{"label": "yes"}]
    assert len(server.asked) == 3


def test_a_judge_that_breaks_off_leaves_what_it_said(server, tmp_path):
    server.statuses = [200, 500, 500, 500]
    first, *others = ask(server, tmp_path)
    assert first == {"label": "yes"}
    assert all("gave no reply in 3 tries (HTTP 500)" in verdict["reason"] for verdict in others)
    assert len(server.asked) == 4  # the third answer is not tried
    assert ask(server, tmp_path) == [{"label": "yes"}] * 3
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"bad key", "answers HTTP 401: bad key"),
        (404, b"", "answers HTTP 404"),
        (302, b"", "answers HTTP 302"),
        (200, b"<html>", "no chat completion"),
        (200, b'{"choices": []}', "no chat completion"),
        (200, b'{"choices": [{"message": {"content": null}}]}', "no chat completion"),
        (200, b"[" * 10_000, "no chat completion"),
        (200, b"x" * (2**20 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_what_no_trying_mends(server, tmp_path, status, body, message):
    server.statuses, server.body = [status], body
    verdicts = ask(server, tmp_path)
    assert len(server.asked) == 1
    assert all(message in verdict["reason"] for verdict in verdicts)


def test_a_judge_that_does_not_answer(server, tmp_path):
    server.delay = 1.0
    (verdict,) = ask(server, tmp_path, ASKED[:1], timeout=0.05, retries=1)
    assert "gave no reply in 2 tries" in verdict["reason"]


def test_what_is_no_verdict_is_asked_again(server, tmp_path):
    server.verdict = lambda text: "maybe"
    (verdict,) = ask(server, tmp_path, ASKED[:1])
    assert verdict == {"reason": "the judge said neither YES nor NO: 'maybe'"}
    assert not (tmp_path / VERDICTS_FILE).exists()


def test_the_key_is_sent_and_written_nowhere(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADER_KEY", KEY)
    server.statuses, server.body = [200, 403], None
    assert ask(server, tmp_path, ASKED[:1], key_variable="GRADER_KEY") == [{"label": "yes"}]
    assert server.keys == [f"Bearer {KEY}"]
    server.body = f"the key {KEY} is not known".encode()
    (verdict,) = ask(server, tmp_path, ASKED[1:2], key_variable="GRADER_KEY")
    assert "HTTP 403" in verdict["reason"] and KEY not in verdict["reason"]
    assert KEY not in "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    monkeypatch.delenv("GRADER_KEY")
    with pytest.raises(NoVerdict, match=r"GRADER_KEY .* is not set"):
        endpoint(server, key_variable="GRADER_KEY").reply([])


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        ((), []),
        (("url=http://localhost:1/v1", "model=grader"), []),
        (("url=http://localhost:1/v1",), ["model"]),
        (("url=ftp://host/v1", "model=grader"), ["url"]),
        (("url=http://me:word@host/v1", "model=grader"), ["url"]),
        (("url=http://host:port/v1", "model=grader"), ["url"]),
        (("prompt=99",), ["prompt"]),
        (("key_variable=HOME",), ["key_variable"]),
        (("timeout=0",), ["timeout"]),
        (("sides=[world]",), ["sides[0]"]),
    ],
)
def test_bad_settings_are_refused_before_anything_is_sent(overrides, where):
    problems = problems_of("evaluator=llm_judge", *(f"evaluator.suites.llm_judge.{text}" for text in overrides))
    assert {place.removeprefix("evaluator.suites.llm_judge.") for place in problems} >= set(where)
    assert bool(problems) == bool(where)


def test_addresses():
    assert url_fault("https://host/v1") == ""
    assert url_fault("http://host/v1?key=1") and url_fault("host/v1") and url_fault("http://[::1")


# -------------------------------------------------------------------------------------------------------------- scores


def answer(id: str, split: Split, expected: str, output: str) -> Response:
    return Response(
        id=id,
        ask=Ask.GENERATE,
        split=split,
        subtask="tofu",
        kind=Kind.QUESTION,
        document=id,
        prompt=f"{id}?",
        expected=expected,
        output=output,
    )


def test_scores_by_hand():
    """Two of two forget answers given, none of one kept; rules agree on two of three, the entailment model on one."""
    suite = LlmJudge(url="http://host/v1", model="grader")
    rows = [
        answer("a", Split.FORGET, "in Rome", "She lives in Rome."),
        answer("b", Split.FORGET, "seven grey cats", "grey cats, seven of them"),
        answer("c", Split.RETAIN, "blue", "red"),
    ]
    labels = {"a": "yes", "b": "yes", "c": "no"}
    asked = suite.judgements(Answers(responses=rows, evaluator=EvaluatorSettings(resamples=0)))
    assert [(entry.first, entry.second) for entry in asked] == [(row.output, row.expected) for row in rows]
    judged = [judgement_response(entry, entry.model, label=labels[entry.response.id]) for entry in asked]
    judged += [
        replace(row, ask=Ask.ENTAILMENT, label=label, variant="generation_first")
        for row, label in zip(rows, ("neutral", "neutral", "neutral"), strict=True)
    ]
    answers = Answers(responses=[*rows, *judged], evaluator=EvaluatorSettings(resamples=0))
    scores = {score.name: score.value for score in suite.scores(answers)}
    assert scores["llm_judge.forget.accuracy"] == 1.0 and scores["llm_judge.retain.accuracy"] == 0.0
    assert scores["llm_judge.agreement.exact"] == pytest.approx(2 / 3)
    assert scores["llm_judge.agreement.entailment"] == pytest.approx(1 / 3)


def test_without_a_judge_there_is_a_reason():
    scores = LlmJudge().scores(Answers(responses=[], evaluator=EvaluatorSettings(resamples=0)))
    assert all(score.value is None and "no judge is named" in score.reason for score in scores)


def test_another_prompt_or_model_is_another_judge():
    names = {LlmJudge(url="http://host/v1", model=model).judge_name for model in ("a", "b")}
    assert len(names) == 2 and all(name.endswith("prompt=1") for name in names)


def test_verdicts_of_a_run_are_in_its_store(server, tmp_path):
    """Two evaluations, one question to the judge; without an answer the scores have the reason."""
    given = {"url": server.url, "model": "grader", "retries": 0}
    words = ["evaluator=llm_judge", f"output_dir={tmp_path}", "evaluator.resamples=0"]
    settings = settings_of(*words, *(f"evaluator.suites.llm_judge.{key}={value}" for key, value in given.items()))
    rows = [answer("a", Split.FORGET, "in Rome", "She lives in Rome.")]
    answers = Answers(responses=rows, evaluator=settings.evaluator)
    for _ in range(2):
        judged = add_judgements(answers, settings, "unlearned")
        assert [(row.ask, row.label) for row in judged] == [(Ask.GENERATE, None), (Ask.VERDICT, "yes")]
        assert judged[1].judge == f"grader at {server.url} prompt=1"
    assert len(server.asked) == 1 and list((tmp_path / "store" / "verdicts").glob(f"*/{VERDICTS_FILE}"))
    assert add_judgements(replace(answers, responses=judged), settings, "unlearned") == judged
    server.statuses = [401]
    unheard = Answers(responses=[answer("b", Split.FORGET, "blue", "red")], evaluator=settings.evaluator)
    judged = add_judgements(unheard, settings, "unlearned")
    (score, *_) = settings.evaluator.suites["llm_judge"].scores(replace(unheard, responses=judged))
    assert score.value is None and "answers HTTP 401" in score.reason
