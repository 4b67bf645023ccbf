"""Searches: what Optuna samples from, that a killed search resumes, how trials end, a real one with two objectives."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers import warm
from helpers.shared import ROOT
from helpers.sweeps import SMALL, config, scores, summary_counts, write_run
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lume_run.common.errors import ConfigError, RunError
from lume_run.sweeps.runner import Job

optuna = pytest.importorskip("optuna")

from lume_run.sweeps.search import Space, check_space, distributions
from lume_run.sweeps.settings import GridSettings, SearchSettings, check_grid, check_launcher, sweeper_settings
from lume_run.sweeps.study import (
    best_trials,
    directions,
    distribution,
    load_study,
    record_trial,
    write_results,
)

pytestmark = pytest.mark.slow

SETTINGS = SearchSettings(n_trials=3, sampler="random")
NAMES = ["forget.knowledge", "retain.knowledge"]
SPACE = {"seed": optuna.distributions.IntDistribution(0, 9)}
State = optuna.trial.TrialState


def distribution_of(override: str):
    return distribution(OverridesParser.create().parse_override(override))


def test_overrides_become_distributions():
    kinds = optuna.distributions
    assert distribution_of("method=ga,npo") == kinds.CategoricalDistribution(["ga", "npo"])
    assert distribution_of("method=choice(ga,npo)") == kinds.CategoricalDistribution(["ga", "npo"])
    assert distribution_of("stages=[train],[train,unlearn]").choices == ("[train]", "[train,unlearn]")
    assert distribution_of("seed=range(0,7,2)") == kinds.IntDistribution(0, 6, step=2)
    assert distribution_of("seed=range(0.5,2)").choices == ("0.5", "1.5")
    assert distribution_of("x=int(interval(1,4))") == kinds.IntDistribution(1, 4)
    assert distribution_of("x=interval(0.1,4)") == kinds.FloatDistribution(0.1, 4)
    assert distribution_of("x=tag(log,interval(1e-5,1e-3))") == kinds.FloatDistribution(1e-5, 1e-3, log=True)


def test_directions_come_from_the_catalogue():
    assert directions(SETTINGS, ["forget.knowledge", "retain.knowledge", "task_aggregate"]) == [
        "minimize",
        "maximize",
        "maximize",
    ]
    assert directions(replace(SETTINGS, direction="minimize"), ["made.up"]) == ["minimize"]


@pytest.mark.parametrize(
    ("changed", "space", "names", "message"),
    [
        ({}, {}, NAMES, "nothing to search over"),
        ({}, SPACE, ["made.up"], "it is not known whether made.up is to fall or to rise"),
        ({"direction": "minimize"}, SPACE, NAMES, "1 directions for 2 objectives"),
        ({"direction": "down"}, SPACE, NAMES[:1], "down forget.knowledge"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(changed, space, names, message):
    with pytest.raises(ConfigError, match=message):
        check_space(replace(SETTINGS, **changed), Space(fixed=[], distributions=space, objectives=names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "best"}, "hydra.sweeper.sampler: unknown value 'best'"),
        ({"n_trials": 0}, "hydra.sweeper.n_trials: 0 is out of range"),
        ({"n_jobs": "many"}, "hydra.sweeper.n_jobs: expected a whole number"),
        ({"trials": 3}, "hydra.sweeper.trials: unknown key"),
        ({"study_name": "../x"}, "hydra.sweeper: study_name is '../x'"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        sweeper_settings(SearchSettings, options)


@pytest.mark.parametrize(
    ("launcher", "options", "message"),
    [
        ("JoblibLauncher", {"n_jobs": 0}, "n_jobs is 0"),
        ("JoblibLauncher", {"batch_size": -3}, "hydra.launcher.batch_size"),
        ("JoblibLauncher", {"pre_dispatch": "os.system(1)"}, "pre_dispatch is 'os.system"),
        ("SlurmArray", {"nodes": 0}, "hydra.launcher.nodes: 0 is out of range"),
        ("SlurmArray", {"partition": ["a"]}, "hydra.launcher.partition"),
        ("SlurmArray", {"setup": "echo"}, "hydra.launcher.setup"),
        ("SlurmArray", {"additional_parameters": 3}, "hydra.launcher.additional_parameters"),
    ],
)
def test_launchers_are_checked(launcher, options, message):
    check_launcher(OmegaConf.create({"_target_": f"a.{launcher}", "n_jobs": 2, "nodes": 1}))
    with pytest.raises(ConfigError, match=message):
        check_launcher(OmegaConf.create({"_target_": f"a.{launcher}", **options}))


@pytest.mark.parametrize("override", ["x=tag(log,interval(0,1))", "x=interval(1,0.1)", "x=interval(0,nan)"])
def test_what_cannot_be_sampled_from(override):
    with pytest.raises(ConfigError, match="x: "):
        distributions([OverridesParser.create().parse_override(override)])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=range(0,100000)"], "100,000 jobs"),
        (["seed=range(0,1000)", "x=range(0,10000000)"], "10,000,000,000 jobs"),
        (["seed=range(3,1)"], "no value"),
        (["x=interval(0,1)"], "without end"),
        (["seed=range(0,10,0)"], "steps of 0"),
    ],
)
def test_grids_that_nobody_means(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_grid([OverridesParser.create().parse_override(override) for override in overrides], GridSettings())


# ------------------------------------------------------------------------------------------------- how trials end


def job_in(folder: Path | None) -> Job:
    return Job(overrides=("seed=0",), folder=folder, settings=None)


def test_failed_and_diverged_trials_do_not_stop_a_search(tmp_path):
    study = load_study(tmp_path / "study", "one", NAMES, SETTINGS)
    good = write_run(tmp_path, config("npo"), scores(0.25, 0.75), name="good")
    diverged = write_run(tmp_path, config("ga"), scores(0.0, 0.0), name="diverged", diverged="nan at step 3")
    failed = write_run(tmp_path, config("gd"), None, name="failed", error="no memory")
    unfinished = write_run(tmp_path, config("kl"), None, name="unfinished")
    trials = [study.ask(SPACE) for _ in range(4)]
    recorded = [
        record_trial(study, trial, [job_in(folder)], NAMES)
        for trial, folder in zip(trials, (good, diverged, failed, unfinished), strict=True)
    ]
    assert recorded == [True, True, True, False]
    assert [trial.state for trial in study.trials] == [State.COMPLETE, State.PRUNED, State.FAIL, State.RUNNING]
    assert [trial.values for trial in best_trials(study)] == [[0.25, 0.75]]
    write_results(study, tmp_path / "results.yaml")
    results = yaml.safe_load((tmp_path / "results.yaml").read_text(encoding="utf-8"))
    assert results == {"name": "optuna", "solutions": [{"params": trials[0].params, "values": [0.25, 0.75]}]}


def test_a_missing_objective_is_named_with_what_there_is(tmp_path):
    study = load_study(tmp_path / "study", "one", ["task_aggregate"], SETTINGS)
    folder = write_run(tmp_path, config("npo"), {"forget.knowledge": 0.5, "task_aggregate": None})
    with pytest.raises(RunError, match=r"has no score task_aggregate[^$]*with what it has: forget.knowledge"):
        record_trial(study, study.ask(SPACE), [job_in(folder)], ["task_aggregate"])


def test_a_study_is_not_continued_the_other_way(tmp_path):
    load_study(tmp_path / "study", "one", NAMES[:1], SETTINGS)
    with pytest.raises(RunError, match="goes another way"):
        load_study(tmp_path / "study", "one", NAMES[:1], replace(SETTINGS, direction="maximize"))


# ------------------------------------------------------------------------------------------------------- a real one


RATE = "trainer.unlearn.learning_rate=tag(log, interval(1e-4, 1e-3))"


def search(output_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    objective = "objective=[forget.probability,retain.probability]"
    overrides = [*SMALL, f"output_dir={output_dir}", "hydra/sweeper=optuna", objective, RATE, *more]
    return warm.run("-m", *overrides, cwd=ROOT, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of two trials that ended, one more by a search that was killed, and the same command for three."""
    output_dir = tmp_path_factory.mktemp("searched")
    first = search(output_dir, "hydra.sweeper.n_trials=2")
    assert first.returncode == 0, first.stderr
    (path,) = output_dir.glob("studies/*.journal")
    study = load_study(path, path.stem, ["forget.probability", "retain.probability"], SETTINGS)
    killed = study.ask({RATE.partition("=")[0]: distribution_of(RATE)})
    return output_dir, killed.params, search(output_dir, "hydra.sweeper.n_trials=3")


