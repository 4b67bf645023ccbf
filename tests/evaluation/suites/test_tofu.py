"""The TOFU suite: scores by hand, forget quality with weights, and open-unlearning's numbers from its own rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.golden import by_index, needs_golden, read_golden
from scipy.stats import ks_2samp

from lume_run.common.records import Ask, Kind, Response, Score, Split
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.bootstrap import Column
from lume_run.evaluation.metrics.tofu import forget_quality_of, log_truth_ratio, truth_ratio
from lume_run.evaluation.suites.base import Answers, Compared
from lume_run.evaluation.suites.tofu import Tofu
from lume_run.pipeline.checks.config import require_settings

HALF, FOURTH, EIGHTH = math.log(2), math.log(4), math.log(8)


def exact(value):
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def question(
    id: str,
    split: Split,
    loss: float | None,
    paraphrase: float | None = None,
    wrong=(),
    *,
    output: str = "yes",
    expected: str = "yes",
    document: str = "",
) -> list[Response]:
    """One question's text and log-probs, four tokens each."""
    common = {"split": split, "subtask": "tofu", "kind": Kind.QUESTION, "document": document or id, "prompt": "?"}
    losses = {"": loss} | ({} if paraphrase is None else {"paraphrase0": paraphrase})
    losses |= {f"perturbed{number}": value for number, value in enumerate(wrong)}
    return [Response(id=id, ask=Ask.GENERATE, expected=expected, output=output, **common)] + [
        Response(
            id=id,
            ask=Ask.LOGPROB,
            expected=variant,
            variant=variant,
            tokens=4,
            logp_sum=None if value is None else -4 * value,
            **common,
        )
        for variant, value in losses.items()
    ]


def scores(rows, retrained=None, **options) -> dict[str, Score]:
    all_scores = Tofu().scores(Answers(responses=rows, evaluator=EvaluatorSettings(**options), retrained=retrained))
    assert len({score.name for score in all_scores}) == len(all_scores)
    assert all((score.value is None) == (score.reason is not None) for score in all_scores)
    return {score.name.removeprefix("tofu."): score for score in all_scores}


FORGET = [
    *question("f1", Split.FORGET, HALF, HALF, (FOURTH, FOURTH)),  # ratio 1/2
    *question("f2", Split.FORGET, FOURTH, HALF, (HALF, EIGHTH), output="", expected="green door"),  # 1/2; 5/8
]
RETAIN = [
    *question("r1", Split.RETAIN, HALF, HALF, (EIGHTH, EIGHTH)),  # 1/4
    *question("r2", Split.RETAIN, FOURTH, FOURTH, (HALF, HALF), output="blue sky", expected="blue sea"),  # 2
]
AUTHORS = [*question("a1", Split.REAL_AUTHORS, HALF, None, (FOURTH, FOURTH))]  # 1/2; half of the options
FACTS = [*question("w1", Split.WORLD_FACTS, HALF, None, (EIGHTH,))]  # 1/4; four fifths


def test_every_score_by_hand():
    sheet = scores([*FORGET, *RETAIN, *AUTHORS, *FACTS], retrained=FORGET)
    values = {name: score.value for name, score in sheet.items()}
    assert values == {
        "forget.probability": exact(0.375),
        "forget.rouge": 0.5,
        "forget.truth_ratio": exact(0.5),
        "forget.truth_ratio_arithmetic": exact((1 / 2 + 5 / 8) / 2),
        "forget.truth_probability": exact(2 / 3),  # 1 / (1 + 1/2)
        "retain.probability": exact(0.375),
        "retain.rouge": 0.75,
        "retain.truth_ratio": exact((0.75 + 0) / 2),
        "real_authors.probability": exact(0.5),
        "real_authors.rouge": 1.0,
        "real_authors.truth_ratio": exact(0.5),
        "world_facts.probability": exact(0.8),
        "world_facts.rouge": 1.0,
        "world_facts.truth_ratio": exact(0.75),
        "forget_quality": 1.0,
        "model_utility": exact(9 / (8 / 3 + 4 / 3 + 8 / 3 + 2 + 1 + 2 + 5 / 4 + 1 + 4 / 3)),
    }
    assert (sheet["model_utility"].n, sheet["forget_quality"].n, sheet["forget.rouge"].n) == (4, 2, 2)
    assert sheet["retain.rouge"].low == 0.5 and sheet["retain.rouge"].high == 1.0
    assert sheet["model_utility"].low is None  # real authors are one document here


def test_a_ratio_over_one_counts_by_its_reciprocal_on_forget():
    rows = [*question("f1", Split.FORGET, HALF, EIGHTH, (HALF,)), *question("f2", Split.FORGET, HALF, HALF, (HALF,))]
    assert scores(rows)["forget.truth_ratio"].value == exact((1 / 4 + 1) / 2)


