"""Comparisons: who takes part, that all are tuned alike, who is ahead by more than noise, what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log10
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import warm
from helpers.sweeps import config, hash_of, scores, write_run
from hydra.core.override_parser.overrides_parser import OverridesParser

from lume_run.common.errors import ConfigError
from lume_run.common.records import Score, Split
from lume_run.evaluation.metrics.bootstrap import Interval
from lume_run.evaluation.questions import DOCUMENT_PARTS, is_of_part
from lume_run.methods.baselines import NoOp
from lume_run.sweeps.runner import Job
from lume_run.sweeps.settings import CompareSettings, sweeper_settings

pytest.importorskip("optuna")

from lume_run.sweeps.compare import parts
from lume_run.sweeps.compare.contestants import Contestant, direction_problems, read_overrides, space_problems
from lume_run.sweeps.compare.standings import mean_interval, paired_interval, standings
from lume_run.sweeps.compare.sweeper import Compare
from lume_run.sweeps.compare.utility import levels_of, mixes_at_level
from lume_run.sweeps.search import Space

NAME = "task_aggregate"


def overrides(*texts: str):
    return OverridesParser.create().parse_overrides(list(texts))


# ------------------------------------------------------------------------------------------------------ who takes part


def test_overrides_by_what_they_are_for():
    texts = ("method=npo_gd,none", "task=bios", "attack=relearn", "x=interval(0,1)", "attack.control=base")
    given = read_overrides(overrides(*texts))
    assert given.methods == ["npo_gd", "none"] and given.fixed == ["task=bios"]
    assert given.further == ["attack=relearn", "attack.control=base"]
    assert [override.get_key_element() for override in given.common] == ["x"]


@pytest.mark.parametrize(
    ("texts", "where"),
    [
        ([], "method"),
        (["method=npo"], "method"),
        (["method=npo,ga,npo"], "method"),
        (["method=npo,ga", "seed=1"], "seed"),
        (["method=npo,ga", "seed=1,2"], "seed"),
        (["method=npo,ga", "attack=prune,prefill"], "attack"),
    ],
)
def test_what_has_no_place_in_a_comparison(texts, where):
    with pytest.raises(ConfigError) as refusal:
        read_overrides(overrides(*texts))
    assert [problem.where for problem in refusal.value.problems] == [where]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "seeds is"),
        ({"seeds": [1, 1]}, "seeds is"),
        ({"tuning_seeds": [-1]}, "tuning_seeds is"),
        ({"seeds": [3], "tuning_seeds": [3]}, "seed 3 is both"),
        ({"rate_factor": 1}, "rate_factor: 1.0 is out of range"),
        ({"spaces": ["npo"]}, "spaces has 'npo'"),
        ({"utility": "forget.knowledge"}, "utility is 'forget.knowledge'"),
        ({"utility_level": 1.5}, "utility_level: 1.5 is out of range"),
        ({"tuning_documents": "half"}, "tuning_documents: unknown value"),
        ({"trials": 3}, "hydra.sweeper.trials: unknown key"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        sweeper_settings(CompareSettings, options)


def test_what_is_tuned_of_one_method():
    given = overrides("method.forget.beta=interval(0,1)", "method.forget.beta=1", "seed=1,2", "method=ga,kl")
    given += overrides("attack/x=a,b", "method/retain=gd,kl")
    problems = [problem.what.partition(" is ")[0].partition(" has ")[0] for problem in space_problems("npo", given)]
    assert problems == ["npo: method.forget.beta", "npo: seed", "npo: method", "npo: attack/x"]


@pytest.mark.parametrize(
    ("objective", "direction", "message"),
    [
        (NAME, None, ""),
        (NAME, "maximize", ""),
        (NAME, "minimize", "best high"),
        ("mia.auc", "maximize", "best at 0.5"),
        ("forget.knowledge", "maximize", "best low"),
        ("of.nobody", "minimize", ""),
        ("of.nobody", "up", "no direction"),
    ],
)
def test_a_direction_is_that_of_the_ranks(objective, direction, message):
    whats = [problem.what for problem in direction_problems(objective, direction)]
    assert bool(whats) == bool(message) and message in "".join(whats)


def test_ranks_by_a_score_of_which_nothing_is_known():
    scores = {"low": {0: score(0.1)}, "high": {0: score(0.9)}}
    for direction, best in (("minimize", "low"), ("maximize", "high")):
        assert standings("of.nobody", scores, direction)[0].method == best


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=npo_gd"], "a comparison is of several methods"),
        (["method=npo_gd,ga", "objective=[forget.knowledge,retain.knowledge]"], "methods are ranked by one score"),
        (["method=npo_gd,ga", "hydra.sweeper.spaces=['kl: method.forget_weight=1,2']"], "kl is no method of"),
        (["method=npo_gd,ga", "seed=3"], "hydra.sweeper.seeds"),
        (["method=npo_gd,icu", "hydra.sweeper.utility=retain.knowledge"], "icu changes no weight"),
        (["method=npo_gd,whp", "hydra.sweeper.utility=retain.knowledge"], "whp changes no weight"),
        (["method=npo_gd,ga", "hydra.sweeper.tuning_documents=apart"], "every seed has documents of its own"),
        (["method=npo_gd,ga", "hydra.sweeper.n_trials=9000"], "hydra.sweeper.max_jobs=18006"),
    ],
)
def test_the_command_refuses_before_anything_runs(words, message, tmp_path):
    ended = warm.run("-m", "hydra/sweeper=compare", *words, "logger=none", cwd=tmp_path)
    assert ended.returncode == 2 and message in ended.stdout + ended.stderr
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------- means, intervals, ranks


def score(value: float, resampled: tuple[float, ...] = (), documents: int = 0) -> Score:
    return Score(name=NAME, value=value, n=10, resampled=resampled, documents=documents)


def test_the_interval_of_a_mean_over_seeds():
    """Of seeds alone Student's t: 0.6 -+ 12.706 x sqrt(0.02 / 2)."""
    low, high = mean_interval([score(0.5), score(0.7)])
    assert (low, high) == pytest.approx((0.6 - 12.7062 * 0.1, 0.6 + 12.7062 * 0.1), abs=1e-4)
    assert mean_interval([score(0.5)]) is None
    assert mean_interval([score(0.5), score(0.5)]) == Interval(0.5, 0.5)


