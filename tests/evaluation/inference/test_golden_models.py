"""Our passes over the tiny golden models against every number that open-unlearning measured on them.

metrics.json is walked key by key (`metric|dataset|parameter`, both precisions, both models): a metric without a check
here fails. Nothing but golden token rows goes in, all numbers come from our own scoring, generation and gradient
passes and our own metrics. Their token metrics leave the last labelled token out, ours do not: the `compat` forms, and
slices, repeat that. Their membership scores are minus ours. Their texts are stripped, ours keep their white space.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import cache, partial

import pytest
import torch
from helpers.golden import (
    FOLDERS,
    PRECISIONS,
    TOKENISED,
    by_index,
    exact,
    losses,
    mean_loss_of,
    modelled,
    near,
    needs_golden,
    read,
    rows_of,
    runner_of,
    scored,
    texts,
    token_row,
)
from helpers.reference_metrics import (
    compat_exact_memorisation,
    compat_extraction_strength,
    forget_quality,
    smoothed_closer_to_1_better,
    smoothed_options_probability,
    smoothed_privacy_leakage,
    smoothed_relative_difference,
    smoothed_truth_probability,
    smoothed_truth_ratio,
    stemmed_rouge_l_f1,
)

from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.inference.loaded_model import decode
from lume_run.evaluation.inference.logprobs import gradient_norms
from lume_run.evaluation.metrics import tofu
from lume_run.evaluation.metrics.answers import rouge_l_recall
from lume_run.evaluation.metrics.membership import (
    auc,
    gradient_score,
    loss_score,
    min_k,
    min_k_plus_plus,
    reference_score,
    zlib_score,
)
from lume_run.evaluation.metrics.tofu import UtilityTerms
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.tofu import Tofu
from lume_run.models.tokenise import TokenRow

pytestmark = needs_golden

METRICS = "open_unlearning_metrics/metrics.json"
OTHER = {"model": "ref_model", "ref_model": "model"}
SIDES = ("forget", "holdout")  # of a membership attack: members, non-members
STOP_WORDS = (".", " is")
SETS = {"retain": "retain", "ra": "real_authors", "wf": "world_facts"}  # prefixes in model_utility
NORMS = (1.0, 2.0, float("inf"))


@cache
def norms(precision: str, folder: str, side: str) -> list[dict[float, float]]:
    """By norm the mean over weights of the gradient's norm, without the last label."""
    runner, found = runner_of(folder, precision), []
    for row in shortened(side):
        ids, labels = torch.tensor([row.ids]), row.labels
        logps = runner.model(input_ids=ids).logits[0, -labels - 1 : -1].log_softmax(-1)
        (-logps.gather(-1, ids[0, -labels:, None]).mean()).backward()
        weights = [weight.grad for weight in runner.model.parameters()]
        found.append({p: statistics.fmean(float(torch.linalg.vector_norm(w, p)) for w in weights) for p in NORMS})
        runner.model.zero_grad(set_to_none=True)
    return found


def shortened(side: str) -> list[TokenRow]:
    """The rows without their last label, as open-unlearning's token metrics see them."""
    return [token_row(row.ids[:-1], row.label_start) for (row,) in rows_of(side)]


# ------------------------------------------------------------------------------------------- one metric each


def check_probability(precision: str, folder: str, entry: dict, dataset: str) -> None:
    means = []
    for group, theirs in zip(scored(precision, folder, dataset), by_index(entry), strict=True):
        assert all(one.closed for one in group)  # their rows end in EOS, which the probability counts
        likely = [tofu.probability(one.logp_sum, one.tokens) for one in group]
        single = not isinstance(theirs["prob"], list)
        assert [mean_loss_of(one) for one in group] == modelled([theirs["avg_loss"]] if single else theirs["avg_loss"])
        assert likely == modelled([theirs["prob"]] if single else theirs["prob"])
        means.append(statistics.fmean(likely))
    assert statistics.fmean(means) == modelled(entry["agg_value"])


def shares(precision: str, folder: str, dataset: str) -> list[float]:
    sides = (losses(precision, folder, name) for name in (dataset, f"{dataset}_pert"))
    return [smoothed_options_probability(right, wrong) for (right,), wrong in zip(*sides, strict=True)]


def check_probability_w_options(precision: str, folder: str, entry: dict, dataset: str) -> None:
    values = shares(precision, folder, dataset)
    assert values == modelled([row["prob"] for row in by_index(entry)])
    assert statistics.fmean(values) == modelled(entry["agg_value"])


def truth_ratios(precision: str, folder: str, dataset: str, value=smoothed_truth_ratio) -> list[float]:
    right = f"{dataset}_para" if dataset in ("forget", "retain") else dataset
    sides = (losses(precision, folder, name) for name in (right, f"{dataset}_pert"))
    return [value(*pair) for pair in zip(*sides, strict=True)]


