"""The arithmetic of the metrics against numbers of the reference codes, without a model.

Reproduced here, all rows:
- closer_look_metrics/text_metrics.json: rougeL_recall, token_entropy_normalized, token_entropy_raw;
- closer_look_metrics/entailment_cosine.json: items_sent_to_classifier, entailment_labels, entailment_score, scores,
  cosine_similarity;
- closer_look_metrics/aggregate.json: every result (the NaN forget efficacy without a forget task cannot be asked for);
- closer_look_metrics/model_eval.json: rougeL_recall, token_entropy, avg_* and average_* losses from their sums, every
  result; perturbation_float64.json: avg_paraphrased_loss and average_perturb_loss from their sums;
- open_unlearning_metrics/aggregators.json: everything;
- open_unlearning_metrics/tokenwise.json: exact memorisation and extraction strength of edge_rows, and of the first
  rows of forget and holdout, with their min-k, against metrics.json;
- open_unlearning_metrics/metrics.json: prob, probability_w_options, truth_ratio, mia_zlib, mia_reference,
  rougeL_recall, rougeL_f1, model_utility and all comparisons from other entries of the file; every AUC and agg_value
  from its rows.

What a model must be run for is in `test_golden_*.py`; `test_golden_coverage.py` names the test of every key.
"""

import statistics
from functools import partial

import numpy as np
import pytest
from helpers.golden import (
    FOLDERS,
    GOLDEN_MARKS,
    PRECISIONS,
    TOKENISED,
    as_list,
    by_index,
    exact,
    golden_keys,
    label_places,
    near,
    near_share,
    read_golden,
)
from helpers.reference_metrics import (
    comparison_value,
    compat_exact_memorisation,
    compat_extraction_strength,
    forget_quality,
    sheet,
    smoothed_closer_to_1_better,
    smoothed_options_probability,
    smoothed_privacy_leakage,
    smoothed_relative_difference,
    smoothed_truth_probability,
    smoothed_truth_ratio,
    stemmed_rouge_l_f1,
)
from helpers.shared import GOLDEN
from tokenizers import Tokenizer

from lume_run.evaluation.metrics import closer_look
from lume_run.evaluation.metrics.answers import rouge_l_recall
from lume_run.evaluation.metrics.membership import auc, min_k, reference_score, zlib_score
from lume_run.evaluation.metrics.memorisation import (
    exact_memorisation,
    extraction_strength,
)
from lume_run.evaluation.metrics.muse import privacy_leakage
from lume_run.evaluation.metrics.tofu import (
    UtilityTerms,
    closer_to_1_better,
    mean_loss,
    probability,
    tofu_utility,
    true_better,
    truth_probability,
    truth_ratio,
)

pytestmark = GOLDEN_MARKS

AGGREGATORS = "open_unlearning_metrics/aggregators.json"
METRICS, TOKENWISE = "open_unlearning_metrics/metrics.json", "open_unlearning_metrics/tokenwise.json"
ENTAILMENT, AGGREGATE = "closer_look_metrics/entailment_cosine.json", "closer_look_metrics/aggregate.json"
EVALUATION, PERTURBATION = "closer_look_metrics/model_eval.json", "closer_look_metrics/perturbation_float64.json"
RUNS = [(precision, model) for precision in PRECISIONS for model in FOLDERS]
OTHER = dict(zip(FOLDERS, reversed(FOLDERS), strict=True))
SIDES = ("forget", "holdout")  # of a membership attack: members, non-members


def tokenizer():
    return Tokenizer.from_file(str(GOLDEN / "lm" / "tokenizer" / "tokenizer.json"))


def tokens_of(texts):
    encode = tokenizer().encode
    return [encode(text, add_special_tokens=False).tokens for text in texts]


def rows(entry, *names):
    """The rows of one open-unlearning entry in index order: the named value, or tuples of several."""
    return [row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in by_index(entry)]


# closer-look