def test_documents_add_to_the_interval():
    """One seed: variance of 0.4, 0.6 over 2 documents 0.01 x 2, one degree of freedom."""
    low, high = mean_interval([score(0.5, (0.4, 0.6), documents=2)])
    assert high - low == pytest.approx(2 * 12.7062 * 0.02**0.5, abs=1e-3)
    seeds = [score(0.4, (0.3, 0.5), documents=2), score(0.6, (0.5, 0.7), documents=2)]
    wide, of_seeds = mean_interval(seeds), mean_interval([score(0.4), score(0.6)])
    total = 0.01 + 0.02  # variances of the mean: over seeds 0.02 / 2, over documents 0.01 x 2
    freedom = total**2 / (0.01**2 + 0.02**2)
    from scipy.stats import t

    assert wide.high - wide.low == pytest.approx(2 * t.ppf(0.975, freedom) * total**0.5)
    assert of_seeds.high - of_seeds.low == pytest.approx(2 * t.ppf(0.975, 1) * 0.1)


def test_differences_are_paired():
    """Seeds and resamples that move together leave no doubt about a difference."""
    first = {0: score(0.5, (0.3, 0.7), 30), 1: score(0.9, (0.8, 1.0), 30)}
    second = {0: score(0.4, (0.2, 0.6), 30), 1: score(0.8, (0.7, 0.9), 30), 2: score(0.1)}
    assert paired_interval(first, second) == pytest.approx((0.1, 0.1))
    assert paired_interval(first, {3: score(0.1)}) is None


def test_methods_that_cannot_be_told_apart_share_a_rank():
    rows = standings(
        NAME,
        {
            "good": {0: score(0.9), 1: score(0.91), 2: score(0.9)},
            "as_good": {0: score(0.91), 1: score(0.9), 2: score(0.88)},
            "bad": {0: score(0.1), 1: score(0.12), 2: score(0.1)},
            "broken": {0: Score(name=NAME, value=None, n=0)},
        },
    )
    assert [(row.method, row.rank, row.tied) for row in rows] == [
        ("good", 1, ("as_good",)),
        ("as_good", 1, ("good",)),
        ("bad", 3, ()),
    ]
    assert rows[0].values == (0.9, 0.91, 0.9)
    (wide,) = standings(NAME, {"wide": {0: score(0.5), 1: score(1.0)}})
    assert wide.interval == Interval(0, 1)  # a score between 0 and 1


