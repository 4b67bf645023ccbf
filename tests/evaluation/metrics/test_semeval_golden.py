"""The score sheets against the official script's own results (golden set A, semeval/)."""

import json
import math

import pytest
from helpers.shared import SHARED

from lume_run.common.records import Split
from lume_run.evaluation.metrics.semeval import is_text_row, lume_scores, text_score
from lume_run.evaluation.metrics.semeval_files import responses_from_official
from lume_run.evaluation.metrics.semeval_official import strict_from_folder, strict_rows, strict_scores
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL

GOLDEN = SHARED / "golden" / "semeval"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden files: {GOLDEN} is absent")

SCENARIOS = (
    "main",
    "no_mia_no_mmlu",
    "mia_only_over_unlearned",
    "sharded",
    "numeric_shard_ints",
    "numeric_shard_one_empty",
    "zero_term",
    "missing_cell",
    "missing_task",
    "na_strings",
    "odd_ids",
)
SHARDED = {"sharded", "numeric_shard_ints", "numeric_shard_one_empty"}
# id -> (official, default) of every row on which the two sheets disagree; both texts in a comment.
DIFFERENCES = {
    "numeric_shard_one_empty": {  # the file's answers became floats: "900514344.0" is not "900514344"
        "df8d2304-fb26-4d44-9df0-a4b3f98df1b4qa1": (0.0, 1.0),
        "df8d2304-fb26-4d44-9df0-a4b3f98df1b4qa2": (0.0, 1.0),
        "73cc564f-2b2d-43f6-b6e2-dcb4b2a2d1eeqa2": (0.0, 1.0),
        "90a0db01-1683-475d-9980-edf9e99d6f9fqa1": (0.0, 1.0),
        "90a0db01-1683-475d-9980-edf9e99d6f9fqa2": (0.0, 1.0),
    },
    "na_strings": {  # both sides of each became "nan"
        "edge0qa0": (1.0, 0.0),  # "None", ""
        "edge1qa0": (1.0, 0.0),  # "nan", "null"
        "edge2qa0": (1.0, 0.0),  # "NA", "None"
        "edge3qa0": (1.0, 0.0),  # "", "nan"
        "edge0sc1": (1.0, 0.0),  # "None", ""
        "edge1sc1": (1.0, 0.0),  # "", "nan"
    },
}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def golden(scenario):
    return read(GOLDEN / "results.json")["scenarios"][scenario]


def folder_and_inputs(scenario):
    """(folder, MMLU average or None, whether membership was supplied)."""
    if scenario == "pipeline":
        return GOLDEN / "pipeline" / "out", read(GOLDEN / "pipeline" / "mmlu_metrics.json")["average_acc"], True
    supplied = read(GOLDEN / "scenarios.json")[scenario]
    folder = GOLDEN / scenario
    mmlu = read(folder / "mmlu_metrics.json")["average_acc"] if supplied["mmlu"] else None
    return folder, mmlu, supplied["mia"]


def expected_results(scenario):
    return (
        read(GOLDEN / "pipeline" / "results.json")["results"] if scenario == "pipeline" else golden(scenario)["results"]
    )


def assert_same(actual, expected, path=""):
    if isinstance(expected, dict):
        assert set(actual) == set(expected), path
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), path
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{path}/{number}")
    elif expected is None:
        assert actual is None, path
    elif expected == "NaN":
        assert math.isnan(actual), path
    else:
        assert actual == pytest.approx(expected, abs=1e-9, rel=1e-9), path


def test_every_scenario_is_covered():
    assert set(SCENARIOS) == set(read(GOLDEN / "results.json")["scenarios"])


@pytest.mark.parametrize("scenario", [*SCENARIOS, "pipeline"])
def test_strict_repeats_the_official_results(scenario):
    folder, mmlu, mia = folder_and_inputs(scenario)
    assert_same(strict_from_folder(folder, mmlu_average=mmlu, use_mia=mia), expected_results(scenario))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("split", [Split.FORGET, Split.RETAIN])
def test_strict_repeats_every_row(scenario, split):
    expected = {row["id"]: row for row in golden(scenario)["per_row"][split]}
    rows = strict_rows(folder_and_inputs(scenario)[0], split)
    assert sorted(row.id for row in rows) == sorted(expected)  # the script takes files in any order
    for row in rows:
        assert_same(row.regurgitation, expected[row.id]["rougeL_recall"], row.id)
        assert row.knowledge == expected[row.id]["knowledge"], row.id


@pytest.mark.parametrize("scenario", [name for name in [*SCENARIOS, "pipeline"] if name not in SHARDED])
def test_the_round_trip_of_our_responses_is_the_official_one(scenario):
    # One process writes one file; sharded results depend on which rows shared a file, which responses do not know.
    folder, mmlu, _ = folder_and_inputs(scenario)
    assert_same(strict_scores(responses_from_official(folder), mmlu_accuracy=mmlu), expected_results(scenario))


