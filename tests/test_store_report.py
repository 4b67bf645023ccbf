"""Artifacts are made once and whole; reports are strict, flat and say what is missing; MMLU is read exactly."""

from __future__ import annotations

import io
import json
import selectors
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lume_run.common import store
from lume_run.common.errors import DataError, RunError
from lume_run.common.files import content_hash, fingerprint, write_json
from lume_run.common.jsonl import to_json, write_jsonl
from lume_run.common.records import Ask, Kind, Response, Score, Split
from lume_run.common.store import Artifact
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings, MmluSettings
from lume_run.evaluation.datasets.mmlu import check_folder, load_mmlu
from lume_run.evaluation.metrics.bootstrap import Bootstrap, Column, mean_of
from lume_run.evaluation.saved_responses import read_responses
from lume_run.evaluation.scoring import gate, score
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.lume import mmlu_examples
from lume_run.pipeline.checks import checked
from lume_run.pipeline.driver import ending_warnings, finish, outcomes
from lume_run.report.plots import AFTER, BETTER, NOISE, WORSE, color_of, panels_of
from lume_run.report.results import Report, as_json, shown
from lume_run.report.tables import NOISE_TOLD, markdown
from lume_run.report.write import print_report, write_report

MMLU = Path(__file__).parents[2] / "shared" / "data" / "mmlu"
MANIFEST = {"config_hash": "0123456789abcdef", "seed": 3, "versions": {"python": "3.11"}}


def strict_json(path: Path):
    """The file's data; NaN and Infinity, which are no JSON, are refused."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def artifact(path: Path, build, **made_from) -> Artifact:
    return Artifact(stage="train", name="target", path=path, made_from=made_from, build=build)


class Builder:
    """Writes one file, and remembers what it found each time."""

    def __init__(self, text: str = "made", fail: bool = False) -> None:
        self.text, self.fail = text, fail
        self.found: list[list[str]] = []

    def __call__(self, folder: Path) -> None:
        self.found.append(sorted(path.name for path in folder.iterdir()))
        (folder / f"{self.text}.txt").write_text(self.text, encoding="utf-8")
        if self.fail:
            raise RunError("stopped in the middle")


# ------------------------------------------------------------------------------------------------- artifacts


def test_an_artifact_is_built_once(tmp_path):
    build = Builder()
    made = artifact(tmp_path / "store" / "x", build, model="m", seed=0)
    assert not made.done
    for _ in range(3):
        assert made.make() == tmp_path / "store" / "x"
    assert made.done
    assert build.found == [["MADE_FROM.json"]]
    assert sorted(path.name for path in made.path.iterdir()) == ["DONE.json", "made.txt"]
    record = strict_json(made.path / "DONE.json")
    assert (record["key"], record["made_from"]) == (made.key, {"model": "m", "seed": 0})
    assert made.seconds == record["seconds"] >= 0
    again = artifact(made.path, Builder(), seed=0, model="m")  # the order of the keys does not matter
    assert again.done


def test_an_artifact_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    seen = []

    def build(folder: Path) -> None:
        seen.append((folder != path, path.exists()))
        (folder / "a.txt").touch()

    artifact(path, build).make()
    assert seen == [(True, False)]
    assert not path.with_name("x.partial").exists()


def test_an_interrupted_artifact_goes_on_where_it_stopped(tmp_path):
    path, broken, second = tmp_path / "x", Builder("first", fail=True), Builder("second")
    with pytest.raises(RunError, match="in the middle"):
        artifact(path, broken, seed=0).make()
    assert not path.exists()
    left = strict_json(path.with_name("x.partial") / "MADE_FROM.json")
    left["seconds"] = 100.0
    write_json(path.with_name("x.partial") / "MADE_FROM.json", left)
    made = artifact(path, second, seed=0)
    made.make()
    assert second.found == [["MADE_FROM.json", "first.txt"]]
    assert sorted(file.name for file in path.iterdir()) == ["DONE.json", "first.txt", "second.txt"]
    assert 100 <= made.seconds < 160  # the time of all attempts


@pytest.mark.parametrize("left", ['{"key": "other"}', "not json", "[]", None])
def test_what_another_key_left_is_discarded(tmp_path, left):
    path, build = tmp_path / "x", Builder()
    with pytest.raises(RunError):
        artifact(path, Builder("old", fail=True), seed=0).make()
    marker = path.with_name("x.partial") / "MADE_FROM.json"
    marker.unlink() if left is None else marker.write_text(left, encoding="utf-8")
    artifact(path, build, seed=1).make()
    assert build.found == [["MADE_FROM.json"]]
    assert not (path / "old.txt").exists()


def test_killed_before_the_renaming_nothing_is_built_again(tmp_path):
    """The partial folder was whole, its record written; only the rename was missing."""
    made = artifact(tmp_path / "x", lambda folder: (folder / "weights").write_text("1"), seed=0)
    made.make()
    (tmp_path / "x").rename(tmp_path / "x.partial")

    def build(folder: Path) -> None:
        raise AssertionError("built twice")

    artifact(tmp_path / "x", build, seed=0).make()
    assert (tmp_path / "x" / "weights").read_text() == "1"
    assert not (tmp_path / "x.partial").exists()


def test_changed_inputs_rebuild(tmp_path):
    path = tmp_path / "x"
    artifact(path, Builder("old"), seed=0).make()
    changed = artifact(path, Builder("new"), seed=1)
    assert not changed.done
    changed.make()
    assert sorted(file.name for file in path.iterdir()) == ["DONE.json", "new.txt"]
    assert not artifact(path, Builder("old"), seed=0).done


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 3}'])
def test_a_damaged_record_means_build_again(tmp_path, text):
    made = artifact(tmp_path / "x", Builder())
    made.make()
    (made.path / "DONE.json").write_text(text, encoding="utf-8")
    assert not made.done
    made.make()
    assert made.done


def test_a_failed_rebuild_keeps_what_is_there(tmp_path):
    path = tmp_path / "x"
    old = artifact(path, Builder("old"), seed=0)
    old.make()
    with pytest.raises(RunError):
        artifact(path, Builder("new", fail=True), seed=1).make()
    assert old.done
    assert (path / "old.txt").exists()


CONCURRENT = """
import sys, time
from pathlib import Path
from lume_run.common.store import Artifact

