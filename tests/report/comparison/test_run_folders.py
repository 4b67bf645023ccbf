"""Run folders read back: what lume-run writes, what it left unfinished, and what nobody should trust."""

from __future__ import annotations

import json

import pytest
import yaml
from helpers import sweeps
from helpers.shared import ROOT

from lume_run.common.records import Score
from lume_run.report.comparison.curves import training_curves
from lume_run.report.comparison.run_folders import collect_runs, find_run_folders, read_run
from lume_run.report.comparison.untrusted import finite_number, flatten
from lume_run.report.results import Report
from lume_run.report.write import write_report


def test_what_a_run_writes_is_read_back(tmp_path):
    """The report comes from lume-run's own writer, so a change of its keys is seen here."""
    folder = sweeps.write_run(tmp_path, sweeps.config("gd", seed=3), None)
    manifest = json.loads((folder / "manifest.json").read_text())
    outcome = {"steps": 4, "planned_steps": 9, "seconds_per_step": 0.5, "peak_memory_bytes": 2**31}
    values = {"target": {"forget.knowledge": 1.0}, "unlearned": {"forget.knowledge": 0.25, "mmlu.accuracy": None}}
    report = Report(
        name=folder.name,
        scores={
            who: {
                name: Score(name=name, value=value, n=4, reason=None if value is not None else "no data")
                for name, value in scores.items()
            }
            for who, scores in values.items()
        },
        gate=False,
        gate_rule="below 0.371",
        seconds={"unlearn": 7.0},
        manifest={
            **manifest,
            "versions": {},
            "training": {"unlearned": {**outcome, "diverged": "nan", "stopped": None}},
        },
        source="made up",
        warnings=("watch out",),
    )
    write_report(report, folder)
    run = read_run(folder)
    assert run is not None
    assert (run.task, run.model, run.method, run.seed, run.state) == ("bios", "tiny", "gd", 3, "diverged")
    assert run.scores == {"target": {"forget.knowledge": 1.0}, "unlearned": {"forget.knowledge": 0.25}}
    assert (run.subject, run.gate, run.gate_rule, run.warnings) == ("unlearned", False, "below 0.371", ("watch out",))
    assert run.error == "unlearned diverged: nan"
    assert run.seconds == {"unlearn": 7.0}
    assert run.training["unlearned"]["steps"] == 4
    assert run.key == manifest["config_hash"][:8]
    assert run.config["trainer.unlearn.learning_rate"] == 1e-4


def test_states(tmp_path):
    config = sweeps.config()
    good = sweeps.scores(0.1, 0.9)
    folders = {
        "done": sweeps.write_run(tmp_path, config, good, name="a"),
        "diverged": sweeps.write_run(tmp_path, config, good, name="b", diverged="the loss was nan"),
        "failed": sweeps.write_run(tmp_path, config, None, name="c", error="no memory\ntake less"),
        "unfinished": sweeps.write_run(tmp_path, config, None, name="d"),
    }
    runs = {state: read_run(folder) for state, folder in folders.items()}
    assert {state: run.state for state, run in runs.items()} == {state: state for state in folders}
    assert runs["failed"].error == "no memory\ntake less"
    assert runs["failed"].scores == {}
    assert runs["diverged"].scores["unlearned"]["forget.knowledge"] == 0.1
    (folders["done"] / "error.json").write_text(json.dumps({"error": "of an earlier attempt"}))
    assert read_run(folders["done"]).state == "done"
    (folders["done"] / "report.json").write_text('{"scores": {"unlearned.forg')
    damaged = read_run(folders["done"])
    assert damaged.state == "failed" and damaged.error.startswith("report.json cannot be read: ")