@pytest.mark.parametrize("scenario", [*SCENARIOS, "pipeline"])
def test_rows_differ_from_the_official_ones_exactly_as_documented(scenario):
    folder = folder_and_inputs(scenario)[0]
    official = {
        row.id.replace('"', ""): row.regurgitation if row.knowledge is None else row.knowledge
        for split in (Split.FORGET, Split.RETAIN)
        for row in strict_rows(folder, split)
    }
    default = {row.id: text_score(row) for row in responses_from_official(folder) if is_text_row(row)}
    assert set(default) == set(official)
    unscored = {id for id, score in official.items() if score is None}
    different = {
        id: (official[id], default[id])
        for id in official
        if id not in unscored and abs(official[id] - default[id]) > 1e-9
    }
    assert different == DIFFERENCES.get(scenario, {})
    assert bool(unscored) == (scenario == "odd_ids")


def named(results):
    """The official results under the names of the default sheet."""
    values = {}
    for split in ("forget", "retain"):
        cells = results[f"{split}-set"]
        for word in ("regurgitation", "knowledge"):
            values[f"{split}.{word}"] = cells[f"overall-{word}-score"]
            for label in SUBTASK_OF_LABEL.keys() & cells.keys():
                values[f"{split}.{SUBTASK_OF_LABEL[label]}.{word}"] = cells[label][f"{word}-score"]
    official = {
        "mia.auc": "mia_loss_acc",
        "mia.score": "mia_final_score",
        "mmlu.accuracy": "mmlu_average",
        "task_aggregate": "harmonic-mean-task-aggregate",
        "aggregate": "aggregate-score",
    }
    return values | {name: results.get(key) for name, key in official.items()}


def sheet(scenario):
    folder, mmlu, _ = folder_and_inputs(scenario)
    scores = {score.name: score for score in lume_scores(responses_from_official(folder), mmlu_accuracy=mmlu)}
    assert all((score.value is None) == bool(score.reason) for score in scores.values())
    return scores


@pytest.mark.parametrize(
    "scenario", [name for name in [*SCENARIOS, "pipeline"] if name not in {*DIFFERENCES, "odd_ids", "missing_cell"}]
)
def test_the_default_sheet_is_official_where_no_quirk_plays(scenario):
    scores, expected = sheet(scenario), named(expected_results(scenario))
    if expected["aggregate"] == -1:
        expected["aggregate"] = None
    if scenario == "mia_only_over_unlearned":  # the script leaves this one out unless MMLU is there too
        expected["mia.score"] = 1 - 2 * abs(expected["mia.auc"] - 0.5)
    assert_same({name: score.value for name, score in scores.items()}, expected)


def test_a_missing_cell_is_none_with_a_reason():
    scores, expected = sheet("missing_cell"), named(expected_results("missing_cell"))
    absent = {name for name, score in scores.items() if score.value is None}
    assert absent == {name for name, value in expected.items() if value == "NaN"}
    assert absent == {"forget.wiki.knowledge", "task_aggregate", "aggregate"}
    assert all("forget" in scores[name].reason for name in absent)
    for name in scores.keys() - absent:
        assert scores[name].value == pytest.approx(expected[name], abs=1e-9), name


def test_a_file_of_numbers_with_a_gap():
    official, scores = named(expected_results("numeric_shard_one_empty")), sheet("numeric_shard_one_empty")
    # 14 rows of the first file, 8 of them right; of the 6 in the second file the script finds none, the sheet 5.
    assert official["forget.bios.knowledge"] == pytest.approx(8 / 20)
    assert scores["forget.bios.knowledge"].value == pytest.approx(13 / 20)
    assert scores["retain.knowledge"].value == pytest.approx(official["retain.knowledge"])


def test_strings_that_pandas_takes_for_gaps():
    official, scores = named(expected_results("na_strings")), sheet("na_strings")
    # Six differing rows of 12 questions and 7 completions.
    assert official["forget.novels.knowledge"] == pytest.approx(8 / 12)
    assert scores["forget.novels.knowledge"].value == pytest.approx(4 / 12)
    assert official["forget.novels.regurgitation"] == pytest.approx(5 / 7)
    assert scores["forget.novels.regurgitation"].value == pytest.approx(3 / 7)
    # Task2 and Task3 stand in retain only: eight terms officially, no number here.
    assert len(expected_results("na_strings")["aggregated-terms"]) == 8
    assert scores["task_aggregate"].value is None and "forget.wiki.knowledge" in scores["task_aggregate"].reason


def test_odd_ids_are_scored_like_any_other():
    # The rows of main under other ids: the script leaves some out, the default sheet gives the values of main.
    main, odd = sheet("main"), sheet("odd_ids")
    assert expected_results("odd_ids")["aggregated-terms"][:6] != expected_results("main")["aggregated-terms"][:6]
    for name in main:
        if name.startswith(("forget", "retain", "task")):
            assert odd[name] == main[name]