folder = Path(sys.argv[1])

def build(partial):
    with (folder / "log").open("a") as log:
        log.write("built\\n")
    (folder / "building").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    (partial / "content.txt").write_text("x" * 100)

made = Artifact(stage="train", name="target", path=folder / "x", made_from={"seed": 0}, build=build)
print(len((made.make() / "content.txt").read_text()))
"""


def test_two_processes_build_once(tmp_path):
    command = [sys.executable, "-c", CONCURRENT, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert "waiting for another process that is making" in first_line(processes)
    (tmp_path / "go").touch()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, "100"), err
    assert (tmp_path / "log").read_text() == "built\n"


def first_line(processes: list[subprocess.Popen]) -> str:
    """What the one that has to wait says; the builder says nothing until it may go on."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.stderr, selectors.EVENT_READ)
        ready = selector.select(timeout=60)
    assert ready, "neither process waits for the other"
    return ready[0][0].fileobj.readline()


def test_content_hash_is_canonical():
    assert content_hash({"a": 1, "b": [2.5, "ä"]}) == content_hash({"b": [2.5, "ä"], "a": 1})
    assert len(content_hash({})) == 16
    values = [None, 0, "0", [0], {"0": 0}, 0.5, True, "ä", "a"]
    assert len({content_hash(value) for value in values}) == len(values)


def test_fingerprint_follows_content(tmp_path, monkeypatch):
    folder, copy = tmp_path / "model", tmp_path / "copy"
    for each in (folder, copy):
        each.mkdir()
        (each / "config.json").write_text("{}", encoding="utf-8")
        (each / "weights").write_bytes(b"0123")
    before = fingerprint(str(folder))
    assert fingerprint(str(copy)) == before  # not where it stands, nor when it was written
    (folder / "weights").write_bytes(b"0124")
    changed = fingerprint(str(folder))
    (folder / "weights").rename(folder / "weights2")
    assert len({before, changed, fingerprint(str(folder))}) == 3
    monkeypatch.setattr(store, "HASHED_WHOLE_BYTES", 3)
    large = fingerprint(str(copy))
    (copy / "weights").write_bytes(b"01234")
    assert fingerprint(str(copy)) != large
    assert fingerprint("org/model") == fingerprint("org/model", deep=True) == "hub:org/model"


