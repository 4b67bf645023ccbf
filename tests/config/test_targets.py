"""`_target_` builds dataclasses of lume_run and of modules that are allowed, and imports nothing else."""

from __future__ import annotations

import pytest
from helpers.configs import cfg_of, problems_of, settings_of
from omegaconf import OmegaConf

from lume_run.methods.needs import Role
from lume_run.pipeline.checks.config import check_config

FORGET, RETAIN, FORGET_IDK, RETAIN_IDK, MISMATCH, ALTERNATE = Role


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "lume_runner.X", "lume_run_x.Y", "X", "", "lume_run"]
)
def test_foreign_targets_are_refused(target):
    cfg = cfg_of()
    OmegaConf.update(cfg, "method.forget._target_", target)
    _, problems, _ = check_config(cfg)
    assert [problem.where for problem in problems] == ["method.forget._target_"]
    assert problems[0].what == f"'{target}' is not from lume_run"
    assert "allow_external" in problems[0].remedy


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("lume_run.methods.kl.forward_kl", "is not a dataclass"),
        ("lume_run.common.store.FileLock", "is not a dataclass"),
        ("lume_run.common.console.console", "is not a dataclass"),
        ("lume_run.report.manifest.subprocess", "is not a dataclass"),
        ("lume_run.methods.npo.Nothing", "is not a dataclass"),
        ("lume_run.methods.nothing.NPO", "cannot be imported"),
        ("lume_run..NPO", "cannot be imported"),
    ],
)
def test_only_dataclasses_are_built(target, what):
    cfg = cfg_of()
    OmegaConf.update(cfg, "method.forget._target_", target)
    _, problems, _ = check_config(cfg)
    assert [problem.where for problem in problems] == ["method.forget._target_"]
    assert what in problems[0].what


USERS_LOSS = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lume_run.methods.needs import Needs

Path(__file__).with_suffix(".imported").touch()


@dataclass(frozen=True, kw_only=True)
class Mine:
    strength: float
    needs: ClassVar[Needs] = Needs()

    def __call__(self, s):
        return self.strength * s.logps.sum()
"""


def test_allow_external_takes_a_users_own_loss(write_yaml, tmp_path, monkeypatch):
    name = "losses_of_a_user"
    (tmp_path / f"{name}.py").write_text(USERS_LOSS, encoding="utf-8")
    imported = tmp_path / f"{name}.imported"
    monkeypatch.syspath_prepend(tmp_path)
    folder = write_yaml("method/forget/mine.yaml", f"# Mine\n_target_: {name}.Mine\nstrength: 2\n")
    refused = problems_of("method/forget=mine", folder=folder)
    assert refused["method.forget._target_"].what == f"'{name}.Mine' is not from lume_run"
    refused = problems_of("method/forget=mine", "allow_external=[losses_of]", folder=folder)
    assert refused.keys() == {"method.forget._target_"}  # a prefix of names, not of letters
    assert not imported.exists(), "a module that was not allowed has been imported"
    settings = settings_of("method/forget=mine", f"allow_external=[{name}]", folder=folder)
    assert (type(settings.method.forget).__name__, settings.method.forget.strength) == ("Mine", 2.0)
    assert imported.exists()
    problems = problems_of("method/forget=mine", f"allow_external=[{name}]", "+method.forget.size=1", folder=folder)
    assert problems.keys() == {"method.forget.size"}
