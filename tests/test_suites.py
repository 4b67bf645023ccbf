"""The scoring pass token by token against open-unlearning's numbers, and the suites that read it.

Golden rows are already tokenised, so they enter as TokenRows and take our own path from there: left padding, one
forward a batch, label positions only. Tolerances are those of the golden README.
"""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
import torch
from conftest import SHARED
from transformers import AutoModelForCausalLM, AutoTokenizer

from lume_run.config import checked
from lume_run.evaluate import questions_of, score, suites_of
from lume_run.metrics.attacks import loss_score, min_k, min_k_plus_plus
from lume_run.metrics.memorisation import compat_exact_memorisation, compat_extraction_strength
from lume_run.overrides import compose, conf_dir
from lume_run.records import Ask, Example, Kind, Response, Split, TaskData, from_json, to_json
from lume_run.respond import AnswerScores, Runner, score_rows, token_scores
from lume_run.settings import Evaluator
from lume_run.suites.membership import Membership
from lume_run.suites.memorisation import Memorisation
from lume_run.text import TokenRow

GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden metrics are not at {GOLDEN}")
MODELS = {"model": "model", "ref_model": "ref_model"}
CLOSE = {"abs": 1e-5, "rel": 1e-5}


@cache
def golden(name: str):
    return json.loads((GOLDEN / "open_unlearning_metrics" / name).read_text(encoding="utf-8"))


@cache
def scored(folder: str, dataset: str) -> list[AnswerScores]:
    """Our scoring pass over a golden data set, five rows a batch."""
    runner = Runner(
        model=AutoModelForCausalLM.from_pretrained(GOLDEN / "lm" / folder).eval(),
        tokenizer=AutoTokenizer.from_pretrained(GOLDEN / "lm" / "tokenizer"),
        max_new_tokens=1,
        max_length=512,
        batch_tokens=4096,
    )
    rows = []
    for number, row in enumerate(golden("tokenised.json")["datasets"][dataset]):
        start = next(place for place, label in enumerate(row["labels"]) if label != -100)
        assert row["labels"][start:] == row["input_ids"][start:]
        rows.append(
            TokenRow(example_id=str(number), ids=tuple(row["input_ids"]), answer_start=start, label_start=start)
        )
    return [found for begin in range(0, len(rows), 5) for found in score_rows(runner, rows[begin : begin + 5])]


def values(folder: str, key: str, part: str | None = None) -> list[dict]:
    entry = golden("metrics.json")["float32"][folder][key]
    by_index = (entry if part is None else entry[part])["value_by_index"]
    return [by_index[str(number)] for number in range(len(by_index))]


@needs_golden
@pytest.mark.parametrize("dataset", ["forget", "forget_para", "retain", "retain_para", "real_authors", "holdout"])
@pytest.mark.parametrize("folder", MODELS)
def test_probabilities(folder, dataset):
    for ours, theirs in zip(scored(folder, dataset), values(folder, f"probability|{dataset}"), strict=True):
        assert ours.closed  # their rows end in EOS, which the probability counts
        assert -ours.logp_sum / ours.tokens == pytest.approx(theirs["avg_loss"], **CLOSE)
        assert math.fsum(ours.logps) == pytest.approx(ours.logp_sum, abs=1e-6 * ours.tokens)


@needs_golden
@pytest.mark.parametrize("dataset", ["forget", "retain", "holdout"])
@pytest.mark.parametrize("folder", MODELS)
def test_memorisation(folder, dataset):
    rows = scored(folder, dataset)
    for key, metric in (
        ("exact_memorization", compat_exact_memorisation),
        ("extraction_strength", compat_extraction_strength),
    ):
        for ours, theirs in zip(rows, values(folder, f"{key}|{dataset}"), strict=True):
            assert metric(ours.hits) == pytest.approx(theirs["score"], abs=1e-6)


@needs_golden
@pytest.mark.parametrize("folder", MODELS)
@pytest.mark.parametrize(("part", "dataset"), [("forget", "forget"), ("holdout", "holdout")])
def test_attacks(part, dataset, folder):
    """Their scores are minus ours; min-k and min-k++ leave the last labelled token out, the loss attack does not."""
    for ours, theirs in zip(scored(folder, dataset), values(folder, "mia_loss", part), strict=True):
        assert -loss_score(ours.logps) == pytest.approx(theirs["score"], **CLOSE)
    for k in (0.2, 0.4, 1.0):
        for ours, theirs in zip(scored(folder, dataset), values(folder, f"mia_min_k|k={k}", part), strict=True):
            assert -min_k(ours.logps[:-1], k) == pytest.approx(theirs["score"], **CLOSE)
        standardised = values(folder, f"mia_min_k_plus_plus|k={k}", part)
        for ours, theirs in zip(scored(folder, dataset), standardised, strict=True):
            found = -min_k_plus_plus(ours.logps[:-1], ours.means[:-1], ours.variances[:-1], k)
            # six decimals of a variance near 1e-6 move a standardised score by up to 1e-3
            assert found == pytest.approx(theirs["score"], abs=2e-3, rel=2e-3)