def test_text_metrics():
    golden = read_golden("closer_look_metrics/text_metrics.json")
    pairs = golden["pairs"]
    recalls = [rouge_l_recall(pair["ground_truth"], pair["generated"]) for pair in pairs]
    assert recalls == exact(golden["eval_rouge_recall"]["rougeL_recall"])
    tokens = tokens_of(pair["generated"] for pair in pairs)
    assert tokens[: len(golden["tokens"])] == golden["tokens"]
    assert [closer_look.token_entropy(row) for row in tokens] == exact(golden["token_entropy_normalized"])
    assert [closer_look.unigram_entropy(row) for row in tokens] == exact(golden["token_entropy_raw"])


@pytest.mark.parametrize("task", [key for key in golden_keys(ENTAILMENT) if key not in ("scores", "cosine_similarity")])
def test_entailment(task):
    golden = read_golden(ENTAILMENT)[task]
    kind = {"tofu": golden["tofu"], "forget": "forget" in golden["eval_task"]}
    texts = zip(golden["generated"], golden["ground_truth"], strict=True)
    pairs = [closer_look.entailment_pair(*pair, **kind) for pair in texts]
    assert pairs == [(item["text"], item["text_pair"]) for item in golden["items_sent_to_classifier"]]
    labels = [
        label if closer_look.can_entail(recall) else closer_look.NO_ENTAILMENT
        for label, recall in zip(golden["nli_labels_returned_by_classifier"], golden["rougeL_recall"], strict=True)
    ]
    assert labels == golden["entailment_labels"]
    assert closer_look.entailment_score(labels) == exact(golden["entailment_score"])


