"""open-unlearning's overall score: its three parts by hand, what each needs, a model measured by its target."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import harmonic_mean

import pytest

from lume_run.common.records import Ask, Kind, Response, Split
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.open_unlearning import OpenUnlearning

HALF, FOURTH = math.log(2), math.log(4)
SETTINGS = EvaluatorSettings(resamples=0)


def row(id: str, split: Split, ask: Ask, variant: str = "", loss: float = 0.0, **fields) -> Response:
    """A text, or the log-prob of an answer of four tokens."""
    given = {"logp_sum": -4 * loss, "tokens": 4} if ask is Ask.LOGPROB else {"output": "one two three four five"}
    common = {"subtask": "tofu", "kind": Kind.QUESTION, "document": id, "prompt": "?", "expected": "one two"}
    return Response(id=id, split=split, ask=ask, variant=variant, **(common | given | fields))


def question(id: str, split: Split, hits: tuple[bool, ...], loss: float) -> list[Response]:
    """A question whose answer has this loss, in other words half of the probability, a false one half of that."""
    return [
        row(id, split, Ask.GENERATE),
        row(id, split, Ask.LOGPROB, loss=loss, hits=hits),
        row(id, split, Ask.LOGPROB, "paraphrase0", loss=loss + HALF),
        row(id, split, Ask.LOGPROB, "perturbed0", loss=loss + FOURTH),
    ]


def document(id: str, split: Split, *logps: float) -> Response:
    moments = {"means": (-2.0,) * len(logps), "variances": (1.0,) * len(logps)}
    numbers = {"logps": logps, "logp_sum": sum(logps), "tokens": len(logps)} | moments
    return row(id, split, Ask.LOGPROB, kind=Kind.DOCUMENT, **numbers)


def documents(*members: float) -> list[Response]:
    """Members of these token log-probs, and non-members of -1.5 and -2.5."""
    rows = [document(f"m{number}", Split.MEMBER, logp, logp) for number, logp in enumerate(members)]
    return rows + [document(f"n{number}", Split.NONMEMBER, logp, logp) for number, logp in enumerate((-1.5, -2.5))]


FORGET = question("f1", Split.FORGET, (True, False, True, True), HALF)
RETAIN = question("r1", Split.RETAIN, (True,) * 4, 0.0)
TARGET = [*question("f1", Split.FORGET, (True,) * 4, 0.0), *RETAIN, *documents(-1.0, -1.0)]


def answered(rows, retrained=None, target=TARGET) -> Answers:
    return Answers(responses=rows, evaluator=SETTINGS, retrained=retrained, target=target)


def scores(rows, retrained=None, target=TARGET):
    of_suite = OpenUnlearning().scores(answered(rows, retrained, target))
    return {score.name.removeprefix("open_unlearning."): score for score in of_suite}


def test_memorisation_by_hand():
    """ES: the last two of four; EM three of four; 1/4 in other words; 1/4 of 1/4 + 1/8."""
    value = scores([*FORGET, *RETAIN])["memorisation"].value
    assert value == pytest.approx(harmonic_mean([1 - 0.5, 1 - 0.75, 1 - 0.25, 1 - 2 / 3]))


def test_privacy_is_nearness_to_the_retrained_model():
    """Members at -1 are all above non-members, AUC 1; the retrained model's at -2 are above one of two, 1/2."""
    rows, retrained = [*FORGET, *RETAIN, *documents(-1.0, -1.0)], documents(-2.0, -2.0)
    assert scores(rows, retrained)["privacy"].value == 0  # 1 - |1 - 1/2| / (1/2)
    assert scores(rows, documents(-1.0, -1.0))["privacy"].value == 1
    half = [*FORGET, *RETAIN, *documents(-1.0, -2.0)]  # 3/4 by loss, min-k and min-k++
    assert scores(half, retrained)["privacy"].value == pytest.approx(0.5)
    assert "compares" in scores(rows)["privacy"].reason


def test_utility_is_a_share_of_the_target():
    same = scores([*FORGET, *RETAIN])
    assert same["utility"].value == 1
    likely = {response.variant for response in RETAIN if response.ask is Ask.LOGPROB} - {""}
    worse = [replace(of, logp_sum=-4 * HALF) if of.tokens and of.variant not in likely else of for of in RETAIN]
    before, after = harmonic_mean([1, 1, 0.5]), harmonic_mean([0.5, 1, 0.5])
    assert scores([*FORGET, *worse])["utility"].value == pytest.approx(harmonic_mean([after / before, 1]))
    silent = [replace(response, output="one") if response.ask is Ask.GENERATE else response for response in FORGET]
    assert scores([*silent, *RETAIN])["utility"].value == 0  # a word has no pairs of words
    assert "before unlearning" in scores([*FORGET, *RETAIN], target=None)["utility"].reason


def fluency_row(of: Response, clean: float | None, variant: str = "", **fields) -> Response:
    return replace(of, ask=Ask.FLUENCY, variant=variant, clean=clean, judge="judge", tokens=None, **fields)


def test_fluency_by_a_classifier():
    """A quarter of the target's fluency is left: 0.2 of 0.8, of the forget text alone."""
    suite, rows = OpenUnlearning(classifier="folder"), [*FORGET, *RETAIN]
    wanted = suite.judgements(answered(rows))
    assert [(judgement.first, judgement.variant, judgement.ask) for judgement in wanted] == [
        ("one two three four five", "", Ask.FLUENCY),
        ("one two three four five", "before", Ask.FLUENCY),
    ]
    assert suite.judges() == [(Ask.FLUENCY, "folder")] and OpenUnlearning().judges() == []
    judged = [fluency_row(FORGET[0], 0.2), fluency_row(FORGET[0], 0.8, "before")]
    (utility,) = (score for score in suite.scores(answered([*rows, *judged])) if score.name.endswith("utility"))
    assert utility.value == pytest.approx(harmonic_mean([1, 0.25]))
    gone = [judged[0], fluency_row(FORGET[0], None, "before", reason="it is gone")]
    for given, reason in ((rows, "were not judged"), ([*rows, *gone], "it is gone")):
        (utility,) = (score for score in suite.scores(answered(given)) if score.name.endswith("utility"))
        assert utility.value is None and reason in utility.reason


def test_overall_is_the_harmonic_mean_of_the_three():
    rows = [*FORGET, *RETAIN, *documents(-1.0, -2.0)]
    of = scores(rows, documents(-2.0, -2.0))
    parts = [of[name].value for name in ("memorisation", "privacy", "utility")]
    assert of["overall"].value == pytest.approx(harmonic_mean(parts))
    missing = scores(rows)["overall"]
    assert missing.value is None and "needs open_unlearning.privacy" in missing.reason