def check_truth_ratio(precision: str, folder: str, entry: dict, dataset: str, aggregator: str) -> None:
    value = smoothed_truth_probability if aggregator == "prob_mean" else smoothed_truth_ratio
    together = {
        "closer_to_1_better": smoothed_closer_to_1_better,
        "true_better": tofu.true_better,
        "prob_mean": statistics.fmean,
    }
    values = truth_ratios(precision, folder, dataset, value)
    assert values == modelled([row["score"] for row in by_index(entry)])
    assert together[aggregator](values) == modelled(entry["agg_value"])


def check_rouge(precision: str, folder: str, entry: dict, dataset: str, field: str, stop: str = "") -> None:
    assert precision == "float32"
    references, values = ground_truths(dataset), []
    for text, (prompt, answer), theirs in zip(texts(folder, dataset), references, by_index(entry), strict=True):
        generation = cut(text) if stop else text
        assert (generation.strip(), prompt, answer) == (theirs["generation"], theirs["input"], theirs["ground_truth"])
        found = {"rougeL_recall": rouge_l_recall(answer, generation)}
        found["rougeL_f1"] = stemmed_rouge_l_f1(answer, generation)
        assert found == exact({name: theirs[name] for name in found})
        values.append(found[field])
    assert statistics.fmean(values) == exact(entry["agg_value"])