# ------------------------------------------------------------------------------------------------- tuning and reporting


BEST = {"npo_gd": 1e-4, "ga": 1e-3}


def distance(method: str, rate: float) -> float:
    return abs(log10(rate / BEST[method])) if method in BEST else 3


class Runs:
    """A runner whose runs are made up: the nearer the rate to the method's best, the better; seeds differ a little."""

    stopped = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, []

    def compose(self, given: list[str]) -> Job:
        values = dict(text.split("=", 1) for text in given)
        rate = float(values.get("trainer.unlearn.learning_rate", 1e-4))
        data = config(values["method"], seed=int(values["seed"]), rate=rate)
        data["attack"] = {"name": values.get("attack", "none")}
        name = f"{values['method']}-{hash_of(data)[:8]}"
        method: Any = NoOp(name="none") if values["method"] == "none" else object()
        unlearn = SimpleNamespace(learning_rate=1e-4)
        settings: Any = SimpleNamespace(method=method, trainer=SimpleNamespace(unlearn=unlearn), logger=None)
        return Job(overrides=tuple(given), folder=self.folder / name, settings=settings, data=data)

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.started.append(job)
            after = scores(min(0.9, 0.1 + 0.2 * distance(*tried(job))), 0.9 - 0.001 * job.data["seed"])
            write_run(self.folder, job.data, after, name=job.run_folder.name)

    def summarise(self, jobs, cached) -> None:
        pass


def tried(job: Job) -> tuple[str, float]:
    return job.data["method"]["name"], job.data["trainer"]["unlearn"]["learning_rate"]


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(Job, "is_cached", property(lambda job: job.state == "done"))
    node = SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path)))
    composed: Any = SimpleNamespace(objective=NAME, dry_run=False, hydra=node)
    compare = Compare()
    compare.settings = CompareSettings(
        n_trials=4,
        tuning_seeds=(7, 8),
        seeds=(0, 1),
        storage=str(tmp_path / "studies"),
        tuning_documents="same",  # settings here are made up, and know no task
    )
    compare.composed, compare.runner = composed, Runs(tmp_path)
    compare.context = SimpleNamespace(config_loader=None)
    return compare


def test_every_method_is_tuned_alike_and_reported_on_other_seeds(comparison, tmp_path):
    arguments = ["method=npo_gd,ga,none", "attack=prune"]
    comparison.sweep(arguments)
    started = comparison.runner.started
    jobs = [(tried(job)[0], job.data["seed"], job.data["attack"]["name"]) for job in started]
    for method in ("npo_gd", "ga"):
        assert [job for job in jobs if job[0] == method] == [
            *[(method, seed, "none") for _ in range(4) for seed in (7, 8)],
            *[(method, seed, "prune") for seed in (0, 1)],
        ]
    assert [job for job in jobs if job[0] == "none"] == [("none", 0, "prune"), ("none", 1, "prune")]
    (folder,) = tmp_path.glob("compare-*")
    written = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    for row in written["methods"][:2]:
        rates = [rate for method, rate in map(tried, started) if method == row["method"]]
        nearest = min(rates, key=lambda rate: distance(row["method"], rate))
        assert row["settings"] == {"trainer.unlearn.learning_rate": nearest} and len(row["values"]) == 2
    assert {row["method"]: row["settings"] for row in written["methods"]}["none"] == {}
    assert written["budget"].startswith("2 methods x 4 trials x 2 seeds = 16 runs to tune, 3 x 2 seeds = 6 runs")
    text = (folder / "comparison.md").read_text(encoding="utf-8")
    assert "| rank | method | task_aggregate" in text and (folder / "index.html").exists()
    started.clear()
    comparison.sweep(arguments)  # all is there
    assert not started


def test_jobs_that_cannot_start_end_the_comparison(comparison, tmp_path, monkeypatch):
    """A launcher that does not work leaves them unfinished; to propose others would never end."""
    monkeypatch.setattr(comparison.runner, "run", lambda jobs: None)
    comparison.sweep(["method=npo_gd,ga"])
    assert not list(tmp_path.glob("compare-*/comparison.json"))


# ------------------------------------------------------------------------------------------------------- equal utility


