"""The scoring pass token by token against open-unlearning's numbers, and the suites that read it.

Golden rows are already tokenised, so they enter as TokenRows and take our own path from there: left padding, one
forward a batch, label positions only. Tolerances are those of the golden README.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from lume_run.common.errors import RunError
from lume_run.common.jsonl import from_json, to_json
from lume_run.common.records import Ask, Example, Kind, Question, Response, Split, TaskData
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.inference.logprobs import AnswerScores, answer_scores, token_numbers
from lume_run.evaluation.metrics.membership import auc_interval
from lume_run.evaluation.questions import deduplicate_questions, questions_of, suites_of
from lume_run.evaluation.scoring import score_answers
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.memorisation import Memorisation
from lume_run.evaluation.suites.mia import Membership
from lume_run.pipeline.checks.config import require_settings

# ------------------------------------------------------------------------------------------------ by hand


def token_scores(logits: torch.Tensor, targets: list[int], *, closed: bool) -> AnswerScores:
    marked = torch.ones(len(targets), dtype=torch.bool)
    numbers = token_numbers([logits], torch.arange(len(logits)), torch.tensor(targets), marked)
    return answer_scores(*numbers, closed=closed, moments=True)


def test_token_scores_by_hand():
    """Two tokens over three words: (1/2, 1/4, 1/4) with the first expected, (1/8, 3/8, 1/2) with the second."""
    p = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]], dtype=torch.float64)
    scores = token_scores(p.log(), [0, 1], closed=True)
    assert scores.logp_sum == pytest.approx(math.log(0.5 * 0.375))
    assert (scores.tokens, scores.closed, scores.hits) == (2, True, (True, False))
    assert scores.logps == pytest.approx((math.log(0.5), math.log(0.375)), abs=1e-6)
    mean = 0.5 * math.log(0.5) + 0.5 * math.log(0.25)
    assert scores.means[0] == pytest.approx(mean, abs=1e-6)
    assert scores.variances[0] == pytest.approx(0.25 * math.log(2) ** 2, abs=1e-6)  # half the mass on either side


def test_numbers_that_are_not_finite_are_left_out():
    logps = torch.tensor([[float("nan"), 0.0]])
    assert token_scores(logps, [0], closed=False) == AnswerScores(logp_sum=None, tokens=1, closed=False)


def answer(id: str, split: Split, hits: str, *, closed: bool = True, total: float = -1.0, **fields) -> Response:
    return Response(
        id=id,
        ask=Ask.LOGPROB,
        split=split,
        subtask="bios",
        kind=fields.pop("kind", Kind.QUESTION),
        document=id,
        prompt="q",
        expected="a",
        tokens=len(hits),
        logp_sum=total,
        closed=closed,
        hits=tuple(hit == "x" for hit in hits),
        **fields,
    )


def test_memorisation_scores_by_hand():
    """EOS, the last hit of a closed answer, counts for the probability only."""
    rows = [answer("1", Split.FORGET, "x.xx-"), answer("2", Split.FORGET, "..-", total=-3.0)]
    rows += [answer("3", Split.RETAIN, "xxxx", closed=False), answer("4", Split.FORGET, "xx-", variant="paraphrase.0")]
    rows += [answer("5", Split.FORGET, "xx-", kind=Kind.DOCUMENT)]
    sheet = {
        score.name: score for score in Memorisation().scores(Answers(responses=rows, evaluator=EvaluatorSettings()))
    }
    assert sheet["forget.exact_memorisation"].value == pytest.approx((3 / 4 + 0) / 2)
    assert sheet["forget.extraction_strength"].value == pytest.approx((2 / 4 + 0) / 2)
    assert sheet["forget.probability"].value == pytest.approx((math.exp(-1 / 5) + math.exp(-1)) / 2)
    assert (sheet["forget.probability"].n, sheet["retain.exact_memorisation"].value) == (2, 1.0)


def test_a_broken_model_gives_reasons():
    rows = [answer("1", Split.FORGET, "", total=None), answer("2", Split.FORGET, "x-")]
    sheet = {
        score.name: score for score in Memorisation().scores(Answers(responses=rows, evaluator=EvaluatorSettings()))
    }
    assert sheet["forget.probability"].value is None
    assert sheet["forget.probability"].reason == "1 of 2 scored forget answers have no finite numbers"
    assert sheet["retain.probability"].reason.startswith("there are no scored retain answers: the task has none")
    sheet = {score.name: score for score in Membership().scores(Answers(responses=rows, evaluator=EvaluatorSettings()))}
    assert all(score.reason.startswith("there are no member documents: the task has none") for score in sheet.values())


def document(id: str, split: Split, logp: float) -> Response:
    """Two tokens, the second one twice as unlikely."""
    numbers = {"logps": (logp, 2 * logp), "means": (-2.0, -2.0), "variances": (1.0, 1.0)}
    return answer(id, split, "xx", kind=Kind.DOCUMENT, closed=False, total=3 * logp, **numbers)


def test_attacks_by_hand():
    """Members -1 and -3 against non-members -2 and -4: three of four pairs in order; half of them above both."""
    rows = [document(f"m{logp}", Split.MEMBER, logp) for logp in (-1.0, -3.0)]
    rows += [document(f"n{logp}", Split.NONMEMBER, logp) for logp in (-2.0, -4.0)]
    sheet = {score.name: score for score in Membership().scores(Answers(responses=rows, evaluator=EvaluatorSettings()))}
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        assert sheet[f"mia.{attack}.auc"].value == 0.75
        assert sheet[f"mia.{attack}.tpr"].value == 0.5
        assert sheet[f"mia.{attack}.auc"].n == 4
        assert (sheet[f"mia.{attack}.auc"].low, sheet[f"mia.{attack}.auc"].high) == auc_interval(0.75, 2, 2)


def test_of_sums_alone_the_loss_attack_is_left():
    """Responses of the official script: one mean loss a document."""
    rows = [document("m", Split.MEMBER, -1.0), document("n", Split.NONMEMBER, -2.0)]
    bare = [replace(row, logps=(), means=(), variances=()) for row in rows]
    sheet = {score.name: score for score in Membership().scores(Answers(responses=bare, evaluator=EvaluatorSettings()))}
    assert sheet["mia.loss.auc"].value == 1.0
    assert "no log-probabilities of single tokens" in sheet["mia.min_k.auc"].reason
    assert sheet["mia.zlib.tpr"].reason == sheet["mia.min_k_plus_plus.auc"].reason == sheet["mia.min_k.auc"].reason


# --------------------------------------------------------------------------------------------- composition


def example(id: str, split: Split, kind: Kind = Kind.QUESTION) -> Example:
    return Example(id=id, raw_id=id, document=id, split=split, subtask="bios", kind=kind, prompt="q", answer="a")


DATA = TaskData(
    forget=(example("f", Split.FORGET),),
    retain=(example("r", Split.RETAIN),),
    members=(example("m", Split.MEMBER, Kind.DOCUMENT),),
    nonmembers=(example("n", Split.NONMEMBER, Kind.DOCUMENT),),
)


def evaluator(*overrides: str) -> EvaluatorSettings:
    settings, _ = require_settings(compose(list(overrides), [conf_dir()]))
    return settings.evaluator


def test_suites_share_what_they_ask():
    alone = {
        name: deduplicate_questions(questions_of(DATA, evaluator(f"evaluator={name}"), trained_here=True))
        for name in ("lume", "memorisation", "mia")
    }
    assert [len(questions) for questions in alone.values()] == [4, 2, 2]
    together = deduplicate_questions(
        questions_of(DATA, evaluator("evaluator=[lume,memorisation,mia]"), trained_here=True)
    )
    assert len(together) == 6  # the documents of lume and mia are asked once
    asked = {question for questions in alone.values() for question in questions}
    wanted = {question for question in asked if replace(question, moments=True) not in asked - {question}}
    assert wanted == set(together)  # with the numbers that any of them wants


def test_suites_that_mean_different_things_by_one_question_are_refused():
    """Another suite would be scored on the shorter text."""
    question = Question(example=DATA.forget[0], ask=Ask.GENERATE)
    equal = Question(example=replace(DATA.forget[0]), ask=Ask.GENERATE)
    assert deduplicate_questions(
        {"lume": [question], "mine": [equal, replace(question, variant="short", limit=5)]}
    ) == [
        question,
        replace(question, variant="short", limit=5),
    ]
    for other in (replace(question, limit=5), replace(question, example=replace(question.example, prompt="p"))):
        with pytest.raises(RunError, match=r"suite 'mine' and another one ask generate of 'f'.*variant of its own"):
            deduplicate_questions({"lume": [question], "mine": [other]})


def test_a_single_suite_gives_its_scores_only():
    assert list(suites_of(evaluator("evaluator=mia"))) == ["mia"]
    answers = Answers(responses=[answer("1", Split.FORGET, "x-")], evaluator=evaluator("evaluator=memorisation"))
    names = {score.name for score in score_answers(answers)[0]}
    assert names == {
        f"{side}.{what}"
        for side in ("forget", "retain")
        for what in ("probability", "exact_memorisation", "extraction_strength")
    }


def test_token_numbers_survive_the_file():
    row = answer("1", Split.FORGET, "x.-", logps=(-0.5, -1.0, 0.0), means=(-2.0,), variances=(0.0,), variant="x")
    assert from_json(Response, to_json(row)) == row
    bare = answer("2", Split.FORGET, "", total=0.0, closed=False)
    assert from_json(Response, to_json(bare)) == bare
    assert json.loads(to_json(bare))["logp_sum"] == 0.0