def ground_truths(dataset: str) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of every row as our decoder reads them; the answer is what all ids say after the prompt."""
    runner = runner_of("model")
    for row in read(TOKENISED)["generation_datasets"][dataset]:
        prompt, whole = decode(row["input_ids"], runner), decode(row["labels"], runner)
        assert whole.count(prompt) == 1  # they take out every occurrence (QUIRKS 34)
        yield prompt, whole.replace(prompt, "")


def cut(text: str) -> str:
    """The text before the first stop word."""
    return min((text.partition(word)[0] for word in STOP_WORDS), key=len)


def check_token_metric(precision: str, folder: str, entry: dict, dataset: str, *, metric) -> None:
    means = []
    for group, theirs in zip(scored(precision, folder, dataset), by_index(entry), strict=True):
        values = [metric(one.hits) for one in group]
        expected = theirs["score"] if isinstance(theirs["score"], list) else [theirs["score"]]
        assert values == near(expected)
        means.append(statistics.fmean(values))
    assert statistics.fmean(means) == near(entry["agg_value"])


def check_model_utility(precision: str, folder: str, entry: dict) -> None:
    sets = {}
    for prefix, dataset in SETS.items():
        retain = dataset == "retain"
        likely = [tofu.probability(-one, 1) for (one,) in losses(precision, folder, dataset)]
        pairs = zip(ground_truths(dataset), texts(folder, dataset), strict=True)
        terms = UtilityTerms(
            probability=statistics.fmean(likely if retain else shares(precision, folder, dataset)),
            rouge=statistics.fmean(rouge_l_recall(answer, text) for (_, answer), text in pairs),
            truth_ratio=tofu.true_better(truth_ratios(precision, folder, dataset)),
        )
        names = ("Q_A_Prob" if retain else "Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")
        inputs = [entry["inputs"][f"{prefix}_{name}"] for name in names]
        assert [terms.probability, terms.rouge, terms.truth_ratio] == modelled(inputs)
        sets[dataset] = terms
    assert len(entry["inputs"]) == 9
    assert tofu.tofu_utility(**sets) == modelled(entry["agg_value"])


def check_attack(precision: str, folder: str, entry: dict, parameter: str = "", *, attack) -> None:
    if "error" in entry:
        assert parameter == "batch_size=4"
        return check_batched_gradients(precision, folder, entry)
    sides = {side: attack(precision, folder, side, parameter) for side in SIDES}  # higher: likelier a member
    for side, values in sides.items():
        assert [-value for value in values] == modelled([row["score"] for row in by_index(entry[side])])
        assert -statistics.fmean(values) == modelled(entry[side]["agg_value"])
    assert auc(*sides.values()) == near(entry["auc"]) == entry["agg_value"]
    return None


def attack_loss(precision: str, folder: str, side: str, _: str) -> list[float]:
    return [loss_score(one.logps) for (one,) in scored(precision, folder, side)]


def attack_zlib(precision: str, folder: str, side: str, _: str) -> list[float]:
    labelled = [decode(row.ids[row.label_start :], runner_of(folder)) for (row,) in rows_of(side)]
    found = zip(scored(precision, folder, side), labelled, strict=True)
    return [zlib_score(one.logps, text) for (one,), text in found]


def attack_min_k(precision: str, folder: str, side: str, parameter: str) -> list[float]:
    return [min_k(one.logps[:-1], number(parameter)) for (one,) in scored(precision, folder, side)]


def attack_min_k_plus_plus(precision: str, folder: str, side: str, parameter: str) -> list[float]:
    return [
        min_k_plus_plus(one.logps[:-1], one.means[:-1], one.variances[:-1], number(parameter))
        for (one,) in scored(precision, folder, side)
    ]


def number(parameter: str) -> float:
    """The number of `k=0.2` or `p=inf`."""
    return float(parameter.partition("=")[2])


def attack_reference(precision: str, folder: str, side: str, _: str) -> list[float]:
    pairs = zip(losses(precision, folder, side), losses(precision, OTHER[folder], side), strict=True)
    return [reference_score(ours, other) for (ours,), (other,) in pairs]


def attack_gradient(precision: str, folder: str, side: str, parameter: str) -> list[float]:
    """Our gradient pass for the 2-norm; for the others, which we do not offer, norms taken here."""
    if number(parameter) == 2:
        return [gradient_score(size) for size in gradient_norms(runner_of(folder, precision), shortened(side))]
    return [gradient_score(sizes[number(parameter)]) for sizes in norms(precision, folder, side)]


def check_batched_gradients(precision: str, folder: str, entry: dict) -> None:
    """More rows at a time raise there; ours take one backward a row, so four rows are four single ones."""
    assert entry["error"].startswith("RuntimeError: Trying to backward through the graph a second time")
    single = by_index(read(METRICS)[precision][folder]["mia_gradnorm|p=2"]["forget"])[:4]
    together = gradient_norms(runner_of(folder, precision), shortened("forget")[:4])
    assert together == modelled([row["score"] for row in single])
    assert [sizes[2.0] for sizes in norms(precision, folder, "forget")[:4]] == modelled(together)


CHECKS = {
    "probability": check_probability,
    "probability_w_options": check_probability_w_options,
    "truth_ratio": check_truth_ratio,
    "rouge": check_rouge,
    "exact_memorization": partial(check_token_metric, metric=compat_exact_memorisation),
    "extraction_strength": partial(check_token_metric, metric=compat_extraction_strength),
    "model_utility": check_model_utility,
    "mia_loss": partial(check_attack, attack=attack_loss),
    "mia_zlib": partial(check_attack, attack=attack_zlib),
    "mia_min_k": partial(check_attack, attack=attack_min_k),
    "mia_min_k_plus_plus": partial(check_attack, attack=attack_min_k_plus_plus),
    "mia_reference": partial(check_attack, attack=attack_reference),
    "mia_gradnorm": partial(check_attack, attack=attack_gradient),
}


@pytest.mark.parametrize("metric", CHECKS)
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_metric(precision, folder, metric):
    """Every key of one metric; which metrics there are is checked below."""
    entries = {key: entry for key, entry in read(METRICS)[precision][folder].items() if key.split("|")[0] == metric}
    generated = metric in ("rouge", "model_utility")
    assert bool(entries) != (generated and precision == "float64")  # greedy texts exist in float32 only
    for key, entry in entries.items():
        CHECKS[metric](precision, folder, entry, *key.split("|")[1:])


def test_every_metric_has_its_check():
    golden = read(METRICS)
    assert set(golden) == {"provenance", *PRECISIONS}
    for precision in PRECISIONS:
        assert set(golden[precision]) == {*FOLDERS, "comparisons"}
        for folder in FOLDERS:
            assert {key.split("|")[0] for key in golden[precision][folder]} <= set(CHECKS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_comparisons(precision):
    """Forget quality and leakage of `model` against `ref_model`, from both models' own passes."""
    expected = dict(read(METRICS)[precision]["comparisons"])
    assert expected.pop("ks_test|no_reference_logs") == {"agg_value": None}
    empty = {one.name: one for one in Tofu().scores(Answers(responses=(), evaluator=EvaluatorSettings()))}
    assert empty["tofu.forget_quality"].value is None and empty["tofu.forget_quality"].reason
    found = {}
    for aggregator, value in (("closer_to_1_better", smoothed_truth_ratio), ("prob_mean", smoothed_truth_probability)):
        sides = (truth_ratios(precision, folder, "forget", value) for folder in FOLDERS)
        found[f"forget_quality_ks_test|{aggregator}"] = forget_quality(*sides)
    found["utils.get_forget_quality"] = found["forget_quality_ks_test|closer_to_1_better"]
    for k in ("k=0.2", "k=0.4"):
        ours, retrained = (auc(*(attack_min_k(precision, folder, side, k) for side in SIDES)) for folder in FOLDERS)
        for reference, other in (("vs_ref_model", retrained), ("default_ref_0.5", 0.5)):
            found[f"privleak|mia_min_k|{k}|{reference}"] = smoothed_privacy_leakage(ours, other)
            found[f"rel_diff|mia_min_k|{k}|{reference}"] = smoothed_relative_difference(ours, other)
    assert found == {name: near(entry["agg_value"]) for name, entry in expected.items()}
