"""The score sheets against the official script's own results (golden/semeval).

What a scenario shows is read from its files: texts that pandas takes for gaps or numbers, ids that no rule scores, rows
and ids that repeat, tasks that are missing. `pipeline` is one more scenario, whose texts a model wrote.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas
import pytest
from helpers.golden import GOLDEN_MARKS, exact, golden_keys, skip_without
from helpers.shared import GOLDEN

from lume_run.common.errors import DataError
from lume_run.common.records import Kind, Response, Score, Split
from lume_run.evaluation.metrics.answers import exact_match, rouge_l_recall
from lume_run.evaluation.metrics.semeval import is_text_row, lume_scores, text_score
from lume_run.evaluation.metrics.semeval_files import responses_from_official
from lume_run.evaluation.metrics.semeval_official import strict_from_folder, strict_rows, strict_scores
from lume_run.tasks.semeval_ids import KIND_OF_SUFFIX, SUBTASK_OF_LABEL

SEMEVAL = GOLDEN / "semeval"
SPLITS = (Split.FORGET, Split.RETAIN)
SCORES = {Kind.COMPLETION: ("regurgitation", rouge_l_recall), Kind.QUESTION: ("knowledge", exact_match)}
SCENARIOS = golden_keys("semeval/results.json", "scenarios")
PIPELINE = "pipeline"

pytestmark = [*GOLDEN_MARKS, pytest.mark.slow]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """A row of a scenario: its cells as they were written, and both texts as the script's pandas reads them."""

    split: Split
    id: str
    task: str
    prompt: str
    written: tuple[str, str]  # expected, generated
    seen: tuple[str, str]

    @property
    def official_kind(self) -> Kind | None:
        """By the script's rule, which fails for two-digit and upper-case suffixes."""
        return KIND_OF_SUFFIX.get(self.id[:-1][-2:])


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def golden(scenario: str) -> dict:
    if scenario == PIPELINE:
        return read(SEMEVAL / PIPELINE / "results.json")
    return read(SEMEVAL / "results.json")["scenarios"][scenario]


def folder_of(scenario: str) -> Path:
    return SEMEVAL / PIPELINE / "out" if scenario == PIPELINE else SEMEVAL / scenario


def mmlu_of(scenario: str) -> float | None:
    """The MMLU average, where one was supplied."""
    given = scenario == PIPELINE or read(SEMEVAL / "scenarios.json")[scenario]["mmlu"]
    return read(SEMEVAL / scenario / "mmlu_metrics.json")["average_acc"] if given else None


def uses_mia(scenario: str) -> bool:
    return scenario == PIPELINE or read(SEMEVAL / "scenarios.json")[scenario]["mia"]


@cache
def text_rows(scenario: str) -> list[TextRow]:
    """All rows, in the order of `strict_rows`."""
    rows = []
    for split in SPLITS:
        files = sorted(folder_of(scenario).glob(f"{split}_*.csv"))
        written = pandas.concat([pandas.read_csv(file, dtype=str, keep_default_na=False) for file in files])
        seen = pandas.concat([pandas.read_csv(file) for file in files], ignore_index=True)
        texts = zip(seen["expected_output"], seen["model_output"], strict=True)
        for row, pair in zip(written.to_dict(orient="records"), texts, strict=True):
            rows.append(
                TextRow(
                    split=split,
                    id=row["id"],
                    task=row["task"],
                    prompt=row["input"],
                    written=(row["expected_output"], row["model_output"]),
                    seen=(str(pair[0]), str(pair[1])),
                )
            )
    return rows


@cache
def responses(scenario: str) -> list[Response]:
    return responses_from_official(folder_of(scenario))


@cache
def response_rows(scenario: str) -> list[Response]:
    """The response of every row; rows that repeat share one."""
    by_cells = {
        (row.split, row.id, row.subtask, row.prompt, row.expected, row.output): row
        for row in responses(scenario)
        if is_text_row(row)
    }
    rows = [
        by_cells[row.split, row.id.replace('"', ""), SUBTASK_OF_LABEL[row.task], row.prompt, *row.written]
        for row in text_rows(scenario)
    ]
    assert set(map(id, rows)) == set(map(id, by_cells.values()))
    return rows