def test_a_deep_fingerprint_sees_folders_within(tmp_path):
    """A checkpoint in the folder is none of the model, the pooling of a sentence embedder is."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    flat, deep = fingerprint(str(tmp_path)), fingerprint(str(tmp_path), deep=True)
    assert flat == deep
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    assert fingerprint(str(tmp_path)) == flat
    assert fingerprint(str(tmp_path), deep=True) != deep


# ------------------------------------------------------------------------------------------------- gate


@pytest.mark.parametrize(
    ("accuracy", "target", "floor", "passed", "told"),
    [
        (0.371, 0.5, 0.371, True, "MMLU 0.371 against 0.371 (published threshold)"),
        (0.3709, 0.1, 0.371, False, "MMLU 0.371 against 0.371 (published threshold)"),
        (0.9, None, 0.371, True, "published threshold"),
        (0.0, None, 0.371, False, "MMLU 0.000 against 0.371"),
        (0.75, 1.0, None, True, "MMLU 0.750 against 0.750 (75% of the target's 1.000)"),
        (0.7499, 1.0, None, False, "75% of the target's 1.000"),
        (30 / 100, 40 / 100, None, True, "against 0.300"),  # although 0.75 * 0.4 > 0.3 in floating point
        (29 / 100, 40 / 100, None, False, "against 0.300"),
        (0.0, 0.0, None, True, "75% of the target's 0.000"),
        (0.5, None, None, None, "the target's own MMLU was not measured"),
        (None, 0.5, None, None, "MMLU was not measured"),
        (None, None, 0.371, None, "MMLU was not measured"),
    ],
)
def test_mmlu_gate(accuracy, target, floor, passed, told):
    found, rule = gate(accuracy, target, floor)
    assert found is passed
    assert told in rule


# ------------------------------------------------------------------------------------------------- report


def a_score(name: str, value: float | None, n: int = 4, reason: str | None = None) -> Score:
    return Score(name=name, value=value, n=n, reason=reason)


def a_report(**changes) -> Report:
    before = [
        a_score("forget.bios.regurgitation", 0.9),
        a_score("forget.bios.knowledge", 1.0),
        a_score("retain.bios.knowledge", 0.8),
        a_score("forget.knowledge", 1.0),
        a_score("mia.auc", 0.9),
        a_score("mmlu.accuracy", 0.5, n=14042),
        a_score("aggregate", None, reason="needs all three parts"),
    ]
    after = [replace(entry, value=None if entry.value is None else entry.value / 2) for entry in before]
    scores = {who: {entry.name: entry for entry in found} for who, found in (("target", before), ("unlearned", after))}
    passed, rule = gate(0.25, 0.5, None)
    fields = {
        "name": "bios-tiny-npo-01234567",
        "scores": scores,
        "gate": passed,
        "gate_rule": rule,
        "seconds": {"train": 61.234, "evaluate": 2.0},
        "manifest": MANIFEST,
        "source": "built-in generator (seed 3)",
    }
    return Report(**fields | changes)


def printed(report: Report, folder: Path, width: int = 200) -> str:
    out = io.StringIO()
    print_report(report, folder, Console(file=out, width=width))
    return out.getvalue()


def test_report_json_is_flat_and_strict(tmp_path):
    strict = {"unlearned": {"aggregate": float("nan"), "terms": [0.5, float("nan")]}}
    write_report(a_report(strict=strict), tmp_path)
    found = strict_json(tmp_path / "report.json")
    assert found["scores"]["target.forget.bios.knowledge"] == 1.0
    assert found["scores"]["unlearned.forget.bios.knowledge"] == 0.5
    assert found["scores"]["change.forget.bios.knowledge"] == -0.5
    assert found["scores"]["unlearned.aggregate"] is None
    assert "change.aggregate" not in found["scores"]
    assert found["reasons"] == {
        "target.aggregate": "needs all three parts",
        "unlearned.aggregate": "needs all three parts",
    }
    assert found["n"]["target.mmlu.accuracy"] == 14042
    assert all(value is None or isinstance(value, float) for value in found["scores"].values())
    assert found["official"] == {"unlearned": {"aggregate": "NaN", "terms": [0.5, "NaN"]}}
    assert found["mmlu_gate"] == {"passed": False, "rule": "MMLU 0.250 against 0.375 (75% of the target's 0.500)"}
    assert (found["run"], found["seed"]) == ("bios-tiny-npo-01234567", 3)
    assert (found["config_hash"], found["versions"]) == (MANIFEST["config_hash"], MANIFEST["versions"])
    assert found["seconds"] == {"train": 61.23, "evaluate": 2.0}


def test_no_report_json_rather_than_a_loose_one(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(a_report(scores={"model": {"mia.auc": a_score("mia.auc", float("nan"))}}), tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(("passed", "word"), [(True, "PASS"), (False, "FAIL"), (None, "not judged")])
def test_the_gate_shows(passed, word, tmp_path):
    report = a_report(gate=passed, gate_rule="the rule")
    for text in (markdown(report), printed(report, tmp_path)):
        assert f"MMLU gate: {word} (the rule)" in text
    assert as_json(report)["mmlu_gate"] == {"passed": passed, "rule": "the rule"}


def test_report_md_is_a_table_with_reasons():
    lines = markdown(a_report()).split("\n")
    assert "| score | wanted | before | after | change |" in lines
    assert "| --- | --- | ---: | ---: | ---: |" in lines
    assert "| forget.bios.knowledge | lower | 1.000 | 0.500 | -0.500 |" in lines
    assert "| retain.bios.knowledge | higher | 0.800 | 0.400 | -0.400 |" in lines
    assert "| mia.auc | 0.5 | 0.900 | 0.450 | -0.450 |" in lines
    assert "| aggregate | higher | n/a | n/a |  |" in lines
    assert "- n/a: aggregate: needs all three parts" in lines
    assert "- seconds: train 61.2, evaluate 2.0" in lines
    assert not any(line.startswith("| forget.knowledge") for line in lines)  # the same as the only task's own


def test_one_subject_has_no_change(tmp_path):
    report = a_report(scores={"model": a_report().scores["target"]})
    assert "| score | wanted | model |" in markdown(report).split("\n")
    assert not any(name.startswith("change.") for name in as_json(report)["scores"])
    assert "model" in printed(report, tmp_path)


def test_brackets_and_colons_are_printed_as_they_are(tmp_path):
    reason = "give stages=[train,unlearn] in file:100: [/x]"
    scores = {"model": {"aggregate": a_score("aggregate", None, reason=reason)}}
    text = printed(a_report(scores=scores, source="folder [/x]", name="[a]-run", gate_rule="[b]"), tmp_path / "[c]")
    for told in ("stages=[train,unlearn]", "[/x]", "folder [/x]", "[a]-run", "[b]", "[c]"):
        assert told in text


def outcome(**changed) -> dict:
    """What one optimisation leaves in its outcome.json."""
    fields = {"steps": 6, "planned_steps": 6, "seconds_per_step": 0.1234, "peak_memory_bytes": 3 * 2**29}
    return fields | {"diverged": None, "stopped": None} | changed


DIVERGED = outcome(steps=2, diverged="the loss is nan at step 3 (rows: forget [a])")
STOPPED = outcome(steps=4, stopped="retain NLL 3.1 reached method.stop_when.retain_nll=3 at step 4")


def test_outcomes_are_read_where_there_are_any(tmp_path):
    """A base model and responses come about without training."""
    made = [artifact(tmp_path / name, Builder()) for name in ("base", "target", "unlearned")]
    for each, own in zip(made, (None, outcome(), DIVERGED), strict=True):
        each.path.mkdir()
        if own is not None:
            write_json(each.path / "outcome.json", own)
    named = [replace(each, name=each.path.name) for each in made]
    assert outcomes(named) == {"target": outcome(), "unlearned": DIVERGED}


def test_only_an_early_end_is_warned_of():
    assert ending_warnings({}) == ending_warnings({"target": outcome(), "unlearned": outcome()}) == ()
    assert ending_warnings({"target": outcome(), "adapter 1": STOPPED, "unlearned": DIVERGED}) == (
        f"adapter 1 STOPPED: {STOPPED['stopped']}, after 4 of 6 steps",
        f"unlearned DIVERGED: {DIVERGED['diverged']}, after 2 of 6 steps",
    )


def test_the_report_says_how_training_went(tmp_path):
    training = {"target": outcome(), "unlearned": DIVERGED}
    report = a_report(manifest={**MANIFEST, "training": training}, warnings=ending_warnings(training))
    write_report(report, tmp_path)
    found = strict_json(tmp_path / "report.json")
    assert found["training"] == training
    warning = "unlearned DIVERGED: the loss is nan at step 3 (rows: forget [a]), after 2 of 6 steps"
    assert found["warnings"] == [warning]
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").split("\n")
    assert f"- {warning}" in lines
    assert "- target: 6 steps, 0.123 s each, peak memory 1.50 GiB" in lines
    assert warning in printed(report, tmp_path)  # brackets and all
    assert as_json(a_report())["training"] == {}


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (outcome(peak_memory_bytes=None), "- target: 6 steps, 0.123 s each"),
        (
            outcome(seconds_per_step=12.345, peak_memory_bytes=2**30),
            "- target: 6 steps, 12.3 s each, peak memory 1.00 GiB",
        ),
        (outcome(seconds_per_step=None), None),  # resumed after its last step: none was timed
    ],
)
def test_what_was_not_measured_is_not_told(own, told):
    lines = markdown(a_report(manifest={**MANIFEST, "training": {"target": own}})).split("\n")
    found = [line for line in lines if line.startswith("- target:")]
    assert found == ([told] if told else [])


# ------------------------------------------------------------------------------------- groups, noise, costs


DOCUMENTS = ["d0", "d1"]


def measured(name: str, first: float, second: float) -> Score:
    """The mean over two documents with its interval; resamples have the mean, or either document alone."""
    column = Column.of([first, second], DOCUMENTS)
    return Bootstrap(resamples=200).score(name, 2, lambda: mean_of(column))


# (before, after) of the two documents each
PAIRS = {
    "mine.own": ((0.2, 0.2), (0.3, 0.3)),
    "aggregate": ((0.5, 0.5), (0.75, 0.75)),
    "mmlu.accuracy": ((0.0, 1.0), (1.0, 0.0)),  # one document up, the other down: no change that stands out
    "mia.auc": ((0.9, 0.9), (0.6, 0.6)),
    "retain.bios.knowledge": ((0.75, 0.75), (0.5, 0.5)),
    "forget.bios.knowledge": ((1.0, 1.0), (0.0, 0.5)),
    "perplexity": ((2000.0, 2000.0), (20.0, 40.0)),
}


def grouped_report(**changes) -> Report:
    """A score of every group, in another order than that of the report."""
    scores = {
        who: {name: measured(name, *pair[place]) for name, pair in PAIRS.items()}
        for place, who in enumerate(("target", "unlearned"))
    }
    return a_report(**{"scores": scores} | changes)


def rows_of(report: Report) -> list[str]:
    return [line for line in markdown(report).split("\n") if line.startswith("|")]


def test_scores_stand_in_their_groups():
    assert rows_of(grouped_report())[2:] == [
        "| **forget** | | | | |",
        "| forget.bios.knowledge | lower | 1.000 [1.000, 1.000] | 0.250 [0.000, 0.500] | -0.750 [-1.000, -0.500] |",
        "| **retain** | | | | |",
        "| retain.bios.knowledge | higher | 0.750 [0.750, 0.750] | 0.500 [0.500, 0.500] | -0.250 [-0.250, -0.250] |",
        "| **privacy** | | | | |",
        "| mia.auc | 0.5 | 0.900 [0.900, 0.900] | 0.600 [0.600, 0.600] | -0.300 [-0.300, -0.300] |",
        "| **utility** | | | | |",
        "| mmlu.accuracy | higher | 0.500 [0.000, 1.000] | 0.500 [0.000, 1.000] | +0.000 [-1.000, 1.000] ~ |",
        "| perplexity | lower | 2,000 [2,000, 2,000] | 30.000 [20.000, 40.000] | -1,970 [-1,980, -1,960] |",
        "| **overall** | | | | |",
        "| aggregate | higher | 0.500 [0.500, 0.500] | 0.750 [0.750, 0.750] | +0.250 [0.250, 0.250] |",
        "| **other** | | | | |",
        "| mine.own |  | 0.200 [0.200, 0.200] | 0.300 [0.300, 0.300] | +0.100 [0.100, 0.100] |",
    ]


def test_intervals_and_noise_are_data(tmp_path):
    write_report(grouped_report(), tmp_path)
    found = strict_json(tmp_path / "report.json")
    assert found["intervals"]["target.mmlu.accuracy"] == [0.0, 1.0]
    assert found["intervals"]["change.mmlu.accuracy"] == [-1.0, 1.0]
    assert found["intervals"]["change.forget.bios.knowledge"] == [-1.0, -0.5]
    assert len(found["intervals"]) == 3 * len(PAIRS)
    assert found["inside_noise"] == ["mmlu.accuracy"]
    assert found["costs"] == {}
    told = f"- {NOISE_TOLD}"
    assert (tmp_path / "report.md").read_text(encoding="utf-8").split("\n").count(told) == 1


def test_without_intervals_nothing_is_called_noise(tmp_path):
    """No score changes here, yet nobody knows how far it could have by chance."""
    report = a_report()
    same = replace(report, scores={"target": report.scores["target"], "unlearned": report.scores["target"]})
    assert same.change("mia.auc") == 0.0
    assert as_json(same)["intervals"] == {}
    assert as_json(same)["inside_noise"] == []
    for text in (markdown(same), printed(same, tmp_path)):
        assert "~" not in text
        assert "[low, high]" not in text


@pytest.mark.parametrize(("width", "told"), [(109, "0.250"), (110, "0.250 [0.000, 0.500]")])
def test_a_wide_terminal_has_room_for_intervals(width, told, tmp_path):
    text = printed(grouped_report(), tmp_path, width=width)
    row = next(line.split() for line in text.split("\n") if line.split()[:1] == ["forget.bios.knowledge"])
    assert row == ["forget.bios.knowledge", "lower", "1.000", *told.split(), "-0.750"]
    noisy = next(line.split() for line in text.split("\n") if line.split()[:1] == ["mmlu.accuracy"])
    assert noisy[-2:] == ["+0.000", "~"]
    assert text.count(NOISE_TOLD) == 1
    assert ("95 % bootstrap interval over documents" in text) == (width == 110)
    heads = [line.strip() for line in text.split("\n") if line.strip() in set(map(str, shown(grouped_report())))]
    assert heads == ["forget", "retain", "privacy", "utility", "overall", "other"]


def test_a_narrow_terminal_loses_no_digit(tmp_path):
    text = printed(grouped_report(), tmp_path, width=80)
    assert "…" not in text
    assert "-1,970" in text


def test_a_narrow_terminal_has_room_for_the_names_of_headlines(tmp_path):
    """Three models and a change; 27 letters are the longest name of a headline."""
    name = "closer_look.forget_efficacy"
    scores = {who: {name: measured(name, 0.25, 0.5)} for who in ("target", "unlearned", "retrained")}
    text = printed(a_report(scores=scores), tmp_path, width=80)
    assert [name, "higher", "0.375", "0.375", "0.375", "+0.000", "~"] in [line.split() for line in text.split("\n")]


MANY = [f"closer_look.{one}.{mean}" for one in ("forget", "retain") for mean in ("rouge", "cosine", "probability")]
MANY += [f"pii.forget.hint{n}.email.exact" for n in range(40)] + [
    "closer_look.forget_efficacy",
    "forget.bios.knowledge",
]


def test_of_many_scores_a_terminal_shows_the_headlines_first(tmp_path):
    """48 names: without the 40 variants they fit."""
    report = a_report(scores={"model": {name: a_score(name, 0.5) for name in MANY}})
    text = printed(report, tmp_path)
    assert "40 more scores in report.md" in text
    assert "hint3" not in text
    assert all(name in text for name in (MANY[0], "closer_look.forget_efficacy", "forget.bios.knowledge"))
    assert all(f"| {name} | " in markdown(report) for name in MANY)
    few = a_report(scores={"model": {name: a_score(name, 0.5) for name in MANY[:40]}})
    assert "more scores" not in printed(few, tmp_path)
    assert sum(map(len, shown(report, most=0).values())) == 2  # the score of the only task is a headline too


def test_both_papers_together_still_show_what_became_of_forget_and_retain_set(tmp_path):
    """42 names on four sets: real authors and world facts make room."""
    means = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine", "entailment")
    sets = ("forget", "retain", "real_authors", "world_facts")
    names = [f"closer_look.{one}.{mean}" for one in sets for mean in means]
    names += [f"tofu.{one}.{mean}" for one in sets for mean in means[:3]]
    names += [
        f"{one}.{mean}" for one in sets[:2] for mean in ("probability", "exact_memorisation", "extraction_strength")
    ]
    report = a_report(scores={"model": {name: a_score(name, 0.5) for name in names}})
    left = [name for own in shown(report, most=40).values() for name in own]
    assert sorted(left) == sorted(name for name in names if "real_" not in name and "world_" not in name)


def test_reasons_take_a_line_each(tmp_path):
    """A reason that holds another one is told without it, and many names are not all told."""
    cosines = [a_score(f"closer_look.{name}.cosine", None, reason="no embedder: pip install it") for name in "abcde"]
    parts = [
        *cosines,
        a_score("closer_look.model_utility", None, reason="needs closer_look.a.cosine: no embedder: pip install it"),
    ]
    report = a_report(scores={"model": {entry.name: entry for entry in parts}})
    told = [line for line in markdown(report).split("\n") if line.startswith("- n/a")]
    assert told == [
        "- n/a: closer_look.a.cosine, closer_look.b.cosine, closer_look.c.cosine and 2 more: no embedder: "
        "pip install it",
        "- n/a: closer_look.model_utility: needs closer_look.a.cosine",
    ]
    assert as_json(report)["reasons"]["model.closer_look.model_utility"] == parts[-1].reason


COSTS = {
    "target": {
        "asks": {
            "generate": {"prompts": 144, "passes": 10, "tokens": 1234, "seconds": 3.04},
            "logprob": {"prompts": 24, "passes": 2, "tokens": 0, "seconds": 0.4},
        },
        "suites": {"lume": {"generate": 144, "logprob": 24, "tokens": 1234}, "mia": {"logprob": 24, "tokens": 0}},
        "alone": {"prompts": 192},
        "shared": {"prompts": 24},
    },
    "unlearned": {"asks": {}, "suites": {"lume": {"generate": 2, "tokens": 9}}, "shared": {"prompts": 0}},
}


def test_the_report_says_what_was_asked(tmp_path):
    report = a_report(costs=COSTS)
    lines = markdown(report).split("\n")
    before = "asked before: 168 prompts (lume 168, mia 24; 24 shared), 1,234 tokens generated, 12 passes, 3.4 s"
    for told in (before, "asked after: 2 prompts (lume 2)"):
        assert f"- {told}" in lines
        assert told in printed(report, tmp_path)
    assert "| before | generate | 144 | 10 | 1,234 | 3.0 |" in lines
    assert "| before | mia | 24 | 0 |" in lines
    assert "| after | lume | 2 | 9 |" in lines
    assert as_json(report)["costs"] == COSTS
    assert "What the models were asked" not in markdown(a_report())


def test_the_plot_shows_headlines(tmp_path):
    pytest.importorskip("matplotlib")
    report = grouped_report()
    assert panels_of(report) == [
        ("forget", ["forget.bios.knowledge"]),
        ("retain", ["retain.bios.knowledge"]),
        ("privacy", ["mia.auc"]),
        ("utility", ["mmlu.accuracy"]),
        ("utility", ["perplexity"]),  # on a scale of its own
        ("overall", ["aggregate"]),
        ("other", ["mine.own"]),
    ]
    write_report(report, tmp_path)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "![scores before and after](report.png)" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("forget.bios.knowledge", BETTER),
        ("retain.bios.knowledge", WORSE),
        ("mia.auc", BETTER),  # 0.6 is nearer to 0.5 than 0.9
        ("mmlu.accuracy", NOISE),
        ("perplexity", BETTER),
        ("mine.own", AFTER),  # nobody knows which way is good
    ],
)
def test_colours_say_which_way_it_went(name, color):
    assert color_of(grouped_report(), name) == color


def test_without_matplotlib_there_is_no_plot(tmp_path, monkeypatch):
    (tmp_path / "report.png").write_bytes(b"of an earlier report")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_report(grouped_report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert "report.png" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_plot_of_nothing_is_not_drawn(tmp_path):
    write_report(a_report(scores={}), tmp_path)
    write_report(a_report(scores={"model": {"aggregate": a_score("aggregate", None, reason="no")}}), tmp_path)
    assert not (tmp_path / "report.png").exists()


def test_write_json_leaves_no_temporary_file(tmp_path):
    write_json(tmp_path / "a.json", {"ä": Path("x")})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ä": "x"\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# --------------------------------------------------------------------------------------- responses to a report


def text_row(split: Split, kind: Kind, number: int, output: str) -> Response:
    return Response(
        id=f"{split}{number}{'sc1' if kind is Kind.COMPLETION else 'qa0'}",
        ask=Ask.GENERATE,
        split=split,
        subtask="bios",
        kind=kind,
        document=f"{split}{number}",
        prompt="p",
        expected="one two",
        output=output,
    )


def document_row(split: Split, number: int, logp: float) -> Response:
    row = text_row(split, Kind.COMPLETION, number, "")
    return replace(row, ask=Ask.LOGPROB, kind=Kind.DOCUMENT, output=None, tokens=2, logp_sum=logp)


def mmlu_row(number: int, right: bool) -> Response:
    logps = (-1.0, -2.0, -2.0, -2.0) if right else (-2.0, -1.0, -2.0, -2.0)
    return Response(
        id=f"mmlu-astronomy-{number}",
        ask=Ask.CHOICE,
        split=Split.MMLU,
        subtask="astronomy",
        kind=Kind.CHOICE,
        document=f"mmlu-astronomy-{number}",
        prompt="p",
        expected="A",
        choices=("A", "B", "C", "D"),
        choice_logps=logps,
    )


def answers(*, right: int, forget: str = "one two", membership: bool = True, mmlu: bool = True) -> list[Response]:
    """A whole set of responses: `right` of 8 MMLU questions, `forget` as the answer to every forget prompt."""
    kinds = (Kind.COMPLETION, Kind.QUESTION)
    rows = [text_row(Split.FORGET, kind, number, forget) for kind in kinds for number in range(2)]
    rows += [text_row(Split.RETAIN, kind, number, "one two") for kind in kinds for number in range(2)]
    if membership:
        rows += [document_row(Split.MEMBER, number, -1.0 - number) for number in range(2)]
        rows += [document_row(Split.NONMEMBER, number, -1.5 - number) for number in range(2)]
    return rows + [mmlu_row(number, number < right) for number in range(8 if mmlu else 0)]


def finished(folder: Path, responses: dict[str, list[Response]], *overrides: str) -> dict:
    settings, _ = checked(compose([f"output_dir={folder}", *overrides], [conf_dir()]))
    finish(settings, folder, MANIFEST, responses, {"evaluate": 1.0}, "a test")
    return strict_json(folder / "report.json")


@pytest.mark.parametrize(
    ("overrides", "right", "passed"),
    [((), 6, True), ((), 5, False), (("model.mmlu_gate=0.371",), 3, True), (("model.mmlu_gate=0.371",), 2, False)],
)
def test_responses_to_report(tmp_path, overrides, right, passed):
    responses = {"target": answers(right=8), "unlearned": answers(right=right, forget="three")}
    found = finished(tmp_path, responses, *overrides)
    assert found["scores"]["target.forget.bios.knowledge"] == 1.0
    assert found["scores"]["unlearned.forget.bios.knowledge"] == 0.0
    assert found["scores"]["unlearned.retain.bios.regurgitation"] == 1.0
    assert found["scores"]["unlearned.mmlu.accuracy"] == right / 8
    assert found["scores"]["unlearned.task_aggregate"] == 1.0
    assert found["scores"]["target.mia.auc"] == 0.75
    assert found["scores"]["unlearned.aggregate"] == pytest.approx((1 + right / 8 + 0.5) / 3)
    assert found["reasons"] == {}
    assert found["mmlu_gate"]["passed"] is passed
    assert f"MMLU gate: {'PASS' if passed else 'FAIL'}" in (tmp_path / "report.md").read_text(encoding="utf-8")
    scores = strict_json(tmp_path / "scores.unlearned.json")
    assert scores["scores"]["forget.bios.knowledge"] == 0.0
    assert scores["n"]["mmlu.accuracy"] == 8


def test_a_missing_part_is_null_with_a_reason(tmp_path):
    found = finished(tmp_path, {"unlearned": answers(right=0, mmlu=False)})
    assert found["scores"]["unlearned.mmlu.accuracy"] is found["scores"]["unlearned.aggregate"] is None
    assert "evaluator.mmlu.data_dir" in found["reasons"]["unlearned.aggregate"]
    assert found["mmlu_gate"] == {"passed": None, "rule": "MMLU was not measured"}
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "MMLU gate: not judged (MMLU was not measured)" in text
    assert "| aggregate | higher | n/a |" in text
    own = strict_json(tmp_path / "scores.unlearned.json")
    assert own["scores"]["aggregate"] is None
    assert own["reasons"]["aggregate"]


def test_without_members_the_aggregate_says_so(tmp_path):
    found = finished(tmp_path, {"model": answers(right=8, membership=False)})
    assert found["scores"]["model.mia.score"] is None
    assert "mia.score: no member or nonmember documents" in found["reasons"]["model.aggregate"]
    assert found["mmlu_gate"] == {"passed": None, "rule": "the target's own MMLU was not measured"}


def test_strict_is_scored_on_demand():
    responses = answers(right=8)
    scores, official = score(Answers(responses=responses, evaluator=EvaluatorSettings()))
    assert official is None
    again, official = score(Answers(responses=responses, evaluator=EvaluatorSettings(strict=True)))
    assert again == scores
    assert official


# ------------------------------------------------------------------------------------------------- read_responses


def test_responses_are_read_back(tmp_path):
    responses = answers(right=3)
    write_jsonl(tmp_path / "responses.jsonl", responses)
    assert read_responses(tmp_path / "responses.jsonl") == responses


def test_every_bad_line_is_named(tmp_path):
    good = json.loads(to_json(text_row(Split.FORGET, Kind.QUESTION, 0, "x")))
    lines = [
        good,
        "not json",
        "",
        {key: value for key, value in good.items() if key != "expected"},
        good | {"ask": "sing"},
        good | {"surprise": 1},
        [1],
        {key: value for key, value in good.items() if key not in ("kind", "document")} | {"id": "nothing"},
    ]
    path = tmp_path / "responses.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_responses(path)
    assert [problem.where for problem in caught.value.problems] == [f"{path}:{number}" for number in (2, 4, 5, 6, 7, 8)]
    assert all(problem.what and problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(("content", "told"), [(b"", "holds no"), (b"\n\n", "holds no"), (b"\xff\xfe", "is not text")])
def test_a_file_that_holds_no_responses(tmp_path, content, told):
    (tmp_path / "responses.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_responses(tmp_path / "responses.jsonl")


# ------------------------------------------------------------------------------------------------- MMLU


def write_mmlu(folder: Path, subject: str = "high_school_physics", *, dev: str, test: str) -> Path:
    for part, text in (("dev", dev), ("test", test)):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"{subject}_{part}.csv").write_text(text, encoding="utf-8")
    return folder


DEV = 'What falls?,stones,"ideas, mostly",light,nothing,A\n"Say ""mass""",m,k,g,s,B\n'
TEST = "What is hot?,ice,fire,snow,fog,B\nWhat is cold?,ice,fire,sun,tea,A\nWhat is wet?,sand,rock,rain,salt, C \n"
HEAD = "The following are multiple choice questions (with answers) about  high school physics.\n\n"
SHOT_1 = "What falls?\nA. stones\nB. ideas, mostly\nC. light\nD. nothing\nAnswer: A\n\n"
SHOT_2 = 'Say "mass"\nA. m\nB. k\nC. g\nD. s\nAnswer: B\n\n'
ASKED = "What is hot?\nA. ice\nB. fire\nC. snow\nD. fog\nAnswer:"