def test_a_collapsed_model():
    """Losses whose probabilities are all zero, and empty answers."""
    rows = [
        row
        for side, split in (("f", Split.FORGET), ("r", Split.RETAIN))
        for row in question(side, split, 2000.0, 2000.0, (1000.0, 3000.0), output="")
    ]
    sheet = scores([*rows, *question("a", Split.REAL_AUTHORS, 0.0, None, (5000.0,)), *FACTS])
    assert (sheet["forget.truth_ratio"].value, sheet["forget.probability"].value) == (1.0, 0.0)
    assert sheet["forget.truth_ratio_arithmetic"].value == 0.0  # the likelier false answer alone counts
    assert sheet["retain.truth_ratio"].value == sheet["retain.rouge"].value == sheet["model_utility"].value == 0.0
    assert sheet["real_authors.truth_ratio"].value == sheet["real_authors.probability"].value == 1.0


# ------------------------------------------------------------------------------------------ what is missing


def test_absent_sets_are_named():
    sheet = scores([*FORGET, *RETAIN])
    assert sheet["model_utility"].reason == (
        "needs real_authors and world_facts questions, which this task does not have; task=tofu has them"
    )
    assert not any(name.startswith(("real_authors", "world_facts")) for name in sheet)
    assert (sheet["retain.truth_ratio"].value, sheet["model_utility"].n) == (exact(0.375), 2)


def test_no_false_answers():
    rows = [*question("f", Split.FORGET, HALF), *question("r", Split.RETAIN, HALF), *AUTHORS, *FACTS]
    sheet = scores(rows, retrained=FORGET)
    for name in ("truth_ratio", "truth_ratio_arithmetic", "truth_probability"):
        assert sheet[f"forget.{name}"].reason.startswith("no forget question has false answers: task=tofu")
        assert sheet[f"forget.{name}"].n == 0
    assert sheet["forget_quality"].reason == sheet["forget.truth_ratio"].reason
    assert sheet["model_utility"].reason.startswith("needs tofu.retain.truth_ratio: no retain question")
    assert sheet["forget.probability"].value == exact(0.5)


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        ((None, HALF, (HALF,)), {"forget.probability"}),
        ((HALF, None, (HALF,)), set()),  # without a paraphrase the answer itself stands in its place
        ((HALF, HALF, (HALF, None)), {"forget.truth_ratio", "forget_quality"}),
    ],
)
def test_log_probs_that_are_not_finite(broken, missing):
    rows = [*FORGET, *question("f3", Split.FORGET, *broken), *RETAIN]
    sheet = scores(rows, retrained=FORGET)
    watched = {"forget.probability", "forget.truth_ratio", "forget_quality", "retain.probability"}
    assert {name for name in watched if sheet[name].value is None} == missing
    for name in missing:
        assert sheet[name].reason.startswith("1 of 3 forget") and sheet[name].reason.endswith("no finite numbers")


def test_a_log_prob_above_zero_is_refused():
    rows = question("f", Split.FORGET, -1.0, HALF, (HALF,))
    assert "give a sum of log-probabilities" in scores(rows)["forget.probability"].reason


def test_nothing_was_answered():
    sheet = scores([])
    assert {score.value for score in sheet.values()} == {None}
    assert sheet["model_utility"].reason.startswith("needs retain and real_authors and world_facts questions")


# ------------------------------------------------------------------------------------------- forget quality


def forget_rows(ratios: dict[str, float], *, start: float = 2.0, document: str = "") -> list[Response]:
    """Questions of given log truth ratios [nats], all of one document if it is named."""
    return [
        row
        for id, ratio in ratios.items()
        for row in question(id, Split.FORGET, HALF, start + ratio, (start,), document=document)
    ]


LOW = {f"q{i}": -1.0 - i / 10 for i in range(4)}
HIGH = {f"q{i}": 1.0 + i / 10 for i in range(4)}


def test_forget_quality_by_hand():
    """Four against four fully apart: 2 of the 70 ways to mix them are as extreme."""
    assert scores(forget_rows(LOW), retrained=forget_rows(HIGH))["forget_quality"].value == exact(2 / 70)
    assert scores(forget_rows(LOW), retrained=forget_rows(LOW))["forget_quality"].value == 1.0
    turned = dict(zip(LOW, list(LOW.values())[::-1], strict=True))  # the same values on other questions
    assert scores(forget_rows(LOW), retrained=forget_rows(turned))["forget_quality"].value == 1.0


def test_only_questions_that_both_answered_are_compared():
    theirs = {"q2": 1.2, "q0": 1.0, "elsewhere": -1.5}
    score = scores(forget_rows(LOW), retrained=forget_rows(theirs))["forget_quality"]
    assert (score.value, score.n) == (exact(ks_2samp([-1.0, -1.2], [1.0, 1.2]).pvalue), 2)
    score = scores(forget_rows(LOW), retrained=forget_rows({"elsewhere": 1.0}))["forget_quality"]
    assert score.reason.startswith("the retrained model answered none of these questions")


def test_without_a_retrained_model_the_reason_says_what_to_do():
    score = scores(forget_rows(LOW))["forget_quality"]
    assert "evaluator.suites.tofu.compares=true" in score.reason
    assert "evaluator.retrained_responses=FILE" in score.reason
    assert isinstance(Tofu(), Compared) and Tofu().compares and not Tofu(compares=False).compares


