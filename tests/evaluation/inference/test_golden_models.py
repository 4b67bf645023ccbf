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
    GOLDEN_MARKS,
    PRECISIONS,
    PROVENANCE,
    TOKENISED,
    as_list,
    by_index,
    exact,
    golden_texts,
    loaded_model_of,
    mean_loss_of,
    mean_losses,
    near,
    near_share,
    read_golden,
    row_groups,
    score_dataset,
    skip_without,
    token_row,
)
from helpers.reference_metrics import (
    comparison_value,
    compat_exact_memorisation,
    compat_extraction_strength,
    forget_quality,
    smoothed_closer_to_1_better,
    smoothed_options_probability,
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
from lume_run.models.rows.tokenise import TokenRow

pytestmark = GOLDEN_MARKS

METRICS = "open_unlearning_metrics/metrics.json"
OTHER = {"model": "ref_model", "ref_model": "model"}
SIDES = ("forget", "holdout")  # of a membership attack: members, non-members
STOP_WORDS = (".", " is")
SETS = {"retain": "retain", "ra": "real_authors", "wf": "world_facts"}  # prefixes in model_utility


@cache
def weight_gradients(precision: str, folder: str, side: str) -> list[list[torch.Tensor]]:
    """By row the gradient of each weight, without the last label."""
    loaded, rows = loaded_model_of(folder, precision), []
    for row in shortened(side):
        ids, labels = torch.tensor([row.ids]), row.labels
        logps = loaded.model(input_ids=ids).logits[0, -labels - 1 : -1].log_softmax(-1)
        (-logps.gather(-1, ids[0, -labels:, None]).mean()).backward()
        rows.append([weight.grad for weight in loaded.model.parameters()])
        loaded.model.zero_grad(set_to_none=True)
    return rows


def mean_norms(precision: str, folder: str, side: str, p: float) -> list[float]:
    """By row the mean over weights of the gradient's p-norm."""
    rows = weight_gradients(precision, folder, side)
    return [statistics.fmean(float(torch.linalg.vector_norm(weight, p)) for weight in row) for row in rows]


def shortened(side: str) -> list[TokenRow]:
    """The rows without their last label, as open-unlearning's token metrics see them."""
    return [token_row(row.ids[:-1], row.label_start) for (row,) in row_groups(side)]


# ------------------------------------------------------------------------------------------- one metric each


def check_probability(precision: str, folder: str, entry: dict, dataset: str) -> None:
    means = []
    for group, theirs in zip(score_dataset(precision, folder, dataset), by_index(entry), strict=True):
        assert all(answer.closed for answer in group)  # their rows end in EOS, which the probability counts
        likely = [tofu.probability(answer.logp_sum, answer.tokens) for answer in group]
        assert [mean_loss_of(answer) for answer in group] == near(as_list(theirs["avg_loss"]))
        assert likely == near(as_list(theirs["prob"]))
        means.append(statistics.fmean(likely))
    assert statistics.fmean(means) == near(entry["agg_value"])


def shares(precision: str, folder: str, dataset: str) -> list[float]:
    sides = (mean_losses(precision, folder, name) for name in (dataset, f"{dataset}_pert"))
    return [smoothed_options_probability(right, wrong) for (right,), wrong in zip(*sides, strict=True)]


def check_probability_w_options(precision: str, folder: str, entry: dict, dataset: str) -> None:
    values = shares(precision, folder, dataset)
    assert values == near([row["prob"] for row in by_index(entry)])
    assert statistics.fmean(values) == near(entry["agg_value"])


def truth_ratios(precision: str, folder: str, dataset: str, value=smoothed_truth_ratio) -> list[float]:
    right = f"{dataset}_para" if dataset in ("forget", "retain") else dataset
    sides = (mean_losses(precision, folder, name) for name in (right, f"{dataset}_pert"))
    return [value(*pair) for pair in zip(*sides, strict=True)]


def check_truth_ratio(precision: str, folder: str, entry: dict, dataset: str, aggregator: str) -> None:
    value = smoothed_truth_probability if aggregator == "prob_mean" else smoothed_truth_ratio
    together = {
        "closer_to_1_better": smoothed_closer_to_1_better,
        "true_better": tofu.true_better,
        "prob_mean": statistics.fmean,
    }
    values = truth_ratios(precision, folder, dataset, value)
    assert values == near([row["score"] for row in by_index(entry)])
    assert together[aggregator](values) == near(entry["agg_value"])


def check_rouge(precision: str, folder: str, entry: dict, dataset: str, field: str, stop: str = "") -> None:
    assert precision == "float32"
    references, values = ground_truths(dataset), []
    for text, (prompt, answer), theirs in zip(golden_texts(folder, dataset), references, by_index(entry), strict=True):
        generation = cut(text) if stop else text
        assert (generation.strip(), prompt, answer) == (theirs["generation"], theirs["input"], theirs["ground_truth"])
        scores = {"rougeL_recall": rouge_l_recall(answer, generation)}
        scores["rougeL_f1"] = stemmed_rouge_l_f1(answer, generation)
        assert scores == exact({name: theirs[name] for name in scores})
        values.append(scores[field])
    assert statistics.fmean(values) == exact(entry["agg_value"])


def ground_truths(dataset: str) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of every row as our decoder reads them; the answer is what all ids say after the prompt."""
    loaded = loaded_model_of("model")
    for row in read_golden(TOKENISED)["generation_datasets"][dataset]:
        prompt, whole = decode(row["input_ids"], loaded), decode(row["labels"], loaded)
        assert whole.startswith(prompt)
        yield prompt, whole.replace(prompt, "")  # they take out every occurrence (QUIRKS 34)


def cut(text: str) -> str:
    """The text before the first stop word."""
    return min((text.partition(word)[0] for word in STOP_WORDS), key=len)


def check_token_metric(precision: str, folder: str, entry: dict, dataset: str, *, metric) -> None:
    means = []
    for group, theirs in zip(score_dataset(precision, folder, dataset), by_index(entry), strict=True):
        values = [metric(answer.hits) for answer in group]
        assert values == near_share(as_list(theirs["score"]))
        means.append(statistics.fmean(values))
    assert statistics.fmean(means) == near_share(entry["agg_value"])


def check_model_utility(precision: str, folder: str, entry: dict) -> None:
    sets = {}
    for prefix, dataset in SETS.items():
        retain = dataset == "retain"
        likely = [tofu.probability(-loss, 1) for (loss,) in mean_losses(precision, folder, dataset)]
        pairs = zip(ground_truths(dataset), golden_texts(folder, dataset), strict=True)
        terms = UtilityTerms(
            probability=statistics.fmean(likely if retain else shares(precision, folder, dataset)),
            rouge=statistics.fmean(rouge_l_recall(answer, text) for (_, answer), text in pairs),
            truth_ratio=tofu.true_better(truth_ratios(precision, folder, dataset)),
        )
        names = ("Q_A_Prob" if retain else "Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")
        inputs = [entry["inputs"][f"{prefix}_{name}"] for name in names]
        assert [terms.probability, terms.rouge, terms.truth_ratio] == near(inputs)
        sets[dataset] = terms
    assert len(entry["inputs"]) == len(SETS) * len(names)
    assert tofu.tofu_utility(**sets) == near(entry["agg_value"])


def check_attack(precision: str, folder: str, entry: dict, parameter: str = "", *, attack) -> None:
    if "error" in entry:
        assert parameter.startswith("batch_size=")
        return check_batched_gradients(precision, folder, entry, int(number(parameter)))
    sides = {side: attack(precision, folder, side, parameter) for side in SIDES}  # higher: likelier a member
    for side, values in sides.items():
        assert [-value for value in values] == near([row["score"] for row in by_index(entry[side])])
        assert -statistics.fmean(values) == near(entry[side]["agg_value"])
    assert auc(*sides.values()) == near_share(entry["auc"]) == entry["agg_value"]
    return None


def attack_loss(precision: str, folder: str, side: str, _: str) -> list[float]:
    return [loss_score(answer.logps) for (answer,) in score_dataset(precision, folder, side)]


def attack_zlib(precision: str, folder: str, side: str, _: str) -> list[float]:
    labelled = [decode(row.ids[row.label_start :], loaded_model_of(folder)) for (row,) in row_groups(side)]
    pairs = zip(score_dataset(precision, folder, side), labelled, strict=True)
    return [zlib_score(answer.logps, text) for (answer,), text in pairs]


def attack_min_k(precision: str, folder: str, side: str, parameter: str) -> list[float]:
    return [min_k(answer.logps[:-1], number(parameter)) for (answer,) in score_dataset(precision, folder, side)]


def attack_min_k_plus_plus(precision: str, folder: str, side: str, parameter: str) -> list[float]:
    return [
        min_k_plus_plus(answer.logps[:-1], answer.means[:-1], answer.variances[:-1], number(parameter))
        for (answer,) in score_dataset(precision, folder, side)
    ]


def number(parameter: str) -> float:
    """The number of `k=0.2` or `p=inf`."""
    return float(parameter.partition("=")[2])


def attack_reference(precision: str, folder: str, side: str, _: str) -> list[float]:
    pairs = zip(mean_losses(precision, folder, side), mean_losses(precision, OTHER[folder], side), strict=True)
    return [reference_score(ours, other) for (ours,), (other,) in pairs]


def attack_gradient(precision: str, folder: str, side: str, parameter: str) -> list[float]:
    """Our gradient pass for the 2-norm; for the others, which we do not offer, norms taken here."""
    if number(parameter) == 2:
        return [gradient_score(size) for size in gradient_norms(loaded_model_of(folder, precision), shortened(side))]
    return [gradient_score(size) for size in mean_norms(precision, folder, side, number(parameter))]


def check_batched_gradients(precision: str, folder: str, entry: dict, batch: int) -> None:
    """More rows at a time raise there; ours take one backward a row, so a batch is its single rows."""
    assert entry["error"].startswith("RuntimeError: Trying to backward through the graph a second time")
    single = by_index(read_golden(METRICS)[precision][folder]["mia_gradnorm|p=2"]["forget"])[:batch]
    together = gradient_norms(loaded_model_of(folder, precision), shortened("forget")[:batch])
    assert together == near([row["score"] for row in single])
    assert mean_norms(precision, folder, "forget", 2)[:batch] == near(together)


ATTACKS = {
    "mia_loss": attack_loss,
    "mia_zlib": attack_zlib,
    "mia_min_k": attack_min_k,
    "mia_min_k_plus_plus": attack_min_k_plus_plus,
    "mia_reference": attack_reference,
    "mia_gradnorm": attack_gradient,
}
CHECKS = {
    "probability": check_probability,
    "probability_w_options": check_probability_w_options,
    "truth_ratio": check_truth_ratio,
    "rouge": check_rouge,
    "exact_memorization": partial(check_token_metric, metric=compat_exact_memorisation),
    "extraction_strength": partial(check_token_metric, metric=compat_extraction_strength),
    "model_utility": check_model_utility,
    **{name: partial(check_attack, attack=attack) for name, attack in ATTACKS.items()},
}


@pytest.mark.parametrize("metric", CHECKS)
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_metric(precision, folder, metric):
    """Every key of one metric; which metrics there are is checked below."""
    entries = {
        key: entry for key, entry in read_golden(METRICS)[precision][folder].items() if key.split("|")[0] == metric
    }
    if metric in ("rouge", "model_utility") and precision == "float64":  # greedy texts exist in float32 only
        assert not entries
        return
    skip_without(entries, metric)
    for key, entry in entries.items():
        CHECKS[metric](precision, folder, entry, *key.split("|")[1:])


def test_every_metric_has_its_check():
    golden = read_golden(METRICS)
    assert set(golden) == {PROVENANCE, *PRECISIONS}
    for precision in PRECISIONS:
        assert set(golden[precision]) == {*FOLDERS, "comparisons"}
        for folder in FOLDERS:
            assert {key.split("|")[0] for key in golden[precision][folder]} <= set(CHECKS)


def quality(precision: str, aggregator: str = "closer_to_1_better") -> float | None:
    """Forget quality of `model` against `ref_model`."""
    value = smoothed_truth_probability if aggregator == "prob_mean" else smoothed_truth_ratio
    return forget_quality(*(truth_ratios(precision, folder, "forget", value) for folder in FOLDERS))


def areas(precision: str, attack: str, parameter: str) -> list[float]:
    """The AUC of an attack on `model` and on `ref_model`."""
    return [auc(*(ATTACKS[attack](precision, folder, side, parameter) for side in SIDES)) for folder in FOLDERS]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_comparisons(precision):
    """Forget quality and leakage of `model` against `ref_model`, from both models' own passes."""
    expected = dict(read_golden(METRICS)[precision]["comparisons"])
    assert expected.pop("ks_test|no_reference_logs") == {"agg_value": None}
    empty = {score.name: score for score in Tofu().scores(Answers(responses=(), evaluator=EvaluatorSettings()))}
    assert empty["tofu.forget_quality"].value is None and empty["tofu.forget_quality"].reason
    for key, entry in expected.items():
        value = comparison_value(key, partial(quality, precision), partial(areas, precision))
        assert value == near_share(entry["agg_value"]), key
