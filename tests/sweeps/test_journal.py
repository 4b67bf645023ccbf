"""Journals of studies: a search that is killed anywhere proposes what it would have, damage is mended or named."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

optuna = pytest.importorskip("optuna")

from lume_run.common.errors import DataError
from lume_run.sweeps.journal import mend_journal
from lume_run.sweeps.search import distributions
from lume_run.sweeps.settings import SearchSettings
from lume_run.sweeps.study import load_study, next_count, propose, record_trial, take_up_killed

NAMES = ["forget.probability"]
SEARCHED = ["rate=tag(log, interval(1e-5, 1e-2))", "kind=a,b,c"]
SPACE = distributions(OverridesParser.create().parse_overrides(SEARCHED))


def job_of(value: float) -> Any:
    record = SimpleNamespace(scores={"unlearned": {NAMES[0]: value}}, subject="unlearned", name="run")
    return SimpleNamespace(state="done", folder=None, record=record)


def tried(path, settings: SearchSettings, kill_at: int | None = None) -> list[dict[str, Any]]:
    """What all trials that ended tried; killed once so many were proposed, before their batch has ended."""
    study = load_study(path, "study", NAMES, settings)
    done, proposed = take_up_killed(study), 0
    while count := next_count(settings, done):
        trials = []
        for _ in range(count):
            if proposed == kill_at:
                return []
            trials.append(propose(study, SPACE, settings))
            proposed += 1
        for trial in trials:
            done += record_trial(study, trial, [job_of(trial.params["rate"])], NAMES)
    return [trial.params for trial in study.get_trials() if trial.state == optuna.trial.TrialState.COMPLETE]


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_killed_search_proposes_what_it_would_have(tmp_path, jobs):
    settings = SearchSettings(n_trials=14, n_jobs=jobs)
    expected = tried(tmp_path / "whole.journal", settings)
    assert len({str(params) for params in expected}) == 14
    for kill_at in (1, 4, 13):
        path = tmp_path / f"{kill_at}.journal"
        assert not tried(path, settings, kill_at)
        assert tried(path, settings) == expected


def test_what_a_kill_leaves_is_mended(tmp_path):
    settings, path = SearchSettings(n_trials=2), tmp_path / "s.journal"
    tried(path, settings)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "wor')
    (tmp_path / "s.journal.lock").symlink_to(path)
    mend_journal(path)
    assert path.read_bytes() == whole and not os.path.lexists(tmp_path / "s.journal.lock")


@pytest.mark.parametrize("content", [None, "pipe", b"[]\n", b"no JSON\n{}\n", b'{"op_code": 0}\n'])
def test_a_journal_that_is_none(tmp_path, content):
    path = tmp_path / "s.journal"
    if content is None:
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match="move it away"):
        load_study(path, "study", NAMES, SearchSettings())
