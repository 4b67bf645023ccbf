"""`lume-run-report --submission`: the files of three leaderboards, and runs that they would not take."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import sweeps
from helpers.shared import GOLDEN

from lume_run.common.jsonl import write_jsonl
from lume_run.evaluation.metrics.semeval_files import responses_from_official
from lume_run.evaluation.metrics.semeval_official import strict_scores
from lume_run.report.comparison.main import main

MUSE_SUITE = {"published": "news", "verbatim_tokens": 128, "answer_tokens": 32, "k": 0.4}
MUSE_SCORES = {
    "muse.forget.verbatim": 0.25,
    "muse.privacy_leakage": -99.8,
    "muse.forget.knowledge": 0.5,
    "muse.retain.knowledge": 0.375,
}
TOFU_SETS = ("real_authors", "world_facts", "retain", "forget")  # in the order of the released code
TOFU_SCORES = {
    f"tofu.{name}.{score}": (10 * place + number) / 64
    for place, name in enumerate(TOFU_SETS)
    for number, score in enumerate(("rouge", "probability", "truth_ratio"), 1)
} | {"tofu.model_utility": 0.625, "tofu.forget_quality": 1.5e-20}
LUME = sweeps.scores(0.1, 0.9)
SEMEVAL = GOLDEN / "semeval"
needs_golden = pytest.mark.skipif(not SEMEVAL.is_dir(), reason=f"the golden values are not at {GOLDEN}")


def muse_config(method: str = "npo_gd", corpus: str = "news", **more: Any) -> dict[str, Any]:
    suite = MUSE_SUITE | {"published": corpus} | more
    return sweeps.config(method, task="muse_raw", task__corpus=corpus, evaluator__suites={"muse": suite})


def lume_config(**more: Any) -> dict[str, Any]:
    return sweeps.config(task="lume", **({"evaluator__strict": True} | more))


def submit(board: str, folder: Path, *options: str) -> int:
    return main([str(folder), "--submission", board, *options])


# ------------------------------------------------------------------------------------------------- MUSE and TOFU


def test_muse_gets_the_csv_of_its_own_program(tmp_path, capsys):
    """`{'name': name} | scores` of every model, in percent; a file a corpus."""
    sweeps.write_run(tmp_path, muse_config(), MUSE_SCORES)
    sweeps.write_run(tmp_path, muse_config("gd"), MUSE_SCORES | {"muse.forget.verbatim": 0.125})
    sweeps.write_run(tmp_path, muse_config("gd", "books"), MUSE_SCORES)
    assert submit("muse", tmp_path) == 0
    news, books = (tmp_path / "submission" / f"muse_{corpus}.csv" for corpus in ("news", "books"))
    names = [line.split(",")[0] for line in news.read_text("utf-8").splitlines()]
    assert names[0] == "name" and names[2] == "npo_gd"  # of two runs by `gd` the runs' own names
    lines = news.read_bytes().split(b"\n")
    assert lines[0] == b"name,verbmem_f,privleak,knowmem_f,knowmem_r"
    assert lines[1].endswith(b",12.5,-99.8,50.0,37.5")
    assert lines[2] == b"npo_gd,25.0,-99.8,50.0,37.5"
    assert lines[3] == b"" and len(books.read_text("utf-8").splitlines()) == 2
    assert str(news) in capsys.readouterr().out


def test_tofu_gets_the_csv_of_its_own_program(tmp_path):
    """The columns of aggregate_eval_stat.py in its order and with its line ends, forget quality in full."""
    run = sweeps.write_run(tmp_path, sweeps.config(task="tofu", task__split="forget01"), TOFU_SCORES)
    assert submit("tofu", run, "--submitted-by", "A. Team", "--title", "our method") == 0
    head, line, end = (run / "submission" / "tofu_forget01.csv").read_bytes().split(b"\r\n")
    sets = ("Real Authors", "Real World", "Retain", "Forget")
    columns = [f"{score} {name}" for name in sets for score in ("ROUGE", "Prob.", "Truth Ratio")]
    assert head.decode().split(",") == [*columns, "Model Utility", "Forget Quality", "Method", "Submitted By"]
    cells = line.decode().split(",")
    assert list(map(float, cells[:14])) == list(TOFU_SCORES.values())
    assert cells[13:] == ["1.5e-20", "our method", "A. Team"]
    assert end == b""


# ------------------------------------------------------------------------------------------------------ SemEval


def golden_main(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A run that answered as the golden scenario `main`, and the official script's result of it."""
    results = json.loads((SEMEVAL / "results.json").read_text("utf-8"))["scenarios"]["main"]["results"]
    responses = responses_from_official(SEMEVAL / "main")
    official = strict_scores(responses, mmlu_accuracy=results["mmlu_average"])
    report = {"official": {"unlearned": official}}
    run = sweeps.write_run(folder, lume_config(), LUME, report=report)
    write_jsonl(run / "responses.unlearned.jsonl", responses)
    return run, results


@needs_golden
@pytest.mark.golden
def test_semeval_gets_the_official_result(tmp_path):
    run, results = golden_main(tmp_path)
    assert submit("semeval", run) == 0
    text = (run / "submission" / "evaluation_results.jsonl").read_text("utf-8")
    assert "\n" not in text  # the script writes one object and no line end
    ours = json.loads(text)
    assert list(ours) == list(results)
    assert flat(ours) == pytest.approx(flat(results), rel=1e-9, abs=1e-9)