@cache
def official_rows(scenario: str) -> list[float | None]:
    """What the script gives every row; None where neither rule scores it."""
    rows = (row for split in SPLITS for row in strict_rows(folder_of(scenario), split))
    return [row.regurgitation if row.knowledge is None else row.knowledge for row in rows]


def repeated_ids(scenario: str) -> set[str]:
    """Ids of several different rows: our sheet refuses them."""
    counts = Counter((row.id, row.ask, row.variant) for row in responses(scenario))
    return {id for (id, _, _), count in counts.items() if count > 1}


def has_repeated_rows(scenario: str) -> bool:
    """Whether a row stands twice, as in the padding of the last process; ours counts it once."""
    rows = len(text_rows(scenario))
    if uses_mia(scenario):
        rows += sum(len(pandas.read_csv(path)) for path in (folder_of(scenario) / "mia_results").glob("*.csv"))
    return rows != len(responses(scenario))


def has_missing_terms(scenario: str) -> bool:
    """Whether a task has no row of one kind in a split, which makes the script's aggregate NaN."""
    return golden(scenario)["results"]["harmonic-mean-task-aggregate"] == "NaN"


@cache
def quirks(scenario: str) -> list[str]:
    """Why the two sheets need not agree."""
    pairs = list(zip(official_rows(scenario), response_rows(scenario), strict=True))
    reasons = {
        "pandas changes texts that count": any(
            score is not None and abs(score - text_score(row)) > 1e-9 for score, row in pairs
        ),
        "no rule scores some ids": any(score is None for score, _ in pairs),
        "rows repeat": has_repeated_rows(scenario),
        "ids repeat": bool(repeated_ids(scenario)),
        "a term is missing": has_missing_terms(scenario),
        "a task stands in one split": bool(absent_cells(scenario)),
    }
    return [reason for reason, plays in reasons.items() if plays]


def absent_cells(scenario: str) -> set[str]:
    """Cells of a task that only the other split has, under the names of the default sheet."""
    tasks = {split: {row.task for row in text_rows(scenario) if row.split is split} for split in SPLITS}
    return {
        f"{split}.{SUBTASK_OF_LABEL[task]}.{word}"
        for split in SPLITS
        for task in set().union(*tasks.values()) - tasks[split]
        for word, _ in SCORES.values()
    }


def assert_same(actual, expected, path="") -> None:
    if isinstance(expected, dict):
        assert set(actual) == set(expected), path
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), path
        for number, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
            assert_same(ours, theirs, f"{path}/{number}")
    elif expected == "NaN":
        assert math.isnan(actual), path
    elif expected is None or isinstance(expected, str):
        assert actual == expected, path
    else:
        assert actual == exact(expected), path


def test_every_scenario_is_described():
    assert set(SCENARIOS) == set(read(SEMEVAL / "scenarios.json"))
    assert all(folder_of(scenario).is_dir() for scenario in [*SCENARIOS, PIPELINE])


@pytest.mark.parametrize("scenario", [*SCENARIOS, PIPELINE])
def test_strict_repeats_the_official_results(scenario):
    """On the files of the folder, `scenarios.json` and `mmlu_metrics.json`."""
    results = strict_from_folder(folder_of(scenario), mmlu_average=mmlu_of(scenario), use_mia=uses_mia(scenario))
    assert_same(results, golden(scenario)["results"])


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("split", SPLITS)
def test_strict_repeats_every_row(scenario, split):
    """The script takes files in any order, and ids may repeat: rows are compared in the order of ids and scores."""
    ours = [(row.id, row.regurgitation, row.knowledge) for row in strict_rows(folder_of(scenario), split)]
    theirs = [(row["id"], row["rougeL_recall"], row["knowledge"]) for row in golden(scenario)["per_row"][split]]
    assert_same(*(list(map(list, sorted(rows, key=order_of_row))) for rows in (ours, theirs)))