def test_a_killed_search_resumes_with_what_was_under_way(searched):
    output_dir, killed, again = searched
    assert again.returncode == 0, again.stderr
    assert summary_counts(again.stderr)["jobs"] == 1
    (path,) = output_dir.glob("studies/*.journal")
    study = load_study(path, path.stem, ["forget.probability", "retain.probability"], SETTINGS)
    assert [trial.state for trial in study.trials] == [State.COMPLETE, State.COMPLETE, State.FAIL, State.COMPLETE]
    assert study.trials[-1].params == killed
    assert len(list(output_dir.glob("bios-*/report.json"))) == 3
    results = yaml.safe_load((output_dir / "optimization_results.yaml").read_text(encoding="utf-8"))
    assert [solution["values"] for solution in results["solutions"]] == [trial.values for trial in study.best_trials]
    assert "no other trial beats these in every objective, of 3 that ended well" in again.stderr


def test_a_search_for_a_score_that_is_not_taken_says_so(searched):
    """Another search beside the one above, on its target."""
    done = search(searched[0], "objective=task_aggregate", "hydra.sweeper.n_trials=1")
    assert done.returncode == 1
    assert "has no score task_aggregate, so there is nothing to search for" in done.stderr
    assert "Traceback" not in done.stderr
    assert "forget.probability" in done.stderr


def test_nothing_to_search_over_is_reported_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "lume_run.cli", "-m", "hydra/sweeper=optuna", f"output_dir={tmp_path}/runs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "hydra.sweeper.params: nothing to search over" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