def flat(results: dict[str, Any], path: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for key, value in results.items():
        items = dict(enumerate(value)) if isinstance(value, list) else value
        numbers |= flat(items, f"{path}{key}.") if isinstance(items, dict) else {f"{path}{key}": items}
    return numbers


@needs_golden
@pytest.mark.golden
@pytest.mark.parametrize("split", ["forget", "retain", "mia_results/member", "mia_results/nonmember"])
def test_semeval_gets_the_official_files(tmp_path, split):
    """To the byte, but for ids, which are without quotes here, and the loss of texts, which is never read."""
    run, _ = golden_main(tmp_path)
    assert submit("semeval", run, "--out", str(tmp_path / "out")) == 0
    theirs = (SEMEVAL / "main" / f"{split}_0.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(theirs, newline="")))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        loss = "0.0" if "task" in row else str(float(row["nll"]))
        writer.writerow(row | {"id": row["id"].replace('"', ""), "nll": loss})
    assert (tmp_path / "out" / f"{split}_0.csv").read_bytes().decode() == text.getvalue()


# ----------------------------------------------------------------------------------------------------- refusals


def official(**more: Any) -> dict[str, Any]:
    result = {"aggregated-terms": [0.5] * 12, "mmlu_average": 0.4, "mia_loss_acc": 0.6} | more
    return {"official": {"unlearned": {key: value for key, value in result.items() if value is not None}}}


@pytest.mark.parametrize(
    ("board", "config", "scores", "report", "says"),
    [
        ("muse", muse_config(), {}, {}, ["has no muse.forget.verbatim, for verbmem_f", "evaluator=muse"]),
        ("muse", muse_config(published="none"), MUSE_SCORES, {}, ["published=none", "muse.published=news"]),
        ("muse", muse_config(k=0.2), MUSE_SCORES, {}, ["evaluator.suites.muse.k=0.2", "evaluator.suites.muse.k=0.4"]),
        ("muse", sweeps.config(task="tofu"), TOFU_SCORES, {}, ["is of task=tofu", "task=muse or task=muse_raw"]),
        (
            "tofu",
            sweeps.config(task="tofu", task__split="forget01"),
            {name: value for name, value in TOFU_SCORES.items() if name != "tofu.forget_quality"},
            {"reasons": {"unlearned.tofu.forget_quality": "there is no retrained model"}},
            ["has no tofu.forget_quality, for Forget Quality: there is no retrained model", "evaluator=tofu"],
        ),
        ("tofu", sweeps.config(task="tofu", task__num_documents=2), TOFU_SCORES, {}, ["task.num_documents=null"]),
        ("semeval", sweeps.config(task="bios"), LUME, {}, ["is of task=bios", "task=lume"]),
        ("semeval", lume_config(evaluator__strict=False), LUME, {}, ["evaluator.strict=true"]),
        (
            "semeval",
            lume_config(),
            LUME,
            {"official": None},
            ["no result of the official script", "evaluator=lume"],
        ),
        (
            "semeval",
            lume_config(),
            LUME,
            {"official": {"unlearned": {"reason": "no retain rows"}}},
            ["no retain rows"],
        ),
        (
            "semeval",
            lume_config(),
            LUME,
            official(mmlu_average=None),
            ["no mmlu_average", "evaluator.mmlu.data_dir"],
        ),
        (
            "semeval",
            lume_config(),
            LUME,
            official(mia_loss_acc=None),
            ["no mia_loss_acc", "evaluator.membership=true"],
        ),
        (
            "semeval",
            lume_config(),
            LUME,
            official(**{"aggregated-terms": [0.5] * 11 + ["NaN"]}),
            ["has 11 of the 12 terms"],
        ),
        (
            "semeval",
            lume_config(evaluator__max_new_tokens=64),
            LUME,
            official(),
            ["evaluator.max_new_tokens=256"],
        ),
    ],
)
def test_runs_that_lack_something_are_refused(tmp_path, capsys, board, config, scores, report, says):
    run = sweeps.write_run(tmp_path, config, scores, report=report)
    assert submit(board, run, "--submitted-by", "us") == 2
    error = capsys.readouterr().err
    assert "This cannot be submitted" in error
    assert [what for what in says if what not in error] == []
    assert not (run / "submission").exists()


def test_all_that_is_wrong_is_said_at_once(tmp_path, capsys):
    """A run that failed, several where one is taken, a name that is missing; and nothing is half written."""
    for seed in (0, 1):
        config = sweeps.config(task="tofu", task__split="forget01", seed=seed)
        sweeps.write_run(tmp_path, config, None if seed else TOFU_SCORES, error="no memory" if seed else "")
    assert submit("tofu", tmp_path, "--title", "both") == 2
    error = capsys.readouterr().err
    for what in ("hold 2 runs", "is one name for 2 runs", "--submitted-by NAME", "is failed"):
        assert what in error
    assert submit("tofu", tmp_path / "nowhere") == 2
    assert "There is no folder" in capsys.readouterr().err


def test_a_run_whose_answers_are_gone_is_refused(tmp_path, capsys):
    run = sweeps.write_run(tmp_path, lume_config(), LUME, report=official())
    assert submit("semeval", run) == 2
    assert "responses.unlearned.jsonl" in capsys.readouterr().err