@pytest.mark.parametrize(
    ("shots", "prompt"),
    [(0, HEAD + ASKED), (1, HEAD + SHOT_1 + ASKED), (5, HEAD + SHOT_1 + SHOT_2 + ASKED)],
)
def test_mmlu_prompt(tmp_path, shots, prompt):
    examples = load_mmlu(data_dir=str(write_mmlu(tmp_path, dev=DEV, test=TEST)), hub_id=None, limit=None, shots=shots)
    assert examples[0].prompt == prompt
    assert [example.answer for example in examples] == ["B", "A", "C"]
    assert {example.choices for example in examples} == {("A", "B", "C", "D")}
    assert {(example.split, example.kind, example.subtask) for example in examples} == {
        (Split.MMLU, Kind.CHOICE, "high_school_physics")
    }
    assert len({example.id for example in examples}) == 3


def test_mmlu_limit_is_per_subject(tmp_path):
    write_mmlu(tmp_path, "anatomy", dev=DEV, test=TEST)
    write_mmlu(tmp_path, "virology", dev=DEV, test=TEST)
    mmlu = MmluSettings(data_dir=str(tmp_path), limit=2, shots=0)
    counts = Counter(example.subtask for example in mmlu_examples(EvaluatorSettings(mmlu=mmlu)))
    assert counts == {"anatomy": 2, "virology": 2}
    assert mmlu_examples(EvaluatorSettings()) == []


