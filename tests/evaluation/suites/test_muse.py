"""The MUSE and membership suites: what they ask, their scores by hand, and the golden AUCs of both models."""

from __future__ import annotations

import re

import pytest
from helpers.golden import golden_keys, needs_golden, read_golden

from lume_run.common.records import Ask, Example, Kind, Response, Score, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.muse import NEWS_RETRAINED_AUC
from lume_run.evaluation.suites.base import Answers, Compared
from lume_run.evaluation.suites.mia import Membership
from lume_run.evaluation.suites.muse import Muse

GOLDEN = "open_unlearning_metrics/metrics.json"
LEAKAGE = re.compile(r"privleak\|mia_min_k\|k=([\d.]+)\|vs_ref_model")
EVALUATOR = EvaluatorSettings(resamples=200)


def row(split: Split, kind: Kind, number: int, ask: Ask, **fields) -> Response:
    id = f"{split}-{kind}-{number}"
    given = {"subtask": "news", "document": id, "prompt": "p", "expected": "e"}
    return Response(id=id, split=split, kind=kind, ask=ask, **given | fields)


def text(split: Split, kind: Kind, number: int, expected: str, output: str | None) -> Response:
    return row(split, kind, number, Ask.GENERATE, variant="muse", expected=expected, output=output)


def documents(members, nonmembers) -> list[Response]:
    """Documents of one token, so that loss and min-k are its log-probability."""
    return [
        row(split, Kind.DOCUMENT, number, Ask.LOGPROB, logps=(logp,), means=(-1.0,), variances=(1.0,), tokens=1)
        for split, logps in ((Split.MEMBER, members), (Split.NONMEMBER, nonmembers))
        for number, logp in enumerate(logps)
    ]


def scores(suite, rows, retrained=None) -> dict[str, Score]:
    all_scores = suite.scores(Answers(responses=rows, evaluator=EVALUATOR, retrained=retrained))
    return {score.name: score for score in all_scores}


# --------------------------------------------------------------------------------------------------- asks


def example(split: Split, kind: Kind) -> Example:
    id = f"{split}-{kind}"
    return Example(id=id, raw_id=id, document=id, split=split, subtask="news", kind=kind, prompt="q", answer="a")


DATA = TaskData(
    forget=(example(Split.FORGET, Kind.COMPLETION), example(Split.FORGET, Kind.QUESTION)),
    retain=(example(Split.RETAIN, Kind.QUESTION),),
    members=(example(Split.MEMBER, Kind.DOCUMENT),),
    nonmembers=(example(Split.NONMEMBER, Kind.DOCUMENT),),
    others=(example(Split.RETAIN, Kind.COMPLETION),),
)


def test_muse_asks_for_texts_of_its_own_length():
    asked = [
        (question.ask, question.example.id, question.variant, question.limit)
        for question in Muse().asks(DATA, EVALUATOR)
    ]
    assert asked == [
        (Ask.GENERATE, "forget-completion", "muse", 128),
        (Ask.GENERATE, "forget-question", "muse", 32),
        (Ask.GENERATE, "retain-question", "muse", 32),
        (Ask.LOGPROB, "member-document", "", 0),
        (Ask.LOGPROB, "nonmember-document", "", 0),
    ]
    assert [question.limit for question in Muse(verbatim_tokens=9, answer_tokens=4).asks(DATA, EVALUATOR)[:2]] == [9, 4]


def test_membership_asks_for_gradients_where_wanted():
    assert [question.ask for question in Membership().asks(DATA, EVALUATOR)] == [Ask.LOGPROB] * 2
    asked = [(question.ask, question.example.id) for question in Membership(gradient=True).asks(DATA, EVALUATOR)[2:]]
    assert asked == [(Ask.GRADIENT, "member-document"), (Ask.GRADIENT, "nonmember-document")]


def test_both_may_have_a_retrained_model_made():
    assert isinstance(Muse(), Compared) and Muse().compares
    assert isinstance(Membership(), Compared) and not Membership().compares


# ------------------------------------------------------------------------------------------- texts by hand


def test_memorisation_by_hand():
    """ROUGE-L F1: all of it; recall 1/2 and precision 1, so 2/3; an answer up to the next question."""
    rows = [
        text(Split.FORGET, Kind.COMPLETION, 0, "a b c d", "a b c d"),
        text(Split.FORGET, Kind.COMPLETION, 1, "a b c d", "a b"),
        text(Split.FORGET, Kind.QUESTION, 0, "Paris", "Paris\n\nQuestion: and Rome?"),
        text(Split.RETAIN, Kind.QUESTION, 0, "in Tallinn", "Oslo"),
        text(Split.RETAIN, Kind.QUESTION, 1, "in Tallinn", "in Tallinn"),
        row(Split.FORGET, Kind.COMPLETION, 1, Ask.GENERATE, expected="a", output="a"),  # another suite's
        row(Split.FORGET, Kind.QUESTION, 1, Ask.GENERATE, expected="a", output="b"),
    ]
    sheet = scores(Muse(), rows)
    verbatim = sheet["muse.forget.verbatim"]
    assert (verbatim.value, verbatim.n) == (pytest.approx((1 + 2 / 3) / 2), 2)
    assert (verbatim.low, verbatim.high) == pytest.approx((2 / 3, 1.0))
    assert (sheet["muse.forget.knowledge"].value, sheet["muse.forget.knowledge"].n) == (1.0, 1)
    assert sheet["muse.retain.knowledge"].value == 0.5
    assert sheet["muse.retain.verbatim"].reason.startswith("there are no retain completion texts: the task has none")
    assert list(sheet) == [
        *(f"muse.{split}.{what}" for split in ("forget", "retain") for what in ("verbatim", "knowledge")),
        "muse.privacy_leakage",
    ]