# ------------------------------------------------------------------------------------------------ by hand


def test_token_scores_by_hand():
    """Two tokens over three words: (1/2, 1/4, 1/4) with the first expected, (1/8, 3/8, 1/2) with the second."""
    p = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]], dtype=torch.float64)
    found = token_scores(p.log(), torch.tensor([0, 1]), closed=True)
    assert found.logp_sum == pytest.approx(math.log(0.5 * 0.375))
    assert (found.tokens, found.closed, found.hits) == (2, True, (True, False))
    assert found.logps == pytest.approx((math.log(0.5), math.log(0.375)), abs=1e-6)
    mean = 0.5 * math.log(0.5) + 0.5 * math.log(0.25)
    assert found.means[0] == pytest.approx(mean, abs=1e-6)
    assert found.variances[0] == pytest.approx(0.25 * math.log(2) ** 2, abs=1e-6)  # half the mass on either side


def test_numbers_that_are_not_finite_are_left_out():
    logps = torch.tensor([[float("nan"), 0.0]])
    assert token_scores(logps, torch.tensor([0]), closed=False) == AnswerScores(logp_sum=None, tokens=1, closed=False)


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
    found = {one.name: one for one in Memorisation().scores(rows, Evaluator())}
    assert found["forget.exact_memorisation"].value == pytest.approx((3 / 4 + 0) / 2)
    assert found["forget.extraction_strength"].value == pytest.approx((2 / 4 + 0) / 2)
    assert found["forget.probability"].value == pytest.approx((math.exp(-1 / 5) + math.exp(-1)) / 2)
    assert (found["forget.probability"].n, found["retain.exact_memorisation"].value) == (2, 1.0)


def test_a_broken_model_gives_reasons():
    rows = [answer("1", Split.FORGET, "", total=None), answer("2", Split.FORGET, "x-")]
    found = {one.name: one for one in Memorisation().scores(rows, Evaluator())}
    assert found["forget.probability"].value is None
    assert found["forget.probability"].reason == "1 of 2 rows have no finite numbers"
    assert found["retain.probability"].reason == "no retain answers were scored"
    assert all(one.value is None and one.reason for one in Membership().scores(rows, Evaluator()))


def document(id: str, split: Split, logp: float) -> Response:
    """Two tokens, the second one twice as unlikely."""
    own = {"logps": (logp, 2 * logp), "means": (-2.0, -2.0), "variances": (1.0, 1.0)}
    return answer(id, split, "xx", kind=Kind.DOCUMENT, closed=False, total=3 * logp, **own)


def test_attacks_by_hand():
    """Members -1 and -3 against non-members -2 and -4: three of four pairs in order; half of them above both."""
    rows = [document(f"m{logp}", Split.MEMBER, logp) for logp in (-1.0, -3.0)]
    rows += [document(f"n{logp}", Split.NONMEMBER, logp) for logp in (-2.0, -4.0)]
    found = {one.name: one for one in Membership().scores(rows, Evaluator())}
    assert len(found) == 8
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        assert found[f"mia.{attack}.auc"].value == 0.75
        assert found[f"mia.{attack}.tpr"].value == 0.5
        assert found[f"mia.{attack}.auc"].n == 4


# --------------------------------------------------------------------------------------------- composition


def example(id: str, split: Split, kind: Kind = Kind.QUESTION) -> Example:
    return Example(id=id, raw_id=id, document=id, split=split, subtask="bios", kind=kind, prompt="q", answer="a")


DATA = TaskData(
    forget=(example("f", Split.FORGET),),
    retain=(example("r", Split.RETAIN),),
    members=(example("m", Split.MEMBER, Kind.DOCUMENT),),
    nonmembers=(example("n", Split.NONMEMBER, Kind.DOCUMENT),),
)


def evaluator(*overrides: str) -> Evaluator:
    settings, _ = checked(compose(list(overrides), [conf_dir()]))
    return settings.evaluator


def test_suites_share_what_they_ask():
    alone = {
        name: questions_of(DATA, evaluator(f"evaluator={name}"), trained_here=True)
        for name in ("lume", "memorisation", "mia")
    }
    assert [len(questions) for questions in alone.values()] == [4, 2, 2]
    together = questions_of(DATA, evaluator("evaluator=[lume,memorisation,mia]"), trained_here=True)
    assert len(together) == 6  # the documents of lume and mia are asked once
    assert {one for questions in alone.values() for one in questions} == set(together)


def test_a_single_suite_gives_its_scores_only():
    assert list(suites_of(evaluator("evaluator=mia"))) == ["mia"]
    names = {one.name for one in score([answer("1", Split.FORGET, "x-")], evaluator("evaluator=memorisation"))[0]}
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