def test_how_far_each_may_go():
    """Utility falls along a line: from 1 to 0.5 it is at 0.9 after a fifth of the way, 1/8 by three halvings."""
    ends = {("gd", 0): 0.5, ("npo", 0): 0.95, ("lost", 0): 0.1}
    asked = []

    def measure(mixes):
        asked.append(dict(mixes))
        return {case: 1 - mix * (1 - ends[case]) for case, mix in mixes.items() if case[0] != "lost"}

    levels = levels_of(0.9, dict.fromkeys(ends, 1.0), ends)
    assert levels == dict.fromkeys(ends, 0.9)
    assert mixes_at_level(levels, ends, 3, measure) == {("gd", 0): 0.125, ("npo", 0): 1.0}
    assert [case for mixes in asked[1:] for case in mixes] == [("gd", 0)] * 2  # what failed is not asked again


def test_the_level_of_the_method_that_keeps_most():
    kept = {("a", 0): 0.5, ("b", 0): 0.7, ("a", 1): 0.9}
    assert levels_of("highest", {}, kept) == {("a", 0): 0.7, ("b", 0): 0.7, ("a", 1): 0.9}


def test_a_comparison_at_equal_utility(comparison, tmp_path, monkeypatch):
    """Runs are mixed until the utility is reached; attacks are made of what is reported alone."""
    plain = comparison.runner.compose

    def compose(given):
        job = plain(given)
        mix = float(dict(text.split("=", 1) for text in given).get("mix", 1.0))
        job.data["mix"] = mix
        return replace(job, folder=job.run_folder.with_name(f"{job.run_folder.name}-{mix}"))

    def run(jobs):
        for job in jobs:
            comparison.runner.started.append(job)
            kept = 1.0 if job.data["method"]["name"] == "none" else 1 - 0.5 * job.data["mix"]
            write_run(tmp_path, job.data, scores(0.1, kept), name=job.run_folder.name)

    monkeypatch.setattr(comparison.runner, "compose", compose)
    monkeypatch.setattr(comparison.runner, "run", run)
    utility = "retain.knowledge"
    comparison.settings = replace(comparison.settings, utility=utility, utility_level=0.8, utility_steps=4)
    comparison.sweep(["method=npo_gd,none", "attack=prune"])
    (folder,) = tmp_path.glob("compare-*")
    written = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert any(words.startswith("equal utility") for words in written["protocol"])
    attacked = [job for job in comparison.runner.started if job.data["attack"]["name"] == "prune"]
    mixes = {job.data["method"]["name"]: job.data["mix"] for job in attacked}
    assert len(attacked) == 4 and mixes["none"] == 1.0 and mixes["npo_gd"] < 0.5


# --------------------------------------------------------------------------------------------------- tuning documents


def task_of(*names: str):
    """Settings whose task has these documents, the same on both sides."""
    return [SimpleNamespace(document=name, split=Split.FORGET) for name in names]


def test_parts_of_documents(monkeypatch):
    names = [f"person {number}" for number in range(40)]
    data = SimpleNamespace(forget=task_of(*names), retain=[])
    monkeypatch.setattr(parts, "_data_of", lambda settings: settings)
    chosen = parts.choose_parts("auto", data, data)
    assert chosen.apart and chosen.words.startswith("tuned on and reported: ")
    few = SimpleNamespace(forget=task_of(*names[:6]), retain=[])
    assert not parts.choose_parts("auto", few, few).apart
    assert parts.choose_parts("apart", few, few).apart
    single = SimpleNamespace(forget=task_of("one"), retain=[])
    with pytest.raises(ConfigError, match="a part would be empty"):
        parts.choose_parts("apart", single, single)
    other = SimpleNamespace(forget=task_of("somebody"), retain=[])
    assert "documents of its own" in parts.choose_parts("auto", data, other).words
    assert not parts.choose_parts("same", data, data).apart


def test_trials_and_reports_ask_about_other_documents():
    rows = task_of(*(f"person {number}" for number in range(40)))
    halves = [{row.document for row in rows if is_of_part(row, part)} for part in DOCUMENT_PARTS]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 40
    world = SimpleNamespace(document="person 1", split=Split.WORLD_FACTS)
    assert all(is_of_part(world, part) for part in DOCUMENT_PARTS)
    searched = Space(fixed=["method=ga"], distributions={}, objectives=[NAME])
    contestant = Contestant(method="ga", space=searched, apart=True)
    assert contestant.trial({}, [7]) == [["method=ga", "evaluator.documents=tuning", "seed=7"]]
    assert contestant.reported({}, [0]) == [["method=ga", "evaluator.documents=reported", "seed=0"]]