def test_a_text_that_is_missing_makes_the_mean_missing():
    rows = [text(Split.FORGET, Kind.QUESTION, number, "a", output) for number, output in enumerate(("a", None))]
    score = scores(Muse(), rows)["muse.forget.knowledge"]
    assert (score.value, score.reason) == (None, "1 of 2 forget question texts have no finite numbers")


# ------------------------------------------------------------------------------------------- leakage by hand

OWN = documents([-1.0, -3.0], [-2.0, -4.0])  # AUC 3/4
NO_TOKENS = row(Split.NONMEMBER, Kind.DOCUMENT, 1, Ask.LOGPROB, tokens=0)
RETRAINED = documents([-3.0, -2.0], [-2.5, -2.5])  # AUC 1/2


def test_leakage_by_hand():
    score = scores(Muse(), OWN, RETRAINED)["muse.privacy_leakage"]
    assert (score.value, score.n) == (pytest.approx((1 / 2 - 3 / 4) / (1 / 2) * 100), 4)
    published = scores(Muse(published="news"), OWN)["muse.privacy_leakage"].value
    assert published == pytest.approx((NEWS_RETRAINED_AUC - 3 / 4) / (1 - NEWS_RETRAINED_AUC) * 100)


def test_leakage_pairs_the_two_models():
    """A model that answers as the retrained one leaks nothing in any resample, not nothing on average."""
    rows = documents([-1.0, -3.0, -2.2, -2.4, -5.0] * 4, [-2.0, -4.0, -2.3, -3.5, -1.5] * 4)
    score = scores(Muse(), rows, rows)["muse.privacy_leakage"]
    assert (score.value, score.low, score.high) == (0.0, 0.0, 0.0)
    shifted = [-1.2, -3.0, -2.2, -2.4, -4.9] * 4
    other = scores(Muse(), rows, documents(shifted, [-2.0, -4.0, -2.3, -3.5, -1.5] * 4))["muse.privacy_leakage"]
    alone = scores(Muse(published="news"), rows)["muse.privacy_leakage"]
    assert other.high - other.low < 0.5 * (alone.high - alone.low)


def test_leakage_finds_documents_by_id():
    """Whatever the order of the retrained model's answers, and whatever else it answered."""
    extra = [row(Split.MEMBER, Kind.DOCUMENT, 99, Ask.LOGPROB, logps=(-9.0,), tokens=1)]
    score = scores(Muse(), OWN, [*extra, *RETRAINED[::-1]])["muse.privacy_leakage"]
    first = scores(Muse(), OWN, RETRAINED)["muse.privacy_leakage"]
    assert (score.value, score.low, score.high) == (first.value, first.low, first.high)


@pytest.mark.parametrize(
    ("suite", "rows", "retrained", "reason"),
    [
        (Muse(), OWN, None, "evaluator.suites.muse.compares=true"),
        (Muse(), OWN, RETRAINED[1:], "not asked about 1 of 4 documents"),
        (Muse(), OWN, documents([-1.0, -1.0], [-2.0, -2.0]), "retrained model's AUC is 1"),
        (Muse(), OWN[:2], RETRAINED, "there are no nonmember documents"),
        (Muse(published="books"), [], None, "there are no member documents"),
        (Muse(), [*OWN[:3], NO_TOKENS], RETRAINED, "1 of 2 nonmember documents have no finite numbers"),
    ],
)
def test_unavailable_leakage_says_why(suite, rows, retrained, reason):
    score = scores(suite, rows, retrained)["muse.privacy_leakage"]
    assert score.value is None and reason in score.reason


# ------------------------------------------------------------------------------------------- other attacks


def test_the_reference_attack_by_hand():
    """Gains over the retrained model: members 2 and -1, non-members 0.5 and -1.5; three of four pairs in order."""
    sheet = scores(Membership(), OWN, RETRAINED)
    assert (sheet["mia.reference.auc"].value, sheet["mia.reference.auc"].n) == (0.75, 4)
    assert sheet["mia.reference.tpr"].value == 0.5
    assert set(sheet) == {
        f"mia.{attack}.{what}"
        for attack in ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
        for what in ("auc", "tpr")
    }


