"""Which test checks which golden number: every file of the three metric folders, every key, named once.

Keys are paths inside a JSON file, as deep as `DEPTH` says; patterns are those of `fnmatch`, whose star also matches
slashes. A file, key, test or pattern that is missing on one side fails here. What no test checks stands in `NOT_OURS`
with its reason. Nested in rows and so not listed: `rouge1_recall`, which enters no score of any of the codes.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.golden import GOLDEN, GOLDEN_MARKS
from helpers.shared import TESTS

pytestmark = GOLDEN_MARKS

FOLDERS = ("closer_look_metrics", "open_unlearning_metrics", "semeval")
DEPTH = {  # of the keys listed; 1 in other JSON files, and other files count as a whole
    "closer_look_metrics/text_metrics.json": 2,
    "closer_look_metrics/model_eval.json": 6,
    "closer_look_metrics/data_module.json": 2,
    "closer_look_metrics/perturbation_float64.json": 2,
    "open_unlearning_metrics/metrics.json": 3,
    "open_unlearning_metrics/tokenised.json": 2,
    "open_unlearning_metrics/tokenwise.json": 2,
    "semeval/results.json": 3,
    "semeval/scenarios.json": 2,
}
RESPOND = "evaluation/inference/test_respond.py"
ARITHMETIC, MODELS = "evaluation/metrics/test_metrics_golden.py", "evaluation/inference/test_golden_models.py"
CLOSER_LOOK, TOKENS, SEMEVAL = (
    "evaluation/metrics/test_closer_look_golden.py",
    "evaluation/inference/test_golden_tokens.py",
    "evaluation/metrics/test_semeval_golden.py",
)

COVERED: dict[str, dict[str, tuple[str, str]]] = {  # file -> key -> (test file, test)
    "closer_look_metrics/text_metrics.json": {
        "pairs": (ARITHMETIC, "test_text_metrics"),
        "eval_rouge_recall/rougeL_recall": (ARITHMETIC, "test_text_metrics"),
        "token*": (ARITHMETIC, "test_text_metrics"),
        "rouge_empty_reference/rougeL_recall": (CLOSER_LOOK, "test_an_empty_reference"),
    },
    "closer_look_metrics/entailment_cosine.json": {
        "tofu_*": (ARITHMETIC, "test_entailment"),  # test_entailment walks every task
        "realworld_*": (ARITHMETIC, "test_entailment"),
        "scores": (ARITHMETIC, "test_entailment_scores_and_cosine"),
        "cosine_similarity": (ARITHMETIC, "test_entailment_scores_and_cosine"),
    },
    "closer_look_metrics/aggregate.json": {"*": (ARITHMETIC, "test_closer_look_aggregates")},  # every case
    "closer_look_metrics/model_eval.json": {
        "cfg/*": (CLOSER_LOOK, "test_evaluation"),
        **{
            f"runs/*model/float32/logs/*/{field}": (CLOSER_LOOK, "test_evaluation")
            for field in (
                *("avg_gt_loss", "gt_loss", "num_token_gt", "avg_paraphrased_loss", "paraphrased_loss"),
                *("num_token_paraphrased", "average_perturb_loss", "perturb_loss", "num_token_perturb"),
                *("rougeL_recall", "generated_text", "cosine_similarity", "entailment_labels", "token_entropy"),
            )
        },
        "runs/*model/float32/result/*": (CLOSER_LOOK, "test_evaluation"),
    },
    "closer_look_metrics/data_module.json": {
        "model_configs/*": (CLOSER_LOOK, "test_their_rows_are_token_rows"),
        "convert": (CLOSER_LOOK, "test_their_rows_are_token_rows"),
        "forget_dataset/*": (CLOSER_LOOK, "test_other_answers_are_sampled_differently"),
    },
    "closer_look_metrics/perturbation_float64.json": {
        "*_perturbed/*": (CLOSER_LOOK, "test_perturbation_in_float64"),  # every data set
        "model_family": (CLOSER_LOOK, "test_perturbation_in_float64"),
        "max_length": (CLOSER_LOOK, "test_perturbation_in_float64"),
    },
    "open_unlearning_metrics/aggregators.json": {
        "_inputs": (ARITHMETIC, "test_options_and_inputs"),
        "truth_ratio|*": (ARITHMETIC, "test_truth_ratio_aggregators"),
        "probability_w_options": (ARITHMETIC, "test_options_and_inputs"),
        "hm_aggregate*": (ARITHMETIC, "test_nine_terms"),
        "ks_test|*": (ARITHMETIC, "test_kolmogorov_smirnov"),
        "get_forget_quality|*": (ARITHMETIC, "test_kolmogorov_smirnov"),
        "privleak|*": (ARITHMETIC, "test_leakage"),
        "rel_diff|*": (ARITHMETIC, "test_leakage"),
    },
    "open_unlearning_metrics/metrics.json": {  # test_metric walks every key of these
        **{
            f"float*/*model/{metric}": (MODELS, "test_metric")
            for metric in (
                *("probability|*", "probability_w_options|*", "truth_ratio|*", "rouge|*", "model_utility"),
                *("exact_memorization|*", "extraction_strength|*", "mia_loss", "mia_zlib", "mia_reference"),
                *("mia_min_k|*", "mia_min_k_plus_plus|*", "mia_gradnorm|*"),
            )
        },
        "float*/comparisons/*": (MODELS, "test_comparisons"),
    },
    "open_unlearning_metrics/tokenised.json": {
        "template_args/*": (TOKENS, "test_every_instance_has_its_test"),
        "max_length": (TOKENS, "test_rows_of_open_unlearning"),
        "datasets/*": (TOKENS, "test_rows_of_open_unlearning"),  # every data set
        "generation_datasets/*": (TOKENS, "test_prompts_of_open_unlearning"),
    },
    "open_unlearning_metrics/tokenwise.json": {
        "forget/*": (TOKENS, "test_token_logprobs"),
        "holdout/*": (TOKENS, "test_token_logprobs"),
        "edge_rows/batch": (TOKENS, "test_edge_rows"),
        "edge_rows/evaluate_probability": (TOKENS, "test_edge_rows"),
        "edge_rows/tokenwise_logprobs": (ARITHMETIC, "test_memorisation_of_edge_rows"),
        "edge_rows/exact_memorization_by_row": (ARITHMETIC, "test_memorisation_of_edge_rows"),
        "edge_rows/extraction_strength_by_row": (ARITHMETIC, "test_memorisation_of_edge_rows"),
    },
    "open_unlearning_metrics/preprocess.json": {
        "template_args": (TOKENS, "test_every_instance_has_its_test"),
        "preprocess_pretraining_instance": (TOKENS, "test_text_after_a_prefix"),
        "preprocess_chat_instance": (TOKENS, "test_few_shot_chat"),
    },
    "semeval/results.json": {
        "scenarios/*/results": (SEMEVAL, "test_strict_repeats_the_official_results"),
        "scenarios/*/per_row": (SEMEVAL, "test_strict_repeats_every_row"),
    },
    "semeval/scenarios.json": {
        "*/mia": (SEMEVAL, "test_strict_repeats_the_official_results"),
        "*/mmlu": (SEMEVAL, "test_strict_repeats_the_official_results"),
    },
    "semeval/*/mmlu_metrics.json": {"average_acc": (SEMEVAL, "test_strict_repeats_the_official_results")},
    "semeval/pipeline/results.json": {"results": (SEMEVAL, "test_strict_repeats_the_official_results")},
    "semeval/pipeline/data/*.jsonl": {"": (RESPOND, "test_official_inference_on_the_golden_model")},
    "semeval/pipeline/mia_data/*.jsonl": {"": (RESPOND, "test_official_inference_on_the_golden_model")},
    "semeval/pipeline/out/mia_results/*.csv": {"": (RESPOND, "test_official_inference_on_the_golden_model")},
    "semeval/pipeline/out/*.csv": {"": (TOKENS, "test_answer_losses_of_the_official_inference")},
    "semeval/*.csv": {"": (SEMEVAL, "test_strict_repeats_every_row")},
}

PROVENANCE = "where the numbers come from"
ROUGE_1 = "ROUGE-1 enters no score of theirs, and there is none here"
NOT_OURS: dict[str, dict[str, str]] = {
    **{f"{folder}/*.json": {"provenance*": PROVENANCE} for folder in FOLDERS},
    "closer_look_metrics/text_metrics.json": {
        "eval_rouge_recall/rouge1_recall": ROUGE_1,
        "rouge_empty_reference/rouge1_recall": ROUGE_1,
    },
    "closer_look_metrics/model_eval.json": {"runs/*model/float32/logs/*/rouge1_recall": ROUGE_1},
    "closer_look_metrics/perturbation_float64.json": {"model": PROVENANCE},
    "semeval/results.json": {"scenarios/*/warned_mmlu": "the script prints a warning below 0.371, we do not"},
    "semeval/*/mmlu_metrics.json": {"subjects": "the script reads the average alone"},
    "semeval/scenarios.json": {"*/note": PROVENANCE, "*/modes": "how each generation was invented"},
}


def golden_files() -> list[str]:
    """Every file of the three folders but the text about them."""
    files = (path for folder in FOLDERS for path in (GOLDEN / folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(GOLDEN).as_posix() for path in files if path.suffix != ".md")


def keys_of(file: str) -> list[str]:
    """The paths inside a JSON file; the empty one of any other file."""
    if not file.endswith(".json"):
        return [""]
    return list(paths(json.loads((GOLDEN / file).read_text(encoding="utf-8")), DEPTH.get(file, 1)))


def paths(value: Any, depth: int) -> Iterator[str]:
    if not depth or not isinstance(value, dict):
        yield ""
        return
    for key, inner in value.items():
        yield from (f"{key}/{rest}" if rest else key for rest in paths(inner, depth - 1))


def patterns_of(table: dict[str, dict[str, Any]], file: str) -> list[str]:
    return [pattern for files, keys in table.items() if fnmatchcase(file, files) for pattern in keys]


@cache
def source_of(name: str) -> str:
    return (TESTS / name).read_text(encoding="utf-8")


def test_every_key_is_checked_or_excused():
    left = {
        f"{file}: {key}"
        for file in golden_files()
        for key in keys_of(file)
        if not any(fnmatchcase(key, pattern) for table in (COVERED, NOT_OURS) for pattern in patterns_of(table, file))
    }
    assert left == set()


@pytest.mark.parametrize("table", [COVERED, NOT_OURS], ids=["covered", "not_ours"])
def test_every_pattern_is_about_something(table):
    keys = {file: keys_of(file) for file in golden_files()}
    idle = {
        f"{files}: {pattern}"
        for files, patterns in table.items()
        for pattern in patterns
        if not any(fnmatchcase(file, files) and fnmatchcase(key, pattern) for file in keys for key in keys[file])
    }
    assert idle == set()


def test_every_named_test_exists_and_reads_the_file():
    """By its name, or, for files of a folder of scenarios, by the name of their folder."""
    for files, keys in COVERED.items():
        for file, test in keys.values():
            tests = {node.name for node in ast.parse(source_of(file)).body if isinstance(node, ast.FunctionDef)}
            assert test in tests, f"{file} has no {test}"
            named = Path(files).name if "*" not in Path(files).name else files.split("/")[0]
            assert named in source_of(file) or named in source_of("helpers/golden.py"), f"{file} does not read {files}"
