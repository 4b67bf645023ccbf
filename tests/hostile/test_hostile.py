"""A share of the bad inputs of each kind; `make hostile` runs all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from . import data, handed_on, keys, models, recipes, runs
from .case import Verdict, judge
from .stage import Stage, run_case

pytestmark = pytest.mark.slow

SHARE = 45  # one of so many
ALWAYS = (
    "--nope",
    "a billion layers",
    "laughs",
    "callbacks through Hydra, run",
    "a recipe of 50 MB",
    "repeat: config that allows",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    """A tiny model and a finished run."""
    built = Stage(folder=tmp_path_factory.mktemp("hostile"))
    built.build()
    return built


@pytest.mark.parametrize("module", [keys, recipes, models, data, runs, handed_on], ids=lambda module: module.__name__)
def test_bad_inputs_are_refused(module, stage, tmp_path):
    arguments = {models: (stage.model,), runs: (stage.run,), handed_on: (stage.model, stage.run)}.get(module, ())
    cases = list(module.cases(*arguments))
    chosen = cases[::SHARE]
    chosen += [case for case in cases if case not in chosen and any(name in case.name for name in ALWAYS)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda at: run_case(chosen[at], stage, tmp_path / str(at)), range(len(chosen))))
    verdicts = {case.name: judge(case, outcome, bound=None) for case, outcome in zip(chosen, outcomes, strict=True)}
    assert set(verdicts.values()) == {Verdict.REFUSED}, verdicts


def test_there_are_enough_of_them(stage):
    cases = list(stage.cases())
    assert len(cases) > 500
    assert len({case.name for case in cases}) == len(cases)
