"""Configs composed from the shipped conf/ and a user's folder, and what the check says of them."""

from __future__ import annotations

from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import as_data
from lume_run.config.settings import Settings
from lume_run.pipeline.checks.config import check_config, require_settings

CONF = conf_dir()


def cfg_of(*overrides: str, folder: Path | None = None):
    return compose(overrides, [CONF, *([folder] if folder else [])])


def problems_of(*overrides: str, folder: Path | None = None) -> dict[str, Problem]:
    """What check_config finds, by place; every place is named once."""
    settings, problems, _ = check_config(cfg_of(*overrides, folder=folder))
    assert (settings is None) == bool(problems)
    by_place = {problem.where: problem for problem in problems}
    assert len(by_place) == len(problems), [str(problem) for problem in problems]
    return by_place


def settings_of(*overrides: str, folder: Path | None = None) -> Settings:
    return require_settings(cfg_of(*overrides, folder=folder))[0]


def data_of(*overrides: str) -> dict:
    return as_data(cfg_of(*overrides))