def order_of_row(row: tuple[str, float | None, float | None]) -> tuple[str, list[float]]:
    return row[0], [-1 if score is None else round(score, 6) for score in row[1:]]


@pytest.mark.parametrize("scenario", [*SCENARIOS, PIPELINE])
def test_the_round_trip_of_our_responses_is_the_official_one(scenario):
    """One process writes one file; of several, the result depends on which rows shared a file, and that responses do
    not know. Nor do they know how often a row was repeated."""
    files = [len(list(folder_of(scenario).glob(f"{split}_*.csv"))) for split in SPLITS]
    if max(files) > 1 or has_repeated_rows(scenario):
        pytest.skip(f"{scenario} has {files} files, or rows that repeat")
    assert_same(strict_scores(responses(scenario), mmlu_accuracy=mmlu_of(scenario)), golden(scenario)["results"])


@pytest.mark.parametrize("scenario", [*SCENARIOS, PIPELINE])
def test_rows_differ_from_the_official_ones_exactly_as_documented(scenario):
    """Ours is the score of the texts as they were written, theirs of the texts that pandas made of them, or none."""
    rows = zip(text_rows(scenario), response_rows(scenario), official_rows(scenario), strict=True)
    for row, response, official in rows:
        _, score = SCORES[response.kind]
        assert text_score(response) == exact(score(*row.written)), row
        assert (official is None) == (row.official_kind is None), row
        if official is not None:
            assert row.official_kind is response.kind
            assert official == exact(score(*row.seen)), row


def named(results: dict) -> dict[str, float | str | None]:
    """The official results under the names of the default sheet."""
    values = {}
    for split in SPLITS:
        cells = results[f"{split}-set"]
        for word, _ in SCORES.values():
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
    values |= {name: results.get(key) for name, key in official.items()}
    if values["aggregate"] == -1:
        values["aggregate"] = None
    if values["mia.auc"] is not None and values["mia.score"] is None:  # left out unless MMLU is there too
        values["mia.score"] = 1 - 2 * abs(values["mia.auc"] - 0.5)
    return values


@cache
def sheet(scenario: str) -> dict[str, Score]:
    scores = {score.name: score for score in lume_scores(responses(scenario), mmlu_accuracy=mmlu_of(scenario))}
    assert all((score.value is None) == bool(score.reason) for score in scores.values())
    return scores


@pytest.mark.parametrize("scenario", [*SCENARIOS, PIPELINE])
def test_the_default_sheet_is_official_where_no_quirk_plays(scenario):
    if quirks(scenario):
        pytest.skip(f"{scenario}: {', '.join(quirks(scenario))}")
    values = {name: score.value for name, score in sheet(scenario).items()}
    assert_same(values, named(golden(scenario)["results"]))


@pytest.mark.parametrize("scenario", [*SCENARIOS, PIPELINE])
def test_the_default_sheet_means_every_row(scenario):
    """Whatever its id and its texts; a row that repeats counts once, and one id for two different rows is refused."""
    if repeated_ids(scenario):
        with pytest.raises(DataError, match="repeated"):
            sheet(scenario)
        return
    scores, cells = sheet(scenario), {}
    for row in {id(row): row for row in response_rows(scenario)}.values():
        for cell in (f"{row.split}.", f"{row.split}.{row.subtask}."):
            cells.setdefault(cell + SCORES[row.kind][0], []).append(text_score(row))
    for name, values in cells.items():
        assert (scores[name].value, scores[name].n) == (exact(statistics.fmean(values)), len(values)), name


def test_a_missing_cell_is_none_with_a_reason():
    """The script gives NaN."""
    scenarios = [name for name in SCENARIOS if quirks(name) == ["a term is missing"]]
    skip_without(scenarios, "scenario with a missing term alone")
    for scenario in scenarios:
        scores, expected = sheet(scenario), named(golden(scenario)["results"])
        missing = {name for name, value in expected.items() if value == "NaN"}
        absent = {name for name, score in scores.items() if score.value is None}
        assert absent == missing | {name for name, value in expected.items() if value is None}
        cells = missing - {"task_aggregate", "aggregate"}
        assert cells and cells | {"task_aggregate"} <= absent
        for cell in cells:
            assert cell.split(".")[0] in scores[cell].reason
            assert all(cell in scores[name].reason for name in ("task_aggregate", "aggregate") if name in missing)
        for name in scores.keys() - absent:
            assert scores[name].value == pytest.approx(expected[name], abs=1e-9), name


