"""A share of the bad inputs of each kind, in warm processes but for a few; `make hostile` runs all as the real command."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .case import Case, Outcome, Verdict, judge
from .stage import KINDS, Stage, run_case

pytestmark = pytest.mark.slow

SHARE = 45  # one of so many
PATIENCE_SECONDS = 300.0  # on cores that other tests use
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
    built.build(forked=True)
    return built


@pytest.mark.parametrize("module", KINDS, ids=lambda module: module.__name__)
def test_bad_inputs_are_refused(module, stage, tmp_path):
    cases = stage.cases_of(module)
    chosen = cases[::SHARE]
    chosen += [case for case in cases if case not in chosen and any(name in case.name for name in ALWAYS)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda at: run(chosen[at], stage, tmp_path / str(at)), range(len(chosen))))
    verdicts = {case.name: judge(case, outcome, bound=None) for case, outcome in zip(chosen, outcomes, strict=True)}
    assert set(verdicts.values()) == {Verdict.REFUSED}, verdicts


def run(case: Case, stage: Stage, folder: Path) -> Outcome:
    """Forked after the imports, where that does not hide what is tried: what `ALWAYS` names runs as the real command."""
    return run_case(
        case, stage, folder, forked=not any(name in case.name for name in ALWAYS), patience=PATIENCE_SECONDS
    )


def test_there_are_enough_of_them(stage):
    cases = list(stage.cases())
    assert len(cases) > 1300
    assert len({case.name for case in cases}) == len(cases)