def test_mmlu_bad_lines_are_named(tmp_path):
    test = 'good,a,b,c,d,A\ntoo,few,B\n"two\nlines",a,b,c,d,A\ngood,a,b,c,d,E\n'
    write_mmlu(tmp_path, dev="only,three,C\n", test=test)
    with pytest.raises(DataError) as caught:
        load_mmlu(data_dir=str(tmp_path), hub_id=None, limit=None, shots=5)
    name = "high_school_physics"
    assert [problem.where for problem in caught.value.problems] == [
        f"{tmp_path}/dev/{name}_dev.csv:1",
        f"{tmp_path}/test/{name}_test.csv:2",
        f"{tmp_path}/test/{name}_test.csv:5",
    ]
    assert "3 columns" in caught.value.problems[0].what


def test_mmlu_without_its_files(tmp_path):
    write_mmlu(tmp_path, dev=DEV, test=TEST)
    (tmp_path / "dev" / "high_school_physics_dev.csv").unlink()
    with pytest.raises(DataError, match=r"high_school_physics_dev\.csv: missing"):
        load_mmlu(data_dir=str(tmp_path), hub_id=None, limit=None, shots=5)
    (tmp_path / "test" / "high_school_physics_test.csv").unlink()
    assert "no test/*_test.csv" in check_folder(tmp_path)[0].what
    with pytest.raises(DataError, match="no test/"):
        load_mmlu(data_dir=str(tmp_path), hub_id=None, limit=None, shots=5)