def test_entailment_scores_and_cosine():
    golden = read_golden(ENTAILMENT)
    for case in golden["scores"]:
        assert closer_look.entailment_score(case["labels"]) == exact(case["score"])
    cosine = golden["cosine_similarity"]
    pairs = [map(np.array, pair) for pair in cosine["pairs_of_embeddings"]]
    raw = [a @ b / max(1e-12, np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs]
    assert [closer_look.cosine_score(value) for value in raw] == exact(cosine["cosine_similarity"])


def assert_sheet(logs, result):
    expected = {name: None if value == "NaN" else exact(value) for name, value in result.items()}
    assert sheet(logs) == expected


@pytest.mark.parametrize("case", golden_keys(AGGREGATE))
def test_closer_look_aggregates(case):
    golden = read_golden(AGGREGATE)[case]
    assert_sheet(golden["logs"], golden["result"])


@pytest.mark.parametrize("model", FOLDERS)
def test_closer_look_evaluation(model):
    golden = read_golden(EVALUATION)["runs"][model]["float32"]
    assert_sheet(golden["logs"], golden["result"])
    for log in golden["logs"].values():
        texts = [(generated, truth) for _, generated, truth, _ in log["generated_text"]]
        assert [rouge_l_recall(truth, generated) for generated, truth in texts] == exact(log["rougeL_recall"])
        entropies = map(closer_look.token_entropy, tokens_of(generated for generated, _ in texts))
        assert list(entropies) == exact(log["token_entropy"])
        assert_losses(log, "gt_loss", "num_token_gt", "avg_gt_loss")
        assert_losses(log, "paraphrased_loss", "num_token_paraphrased", "avg_paraphrased_loss")
        assert_losses(log, "perturb_loss", "num_token_perturb", "average_perturb_loss")


@pytest.mark.parametrize("name", [name for name in golden_keys(PERTURBATION) if name.endswith("_perturbed")])
def test_closer_look_perturbation(name):
    log = read_golden(PERTURBATION)[name]
    assert_losses(log, "paraphrased_loss", "num_token_paraphrased", "avg_paraphrased_loss")
    assert_losses(log, "perturb_loss", "num_token_perturb", "average_perturb_loss")


def assert_losses(log, sums, counts, means):
    for total, count, expected in zip(log[sums], log[counts], log[means], strict=True):
        pairs = zip(as_list(total), as_list(count), strict=True)
        assert [mean_loss(-loss, tokens) for loss, tokens in pairs] == near(as_list(expected))


# open-unlearning: aggregators on plain numbers


def pairs_of_losses(correct, wrong):
    """(losses of the right answers, losses of the wrong ones) per row."""
    sides = (map(as_list, rows(side, "avg_loss")) for side in (correct, wrong))
    return list(zip(*sides, strict=True))


def assert_truth_ratios(entry, pairs, aggregator, within):
    if aggregator == "prob_mean":
        values = [smoothed_truth_probability(*pair) for pair in pairs]
        clean = [truth_probability(*pair) for pair in pairs]
        total, clean_total = statistics.fmean(values), statistics.fmean(clean)
    else:
        values = [smoothed_truth_ratio(*pair) for pair in pairs]
        clean = [truth_ratio(*pair) for pair in pairs]
        if aggregator == "true_better":
            total, clean_total = true_better(values), true_better(clean)
        else:
            total, clean_total = smoothed_closer_to_1_better(values), closer_to_1_better(clean)
    assert values == within(rows(entry, "score"))
    assert total == within(entry["agg_value"])
    assert clean_total == pytest.approx(entry["agg_value"], abs=1e-6)  # where the 1e-10 does not matter


def aggregator_cases(name):
    """What stands after the bar in the keys `name|case`."""
    return [key.partition("|")[2] for key in golden_keys(AGGREGATORS) if key.partition("|")[0] == name]


@pytest.mark.parametrize("aggregator", aggregator_cases("truth_ratio"))
def test_truth_ratio_aggregators(aggregator):
    golden = read_golden(AGGREGATORS)
    correct = golden["_inputs"]["correct_multi" if aggregator == "multi_correct" else "correct"]
    pairs = pairs_of_losses(correct, golden["_inputs"]["wrong"])
    named = "closer_to_1_better" if aggregator == "multi_correct" else aggregator
    assert_truth_ratios(golden[f"truth_ratio|{aggregator}"], pairs, named, exact)


def test_options_and_inputs():
    golden = read_golden(AGGREGATORS)
    inputs, entry = golden["_inputs"], golden["probability_w_options"]
    pairs = pairs_of_losses(inputs["correct"], inputs["wrong"])
    values = [smoothed_options_probability(right[0], wrong) for right, wrong in pairs]
    assert values == exact(rows(entry, "prob"))
    assert statistics.fmean(values) == exact(entry["agg_value"])
    for loss, likely in rows(inputs["correct"], "avg_loss", "prob"):
        assert probability(-loss, 1) == exact(likely)


@pytest.mark.parametrize("name", [key for key in golden_keys(AGGREGATORS) if key.startswith("hm_aggregate")])
def test_nine_terms(name):
    entry = read_golden(AGGREGATORS)[name]
    assert utility_of(entry["inputs"]) == exact(entry["agg_value"])


def utility_of(nine):
    sets = [UtilityTerms(probability=p, rouge=r, truth_ratio=t) for p, r, t in zip(*[iter(nine)] * 3, strict=True)]
    return tofu_utility(retain=sets[0], real_authors=sets[1], world_facts=sets[2])


@pytest.mark.parametrize("kind", ["ks_test", "get_forget_quality"])
def test_kolmogorov_smirnov(kind):
    sides = {"ks_test": ("forget", "retain"), "get_forget_quality": ("model_tr", "reference_tr")}[kind]
    for case in aggregator_cases(kind):
        entry = read_golden(AGGREGATORS)[f"{kind}|{case}"]
        assert forget_quality(*(entry[side] for side in sides)) == exact(entry["agg_value"])


@pytest.mark.parametrize("kind", ["privleak", "rel_diff"])
def test_leakage(kind):
    smoothed = {"privleak": smoothed_privacy_leakage, "rel_diff": smoothed_relative_difference}[kind]
    for case in aggregator_cases(kind):
        entry = read_golden(AGGREGATORS)[f"{kind}|{case}"]
        score, reference = entry["score"], entry["ref"]
        assert smoothed(score, reference) == exact(entry["agg_value"])
        if kind == "privleak" and reference < 1:
            moved = 1e-8 / (1 - reference) ** 2  # by the 1e-10 in theirs, in percent
            assert privacy_leakage(score, reference) == pytest.approx(entry["agg_value"], abs=1e-6 + moved)


# open-unlearning: tokens


@pytest.mark.parametrize("split", [key for key in golden_keys(TOKENWISE) if key != "edge_rows"])
def test_memorisation_and_min_k_of_first_rows(split):
    batch = read_golden(TOKENWISE)[split]
    golden = read_golden(METRICS)["float64"]["model"]
    predicted = batch["argmax_of_tokenwise_vocab_logprobs"]
    for place, index in enumerate(batch["index"]):
        hits = [guess == label for guess, label in zip(predicted[place], batch["labels"][place], strict=True)]
        em, es = (golden[f"{name}|{split}"] for name in ("exact_memorization", "extraction_strength"))
        # One more label follows in the reference, and is dropped; without it the clean forms see the same tokens.
        assert compat_exact_memorisation([*hits, True]) == near_share(rows(em, "score")[index])
        assert compat_extraction_strength([*hits, True]) == near_share(rows(es, "score")[index])
        assert exact_memorisation(hits) == compat_exact_memorisation([*hits, False])
        least = 0.0 if hits[-1] else 1 / len(hits)  # theirs is 1 / length where not even the last token is right
        assert max(extraction_strength(hits), least) == compat_extraction_strength([*hits, False])
        for name, entry in golden.items():
            if name.startswith("mia_min_k|"):
                score = rows(entry[split], "score")[index]
                assert -min_k(batch["tokenwise_logprobs"][place], float(name.partition("k=")[2])) == near(score)


def test_memorisation_of_edge_rows():
    golden = read_golden(TOKENWISE)["edge_rows"]
    labelled = [len(label_places(row)) for row in golden["batch"]["labels"]]
    lengths = zip(*(golden["tokenwise_logprobs"][key] for key in ("logprobs", "labels")), strict=True)
    for row, (count, (logps, labels)) in enumerate(zip(labelled, lengths, strict=True)):
        hits, aligned = [True] * count, len(logps) == len(labels)  # which hits there are does not matter in any of them
        exact_row, strength = (
            golden[f"{name}_by_row"][str(row)] for name in ("exact_memorization", "extraction_strength")
        )
        assert compat_extraction_strength(hits, aligned=aligned) == near_share(strength["score"])
        if "error" in exact_row:
            with pytest.raises(ValueError):
                compat_exact_memorisation(hits, aligned=aligned)
        else:
            assert compat_exact_memorisation(hits, aligned=aligned) is exact_row["score"] is None
    for count, theirs in zip(labelled, golden["evaluate_probability"], strict=True):
        assert (theirs["prob"] == "NaN") == (count == 0) == (probability(0.0, count) is None)


# open-unlearning: one file, from its own rows


@pytest.mark.parametrize(("precision", "model"), RUNS)
def test_probabilities_and_truth_ratios(precision, model):
    golden = read_golden(METRICS)[precision][model]
    for entry in (value for name, value in golden.items() if name.startswith("probability|")):
        for loss, likely in rows(entry, "avg_loss", "prob"):
            assert [probability(-answer, 1) for answer in as_list(loss)] == near(as_list(likely))
    for key, entry in golden.items():
        kind, _, name = key.partition("|")
        if kind != "probability_w_options":
            continue
        pairs = pairs_of_losses(golden[f"probability|{name}"], golden[f"probability|{name}_pert"])
        values = [smoothed_options_probability(right[0], wrong) for right, wrong in pairs]
        assert values == near(rows(entry, "prob"))
    for name in (name for name in golden if name.startswith("truth_ratio|")):
        _, split, aggregator = name.split("|")
        right = f"probability|{split}_para" if split in ("forget", "retain") else f"probability|{split}"
        pairs = pairs_of_losses(golden[right], golden[f"probability|{split}_pert"])
        assert_truth_ratios(golden[name], pairs, aggregator, near)


@pytest.mark.parametrize(("precision", "model"), RUNS)
def test_aggregates_are_means_of_rows(precision, model):
    golden = read_golden(METRICS)[precision][model]
    entries = {name: entry for name, entry in golden.items() if "value_by_index" in entry}
    keys = {"probability": "prob", "probability_w_options": "prob", "rouge": None}
    for name, entry in entries.items():
        kind, *rest = name.split("|")
        if kind == "truth_ratio":
            continue
        key = rest[1] if kind == "rouge" else keys.get(kind, "score")
        values = [statistics.fmean(as_list(value)) for value in rows(entry, key) if value is not None]
        assert statistics.fmean(values) == near(entry["agg_value"]), name


@pytest.mark.parametrize(("precision", "model"), RUNS)
def test_attacks(precision, model):
    golden = read_golden(METRICS)[precision]
    for name, entry in golden[model].items():
        if name.startswith("mia_") and "error" not in entry:
            scores = {split: rows(entry[split], "score") for split in SIDES}
            # Theirs are higher for a likelier non-member, ours for a likelier member.
            area = auc(*([-score for score in scores[split]] for split in SIDES))
            assert area == near_share(entry["auc"]) == entry["agg_value"], name
            for split in scores:
                assert statistics.fmean(scores[split]) == near(entry[split]["agg_value"])
    texts = decoded_labels()
    for split in SIDES:
        losses = rows(golden[model]["mia_loss"][split], "score")
        assert losses == near(rows(golden[model][f"probability|{split}"], "avg_loss"))
        compressed = [zlib_score([-loss], text) for loss, text in zip(losses, texts[split], strict=True)]
        assert [-score for score in compressed] == near(rows(golden[model]["mia_zlib"][split], "score"))
        other = rows(golden[OTHER[model]]["mia_loss"][split], "score")
        scores = [reference_score(loss, ref) for loss, ref in zip(losses, other, strict=True)]
        assert [-score for score in scores] == near(rows(golden[model]["mia_reference"][split], "score"))


def decoded_labels():
    """The text open-unlearning compresses: the labelled tokens of every row, special tokens left out."""
    datasets = read_golden(TOKENISED)["datasets"]
    decode = tokenizer().decode
    return {
        split: [decode([row["labels"][place] for place in label_places(row["labels"])]) for row in datasets[split]]
        for split in SIDES
    }


@pytest.mark.parametrize("model", FOLDERS)
def test_rouge_and_model_utility(model):
    golden = read_golden(METRICS)["float32"][model]
    for entry in (value for name, value in golden.items() if name.startswith("rouge|")):
        texts = rows(entry, "ground_truth", "generation")
        assert [rouge_l_recall(*pair) for pair in texts] == exact(rows(entry, "rougeL_recall"))
        assert [stemmed_rouge_l_f1(*pair) for pair in texts] == exact(rows(entry, "rougeL_f1"))
    entry = golden["model_utility"]
    assert utility_of(entry["inputs"].values()) == exact(entry["agg_value"])
    for prefix, split, options in (
        ("retain", "retain", ""),
        ("ra", "real_authors", "_w_options"),
        ("wf", "world_facts", "_w_options"),
    ):
        probabilities = golden[f"probability{options}|{split}"]
        suffix = "_normalised" if options else ""
        assert entry["inputs"][f"{prefix}_Q_A_Prob{suffix}"] == near(probabilities["agg_value"])
        assert entry["inputs"][f"{prefix}_Q_A_ROUGE"] == exact(golden[f"rouge|{split}|rougeL_recall"]["agg_value"])
        ratios = rows(golden[f"truth_ratio|{split}|true_better"], "score")
        assert true_better(ratios) == near(entry["inputs"][f"{prefix}_Truth_Ratio"])


def quality(golden, aggregator="closer_to_1_better"):
    """Forget quality of the truth ratios of `model` against those of `ref_model`."""
    return forget_quality(*(rows(golden[model][f"truth_ratio|forget|{aggregator}"], "score") for model in FOLDERS))


def areas(golden, attack, parameter):
    """The AUC of an attack on `model` and on `ref_model`."""
    return [golden[model][f"{attack}|{parameter}"]["auc"] for model in FOLDERS]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_comparisons(precision):
    golden = read_golden(METRICS)[precision]
    for key, entry in golden["comparisons"].items():
        if entry["agg_value"] is None:
            assert key == "ks_test|no_reference_logs"  # not to be asked for here
            continue
        value = comparison_value(key, partial(quality, golden), partial(areas, golden))
        assert value == pytest.approx(entry["agg_value"], rel=1e-9, abs=1e-6), key