def test_a_reference_that_is_not_there():
    sheet = scores(Membership(), OWN)
    assert sheet["mia.loss.auc"].value == 0.75
    assert "evaluator.suites.mia.compares=true" in sheet["mia.reference.auc"].reason
    assert (
        "was not asked about 'nonmember-document-1'"
        in scores(Membership(), OWN, RETRAINED[:3])["mia.reference.tpr"].reason
    )
    assert scores(Membership(), OWN[:2], RETRAINED)["mia.reference.auc"].reason.startswith(
        "there are no nonmember documents: the task has none"
    )


def gradients(members, nonmembers) -> list[Response]:
    return [
        row(split, Kind.DOCUMENT, number, Ask.GRADIENT, gradient=size)
        for split, sizes in ((Split.MEMBER, members), (Split.NONMEMBER, nonmembers))
        for number, size in enumerate(sizes)
    ]


def test_small_gradients_are_of_members():
    sheet = scores(Membership(gradient=True, fpr=0.5), [*OWN, *gradients([0.1, 0.3], [0.2, 0.4])])
    assert sheet["mia.gradient_norm.auc"].value == 0.75
    assert sheet["mia.gradient_norm.tpr"].value == 1.0  # 0.3 and less: all members, half of the others
    broken = scores(Membership(gradient=True), [*OWN, *gradients([0.1, None], [0.2, 0.4])])
    assert broken["mia.gradient_norm.auc"].reason == "1 of 2 member documents have no finite numbers"
    assert broken["mia.loss.auc"].value == 0.75


def test_intervals_resample_members_and_nonmembers():
    """Member m of 0 to 19 is likelier than all non-members but the first m - 5, if any: 400 - 105 pairs."""
    members, nonmembers = [-1.0 - number / 10 for number in range(20)], [-1.55 - number / 10 for number in range(20)]
    sheet = scores(Membership(), documents(members, nonmembers))
    area, rate = sheet["mia.loss.auc"], sheet["mia.loss.tpr"]
    assert area.value == pytest.approx(295 / 400)
    assert 0.5 < area.low < area.value - 0.1 and area.value + 0.1 < area.high < 0.9  # standard error about 0.08
    assert rate.value == 6 / 20
    assert rate.low < rate.value < rate.high


# ------------------------------------------------------------------------------------------- golden


def golden() -> dict:
    return read_golden(GOLDEN)["float64"]


def their_scores(folder: str, key: str) -> tuple[list[float], list[float]]:
    """Minus the released scores of members and non-members, as ours go."""
    entry = golden()[folder][key]
    members, nonmembers = (
        [-part["value_by_index"][str(number)]["score"] for number in range(len(part["value_by_index"]))]
        for part in (entry["forget"], entry["holdout"])
    )
    return members, nonmembers


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("folder", ["model", "ref_model"])
@pytest.mark.parametrize(
    "key", [key for key in golden_keys(GOLDEN, "float64", "model") if key.split("|")[0] in ("mia_loss", "mia_min_k")]
)
def test_golden_auc(folder, key):
    name, _, parameter = key.partition("|")
    suite = Membership(k=float(parameter.removeprefix("k="))) if parameter else Membership()
    sheet = scores(suite, documents(*their_scores(folder, key)))
    assert sheet[f"mia.{name.removeprefix('mia_')}.auc"].value == pytest.approx(golden()[folder][key]["auc"], abs=1e-9)


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize(("folder", "other"), [("model", "ref_model"), ("ref_model", "model")])
def test_golden_auc_against_a_reference(folder, other):
    ours, theirs = (documents(*their_scores(name, "mia_loss")) for name in (folder, other))
    score = scores(Membership(), ours, theirs)["mia.reference.auc"]
    assert score.value == pytest.approx(golden()[folder]["mia_reference"]["auc"], abs=1e-9)
    assert score.low < score.value < score.high


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("folder", ["model", "ref_model"])
def test_golden_auc_of_gradients(folder):
    sizes = ([-score for score in side] for side in their_scores(folder, "mia_gradnorm|p=2"))
    score = scores(Membership(gradient=True), gradients(*sizes))["mia.gradient_norm.auc"]
    assert score.value == pytest.approx(golden()[folder]["mia_gradnorm|p=2"]["auc"], abs=1e-9)


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize(
    "key", [key for key in golden_keys(GOLDEN, "float64", "comparisons") if LEAKAGE.fullmatch(key)]
)
def test_golden_leakage(key):
    """The released value adds 1e-10 below the line."""
    k = LEAKAGE.fullmatch(key)[1]
    ours, theirs = (documents(*their_scores(name, f"mia_min_k|k={k}")) for name in ("model", "ref_model"))
    score = scores(Muse(k=float(k)), ours, theirs)["muse.privacy_leakage"]
    released = golden()["comparisons"][key]["agg_value"]
    assert score.value == pytest.approx(released, abs=1e-6)
    assert score.low < score.value < score.high