def test_mmlu_from_the_hub_reads_the_same(tmp_path, monkeypatch):
    def rows(question: str, options: str, answer: int) -> dict:
        return {"subject": "high_school_physics", "question": question, "choices": options.split(), "answer": answer}

    parts = {"dev": [rows("What falls?", "stones air light nothing", 0)], "test": [rows("Hot?", "a b c d", 3)]}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda hub_id, name: parts))
    hub = load_mmlu(data_dir=None, hub_id="cais/mmlu", limit=None, shots=5)
    folder = write_mmlu(tmp_path, dev="What falls?,stones,air,light,nothing,A\n", test="Hot?,a,b,c,d,D\n")
    assert hub == load_mmlu(data_dir=str(folder), hub_id=None, limit=None, shots=5)


def test_mmlu_out_of_reach(monkeypatch):
    def fail(hub_id: str, name: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(RunError, match=r"(?s)'cais/mmlu'.*no route.*HF_TOKEN.*HF_HOME.*evaluator.mmlu.data_dir="):
        load_mmlu(data_dir=None, hub_id="cais/mmlu", limit=None, shots=5)


@pytest.mark.skipif(not MMLU.is_dir(), reason=f"the real MMLU is not at {MMLU}")
def test_mmlu_in_full():
    examples = load_mmlu(data_dir=str(MMLU), hub_id=None, limit=None, shots=5)
    assert len(examples) == len({example.id for example in examples}) == 14042
    assert len({example.subtask for example in examples}) == 57
    assert all(example.prompt.count("\nAnswer:") >= 6 for example in examples)
    assert {example.answer for example in examples} == {"A", "B", "C", "D"}
    first = next(example for example in examples if example.subtask == "abstract_algebra")
    assert first.prompt.startswith(
        "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
        "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer: B\n\n"
    )
    assert first.prompt.endswith("over Q.\nA. 0\nB. 4\nC. 2\nD. 6\nAnswer:")