def test_of_copies_a_finished_run_is_kept_and_of_those_the_newest(tmp_path):
    config, other = sweeps.config(), sweeps.config(seed=1)
    old = sweeps.write_run(tmp_path / "one", config, sweeps.scores(0.5, 0.9), started="2026-11-20T10:00:00+0000")
    new = sweeps.write_run(tmp_path / "two", config, sweeps.scores(0.2, 0.9), started="2026-11-21T01:00:00+0900")
    failed = sweeps.write_run(tmp_path / "three", config, None, error="late", started="2026-11-22T10:00:00+0000")
    alone = sweeps.write_run(tmp_path / "three", other, None, error="disk full")
    collection = collect_runs([tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    assert [run.folder for run in collection.runs] == [new, alone]
    assert collection.runs[0].scores["unlearned"]["forget.knowledge"] == 0.2
    assert [note.split(" is ")[0] for note in collection.notes] == [str(old), str(failed)]
    assert str(new) in collection.notes[0]


def test_a_run_without_a_manifest_is_known_by_its_name(tmp_path):
    config = sweeps.config()
    killed = sweeps.write_run(tmp_path / "one", config, None)
    (killed / "manifest.json").unlink()
    done = sweeps.write_run(tmp_path / "two", config, sweeps.scores(0.2, 0.9))
    assert [run.folder for run in collect_runs([tmp_path]).runs] == [done]


def test_where_runs_are_looked_for(tmp_path):
    inner = sweeps.write_run(tmp_path / "sweeps" / "night", sweeps.config(), None, name="inner")
    for elsewhere in ("store/target", ".hidden"):
        sweeps.write_run(tmp_path / elsewhere, sweeps.config(), None, name="no")
    (inner / ".hydra").mkdir()
    (inner / ".hydra" / "config.yaml").write_text("seed: 0\n")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "again").symlink_to(inner, target_is_directory=True)
    (linked / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert list(find_run_folders([tmp_path / "sweeps", tmp_path, linked])) == [inner]
    assert [folder.resolve() for folder in find_run_folders([linked])] == [inner.resolve()]
    assert list(find_run_folders([inner])) == [inner]


def test_configs_of_something_else_are_no_runs():
    assert [folder.name for folder in find_run_folders([ROOT / "conf"])] == ["conf"]
    assert collect_runs([ROOT / "conf"]).runs == ()


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch {marker}']\n",
        "a: !!python/name:os.system\n",
        "x: &x [1, 2]\ny: [*x, *x]\n",
        "[not, a, mapping]\n",
        "task: {\n",
        "a: " + "[" * 20_000 + "\n",
    ],
)
def test_a_hostile_config_runs_nothing_and_is_an_error(tmp_path, text):
    folder, marker = tmp_path / "run", tmp_path / "marker"
    folder.mkdir()
    (folder / "config.yaml").write_text(text.replace("{marker}", str(marker)), encoding="utf-8")
    run = read_run(folder)
    assert (run.state, run.scores) == ("failed", {})
    assert run.error.startswith("config.yaml cannot be read: ")
    assert not marker.exists()


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    folder = sweeps.write_run(tmp_path, sweeps.config(), sweeps.scores(0.1, 0.9))
    report = json.loads((folder / "report.json").read_text())
    report["scores"] |= {
        "unlearned.a": float("nan"),
        "unlearned.b": float("inf"),
        "unlearned.c": True,
        "unlearned.d": "0.5",
        "unlearned.e": None,
        "elsewhere.f": 0.5,
        "unlearned.g": 1,
    }
    report |= {"warnings": "none", "seconds": [], "training": {"unlearned": 3}, "mmlu_gate": "?"}
    (folder / "report.json").write_text(json.dumps(report))
    run = read_run(folder)
    assert set(run.scores["unlearned"]) - set(sweeps.scores(0.1, 0.9)) == {"g"}
    assert (run.warnings, run.seconds, run.training, run.gate) == ((), {}, {}, None)
    assert [finite_number(value) for value in (1, 1.5, True, "1", float("nan"), 10**400)] == [
        1.0,
        1.5,
        None,
        None,
        None,
        None,
    ]


def test_names_are_cut_to_what_prints(tmp_path):
    config = sweeps.config("bad\x00\x1b[31m\nname" + "x" * 200)
    folder = sweeps.write_run(tmp_path, config, None, name="run", error="half a pair \ud800" + "e" * 9000)
    run = read_run(folder)
    assert run.method.startswith("bad??[31m?name")
    assert len(run.method) == 80
    assert run.error.encode()
    assert len(run.error) == 2000


def test_flat_paths():
    node = {"a": {"b": 1, "c": []}, "d": [1, 2], "e": [{"f": None}, {"f": float("inf")}], "g": {}}
    assert flatten(node) == {"a.b": 1, "a.c": [], "d": [1, 2], "e.0.f": None, "e.1.f": "inf"}


def test_curves_are_means_of_neighbours(tmp_path):
    folder = sweeps.write_run(tmp_path, sweeps.config(), sweeps.scores(0.1, 0.9))
    (folder / "unlearned").mkdir()
    steps = [{"step": at, "forget_nll": float(at), "loss": float("nan") if at == 2 else 1.0} for at in range(1, 6)]
    (folder / "unlearned" / "history.json").write_text(json.dumps(steps))
    curves = training_curves(read_run(folder), 2)
    assert curves["forget_nll"] == [[2.0, 2.0], [4.5, 4.5]]
    assert curves["loss"] == [[2.0, 1.0], [4.5, 1.0]]  # steps 1, 3 and 4, 5
    assert set(curves) == {"forget_nll", "loss"}


def test_configs_are_read_as_written(tmp_path):
    folder = sweeps.write_run(tmp_path, sweeps.config(rate=1e-5), None)
    assert "1.0e-05" in (folder / "config.yaml").read_text()
    assert read_run(folder).config["trainer.unlearn.learning_rate"] == 1e-5
    assert yaml.safe_load((folder / "config.yaml").read_text())["method"]["name"] == "npo_gd"