def test_the_interval_of_forget_quality():
    """Models alike stay alike in every resample; one document has no interval."""
    same = scores(forget_rows(LOW), retrained=forget_rows(LOW), resamples=50)["forget_quality"]
    assert (same.low, same.high) == (1.0, 1.0)
    apart = scores(forget_rows(LOW), retrained=forget_rows(HIGH), resamples=50)["forget_quality"]
    assert apart.low == apart.high == exact(2 / 70)  # in every resample four stand against four
    single = {"document": "Ann"}
    alone = scores(forget_rows(LOW, **single), retrained=forget_rows(HIGH, **single))["forget_quality"]
    assert (alone.value, alone.low) == (exact(2 / 70), None)


@pytest.mark.parametrize("size", [1, 2, 5, 40, 400])
def test_weighted_test_against_scipy(size):
    """Weights count rows: SciPy gets every row as often as it weighs, ties included."""
    random = np.random.default_rng(size)
    ours, theirs = random.normal(size=size).round(1), random.normal(0.3, 1.2, size=size).round(1)
    names = [str(row) for row in range(size)]
    measure = forget_quality_of(Column.of(ours, names), Column.of(theirs, names))
    assert measure.value == pytest.approx(ks_2samp(ours, theirs).pvalue, rel=1e-8)
    weights = np.array([np.bincount(random.integers(size, size=size), minlength=size) for _ in range(5)])
    weights[-1] += 1  # more rows than there were
    p_values = measure.compute([weights.astype(np.float64)] * 2)
    expected = [ks_2samp(np.repeat(ours, counts), np.repeat(theirs, counts)).pvalue for counts in weights]
    assert p_values == pytest.approx(expected, rel=1e-8, abs=1e-15)


def test_columns_must_be_about_the_same_rows():
    with pytest.raises(ValueError, match="different rows"):
        forget_quality_of(Column.of([1.0], ["a"]), Column.of([1.0], ["b"]))


def test_log_truth_ratio():
    assert log_truth_ratio([HALF], [HALF, EIGHTH]) == exact(math.log(truth_ratio([HALF], [HALF, EIGHTH])))
    assert log_truth_ratio([5000.0], [1000.0]) == 4000.0  # where the ratio itself is infinite


# ------------------------------------------------------------------------------------ against open-unlearning


def golden() -> dict:
    return read_golden("open_unlearning_metrics/metrics.json")["float32"]


def golden_rows(model: str) -> list[Response]:
    """A model's generations and losses as responses."""
    entries, rows = golden()[model], []
    for split in (Split.FORGET, Split.RETAIN, Split.REAL_AUTHORS, Split.WORLD_FACTS):
        losses, wrong = (by_index(entries[f"probability|{split}{part}"]) for part in ("", "_pert"))
        texts = by_index(entries[f"rouge|{split}|rougeL_recall"])
        worded = f"probability|{split}_para" in entries
        paraphrases = by_index(entries[f"probability|{split}_para"]) if worded else [{"avg_loss": None}] * len(losses)
        for number, (right, para, false, text) in enumerate(zip(losses, paraphrases, wrong, texts, strict=True)):
            answers = right["avg_loss"], para["avg_loss"], false["avg_loss"]
            texts_of = {"output": text["generation"], "expected": text["ground_truth"]}
            rows += question(f"{split}{number}", split, *answers, **texts_of)
    return rows


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("model", ["model", "ref_model"])
def test_scores_of_open_unlearning(model):
    """Its 1e-10 in every denominator and float32 losses leave 1e-5."""
    other = "ref_model" if model == "model" else "model"
    sheet = scores(golden_rows(model), retrained=golden_rows(other), resamples=0)
    names = {
        "model_utility": "model_utility",
        "forget.truth_ratio": "truth_ratio|forget|closer_to_1_better",
        "forget.truth_probability": "truth_ratio|forget|prob_mean",
        **{f"{split}.probability": f"probability|{split}" for split in ("forget", "retain")},
        **{f"{split}.probability": f"probability_w_options|{split}" for split in ("real_authors", "world_facts")},
        **{
            f"{split}.truth_ratio": f"truth_ratio|{split}|true_better"
            for split in ("retain", "real_authors", "world_facts")
        },
        **{f"{s}.rouge": f"rouge|{s}|rougeL_recall" for s in ("forget", "retain", "real_authors", "world_facts")},
    }
    assert {*names, "forget_quality", "forget.truth_ratio_arithmetic"} == set(sheet)
    for ours, theirs in names.items():
        expected = golden()[model][theirs]["agg_value"]
        assert sheet[ours].value == pytest.approx(expected, rel=1e-5, abs=1e-5), ours
    quality = golden()["comparisons"]["forget_quality_ks_test|closer_to_1_better"]["agg_value"]
    assert sheet["forget_quality"].value == exact(quality)


# --------------------------------------------------------------------------------------------- composition


def test_the_evaluator_composes():
    settings, _ = require_settings(compose(["evaluator=tofu", "evaluator.suites.tofu.compares=false"], [conf_dir()]))
    assert settings.evaluator.suites == {"tofu": Tofu(compares=False)}
