"""What a recipe may set of Hydra's own node, and what only the typed command may."""

from __future__ import annotations

from pathlib import Path

import pytest

from lume_run.config.hydra_node import hydra_node_problems
from lume_run.config.hydra_source import check_files
from lume_run.config.overrides import compose, conf_dir
from lume_run.sweeps.plugins import register

EVIL = {
    "callbacks.evil": "callbacks:\n    evil:\n      _target_: evil.Evil\n",
    "job_logging.formatters": "job_logging:\n    formatters:\n      evil:\n        (): evil.Evil\n",
    "hydra_logging.handlers": "hydra_logging:\n    handlers:\n      evil:\n        class: evil.Evil\n",
    "job.env_set.PYTHONPATH": "job:\n    env_set:\n      PYTHONPATH: .\n",
    "job.chdir": "job:\n    chdir: true\n",
    "launcher._target_": "launcher:\n    _target_: evil.Evil\n",
}
SOUND = {
    "another folder": "run:\n    dir: elsewhere\n",
    "fewer jobs": "sweeper:\n    max_batch_size: 4\n",
    "a name": "job:\n    name: mine\n",
}
SETUP = "['module load cuda']"


@pytest.fixture(autouse=True)
def plugins():
    register()
    check_files()


def problems(folder: Path, node: str, *typed: str) -> list[str]:
    """Where the recipe with this node is refused."""
    recipe = folder / "experiment" / "mine.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(f"# @package _global_\nhydra:\n  {node}", encoding="utf-8")
    overrides, folders = ["experiment=mine", *typed], [conf_dir(), folder]
    config = compose(overrides, folders, whole=True)
    return [problem.where for problem in hydra_node_problems(config, overrides, folders)]


@pytest.mark.parametrize("where", EVIL)
def test_what_runs_code_is_refused(where, tmp_path):
    refused = problems(tmp_path, EVIL[where])
    assert len(refused) >= 1 and all(path.startswith(f"hydra.{where}") for path in refused)


@pytest.mark.parametrize("name", SOUND)
def test_where_runs_go_and_how_a_sweep_is_made_is_a_recipe_s_to_say(name, tmp_path):
    assert problems(tmp_path, SOUND[name]) == []


def test_what_is_typed_counts(tmp_path):
    assert problems(tmp_path, EVIL["job.chdir"], "hydra.job.chdir=true") == []


def test_lines_of_shell_count_where_the_launcher_s_file_is_chosen(tmp_path):
    launcher = tmp_path / "hydra" / "launcher" / "mine.yaml"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f"defaults: [slurm, _self_]\nsetup: {SETUP}\n", encoding="utf-8")
    assert problems(tmp_path, "run: {}\n", "hydra/launcher=mine") == []
    recipe = f"launcher:\n    setup: {SETUP}\n"
    assert problems(tmp_path, recipe, "hydra/launcher=slurm") == ["hydra.launcher.setup"]


def test_files_of_hydra_stay_in_the_run_s_folder(tmp_path):
    assert problems(tmp_path, "output_subdir: ../x\n")[0] == "hydra.output_subdir"
