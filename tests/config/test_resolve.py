"""From a composed config to plain data: paths, sources, interpolations, and the identity of a run."""

from __future__ import annotations

import copy
import re

from helpers.configs import cfg_of, data_of, problems_of
from omegaconf import OmegaConf

from lume_run.config.overrides import conf_dir
from lume_run.config.resolve import run_identity
from lume_run.config.targets import class_name
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import GradientAscent
from lume_run.pipeline.checks.config import check_config, require_settings
from lume_run.sweeps.names import run_name


def test_source_follows_from_what_is_given(rows, tmp_path):
    assert data_of()["task"]["source"] == "builtin"
    assert data_of("model=7b")["task"]["source"] == "hub"
    assert data_of(f"task.data_dir={rows}")["task"]["source"] == "folder"
    assert data_of("model=7b", f"task.data_dir={rows}")["task"]["source"] == "folder"
    assert data_of("model=hf", f"model.path={tmp_path}")["task"]["source"] == "builtin"
    assert data_of("model=hf", f"model.path={tmp_path}", "model.is_target=true")["task"]["source"] == "hub"


def test_relative_paths_become_absolute(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    data = data_of("task.data_dir=rows", "model=hf", "model.path=model", "model.tokenizer='~/model'", "output_dir=o")
    assert data["task"]["data_dir"] == str(rows)
    assert data["model"]["path"] == data["model"]["tokenizer"] == str(tmp_path / "model")
    assert data["output_dir"] == str(tmp_path / "o")
    assert data_of("model=7b")["model"]["path"].startswith(
        "llmunlearningsemeval2025organization/"
    )  # a hub id stays one
    assert data_of("model=hf", "model.path=./gone")["model"]["path"] == str(tmp_path / "gone")


def test_identity_leaves_out_what_computes_nothing(tmp_path):
    name = run_name(data_of())
    for override in ("dry_run=true", f"output_dir={tmp_path}", "launch.device=cpu"):
        assert run_name(data_of(override)) == name, override
    others = ("seed=1", "method=npo", "trainer.unlearn.epochs=3", "evaluator.max_new_tokens=9", "stages=[train]")
    names = [run_name(data_of(override)) for override in others]
    assert len({name, *names}) == len(names) + 1
    assert name.startswith("bios-tiny-npo_gd-")
    assert names[-1].startswith("train-bios-tiny-") and "npo" not in names[-1]  # no method takes part
    assert not {"dry_run", "output_dir", "launch", "hydra"} & run_identity(data_of()).keys()


def test_identity_survives_a_class_that_moves_to_another_module():
    data = data_of()
    elsewhere = copy.deepcopy(data)
    elsewhere["method"]["_target_"] = elsewhere["method"]["_target_"].replace("lume_run.", "lume_run.elsewhere.")
    assert run_identity(elsewhere) == run_identity(data)
    elsewhere["method"]["_target_"] = "mine.Objective"  # of somebody else: another class
    assert run_identity(elsewhere) != run_identity(data)


def test_no_two_classes_that_configs_name_share_a_name():
    paths = {
        match[1]
        for path in conf_dir().rglob("*.yaml")
        for match in re.finditer(r"_target_: (lume_run\.[\w.]+)", path.read_text(encoding="utf-8"))
    }
    assert len({class_name(path) for path in paths}) == len(paths) > 40


def test_the_written_config_checks_to_the_same_run(tmp_path):
    """What a run folder holds is enough to repeat it, also from elsewhere."""
    _, data = require_settings(cfg_of("method=kl", f"output_dir={tmp_path}"))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(data)), encoding="utf-8")
    settings, again = require_settings(OmegaConf.load(tmp_path / "config.yaml"))
    assert again == data
    assert isinstance(settings.method.forget, GradientAscent)
    assert isinstance(settings.method.retain, RetainKL)


def test_values_that_lead_nowhere_are_named():
    problems = problems_of("model=hf", "model.base=${nowhere}", "model.tokenizer=${model.path}")
    assert problems.keys() == {"model.path", "model.base"}  # model.tokenizer is right once model.path is
    assert problems["model.path"].what == "Missing mandatory value: path"
    assert "nowhere" in problems["model.base"].what
    assert all(problem.remedy == f"set {where}=..." for where, problem in problems.items())


def test_a_group_that_leads_nowhere():
    cfg = cfg_of()
    OmegaConf.update(cfg, "trainer", "${nowhere}")
    settings, problems, _ = check_config(cfg)
    assert settings is None
    assert [problem.where for problem in problems] == ["trainer"]


def test_checking_changes_no_config():
    cfg = cfg_of("model=hf", "model.base=${nowhere}")
    before = OmegaConf.to_yaml(cfg)
    check_config(cfg)
    assert OmegaConf.to_yaml(cfg) == before