def becomes_gap(row: TextRow) -> bool:
    """Whether pandas takes one of its texts for a gap."""
    return any(seen == "nan" != written for seen, written in zip(row.seen, row.written, strict=True))


def becomes_number(row: TextRow) -> bool:
    """Whether pandas takes one of its texts for a number that is written otherwise."""
    return any(seen not in ("nan", written) for seen, written in zip(row.seen, row.written, strict=True))


@pytest.mark.parametrize("change", [becomes_gap, becomes_number])
def test_texts_that_pandas_changes(change):
    """Both sheets mean their scores: where those of a cell differ by such a row, so do the two values."""
    differing = 0
    for scenario in SCENARIOS:
        expected = named(golden(scenario)["results"])
        rows = list(zip(text_rows(scenario), response_rows(scenario), official_rows(scenario), strict=True))
        for cell in {(row.split, response.kind) for row, response, _ in rows if change(row)}:
            name, score = f"{cell[0]}.{SCORES[cell[1]][0]}", SCORES[cell[1]][1]
            chosen = [row for row, response, _ in rows if (row.split, response.kind) == cell and row.official_kind]
            if not chosen:
                continue
            official, default = (
                statistics.fmean(score(*getattr(row, texts)) for row in chosen) for texts in ("seen", "written")
            )
            assert expected[name] == pytest.approx(official)
            if not set(quirks(scenario)) & {"ids repeat", "rows repeat", "no rule scores some ids"}:
                assert sheet(scenario)[name].value == pytest.approx(default)
            differing += abs(official - default) > 1e-9
    skip_without(range(differing), f"row that {change.__name__.replace('_', ' ')} and counts otherwise")


def test_a_task_of_one_split_gives_no_aggregate():
    """The script leaves its terms out in silence: two for each task and split that are there."""
    scenarios = [name for name in SCENARIOS if absent_cells(name)]
    skip_without(scenarios, "task that stands in one split only")
    for scenario in scenarios:
        tasks = {(row.split, row.task) for row in text_rows(scenario)}
        assert len(golden(scenario)["results"]["aggregated-terms"]) == 2 * len(tasks)
        term = sheet(scenario)["task_aggregate"]
        assert term.value is None and all(cell in term.reason for cell in absent_cells(scenario))


def test_odd_ids_are_scored_like_any_other():
    """The rows of one scenario under other ids in another: the script leaves some out, the default sheet does not."""
    odd = [name for name in SCENARIOS if None in official_rows(name) and not repeated_ids(name)]
    even = [name for name in SCENARIOS if None not in official_rows(name) and not repeated_ids(name)]
    pairs = [(name, other) for name in odd for other in even if contents(name) == contents(other)]
    skip_without(pairs, "scenario twice, once with ids that no rule scores")
    for pair in pairs:
        odd_terms, terms = (golden(name)["results"]["aggregated-terms"] for name in pair)
        assert odd_terms != terms
        odd_sheet, even_sheet = map(sheet, pair)
        same_order = documents(pair[0]) == documents(pair[1])  # intervals resample documents in order
        for name, score in even_sheet.items():
            if name.startswith(("forget", "retain", "task")):
                assert (odd_sheet[name].value, odd_sheet[name].n) == (exact(score.value), score.n)
                assert not same_order or odd_sheet[name] == score


def contents(scenario: str) -> set[tuple[str, ...]]:
    """The rows without their ids."""
    return {(row.split, row.task, row.prompt, *row.written) for row in text_rows(scenario)}


def documents(scenario: str) -> list[str]:
    return [row.document for row in response_rows(scenario)]
