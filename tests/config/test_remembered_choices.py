"""Hydra composes a choice of options once a process: the same config, to its flags and types, as by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from lume_run.config import hydra_source
from lume_run.config.overrides import compose, conf_dir, group_options, try_composing

SETTINGS = ["seed=3", "trainer.unlearn.epochs=2", "+model.extra={a: 1}", "hydra.verbose=true"]
CHOICES = [
    *([f"experiment={name}"] for name in [*group_options([conf_dir()])["experiment"]][::4]),
    *([f"method={name}"] for name in [*group_options([conf_dir()])["method"]][::8]),
    ["attack=[prefill,relearn]", "evaluator=[lume,mia]"],
    ["~evaluator.suites.lume", "hydra/output=default"],
]
REFUSED = [
    ["method=nothing"],
    ["method=npo", "seed=1,2"],
    ["method={a: 1}"],
    ["no.such=1"],
    ["++method=npo"],
    ["+seed=3"],
    ["method=grad_diff"],
    ["model/forget=npo"],
]


def parts(node: Any, path: str = "") -> Iterator[tuple[Any, ...]]:
    """What a config is made of: flags and types too, without what says which folders and overrides there were."""
    if path in ("hydra.runtime", "hydra.overrides", "hydra.searchpath", "hydra.job.override_dirname"):
        return
    data = node._metadata
    yield path, type(node), {**(data.flags or {})}, data.ref_type, data.object_type
    if isinstance(node, DictConfig) and isinstance(node._content, dict):
        for key in node:
            yield from parts(node._get_node(key), f"{path}.{key}".lstrip("."))
    elif isinstance(node, DictConfig):
        yield path, node._content
    else:
        yield path, OmegaConf.to_yaml(node) if OmegaConf.is_config(node) else node._value()


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_what_is_remembered_is_what_hydra_composes(choice, tmp_path):
    """Beside a folder of the user's own, empty here, nothing is remembered."""
    anew = [*parts(compose([*choice, *SETTINGS], [conf_dir(), tmp_path], whole=True))]
    for _ in range(2):
        assert [*parts(compose([*choice, *SETTINGS], [conf_dir()], whole=True))] == anew


@pytest.mark.parametrize("overrides", REFUSED, ids=str)
def test_refusals_are_hydras(overrides, tmp_path):
    errors = [try_composing(overrides, folders)[1] for folders in ([conf_dir(), tmp_path], [conf_dir()], [conf_dir()])]
    reasons = [error and error.partition("Config search path")[0] for error in errors]
    assert reasons[0]
    assert reasons == [reasons[0]] * 3


@pytest.fixture
def composed_files(monkeypatch) -> list[str]:
    """The files that Hydra composed."""
    load, files = ConfigLoaderImpl._load_single_config, []

    def load_and_note(self: Any, default: Any, repo: Any) -> Any:
        files.append(default.config_path)
        return load(self, default, repo)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_single_config", load_and_note)
    return files


def test_files_are_composed_once_a_choice_until_one_is_edited(composed_files, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(conf_dir(), tmp_path / "conf"))
    monkeypatch.setattr(hydra_source, "conf_dir", lambda: folder)

    def files_for(*overrides: str) -> int:
        composed_files.clear()
        compose(overrides, [folder])
        return len(composed_files)

    all_files = files_for("method=npo", "seed=1")
    assert all_files > 10
    assert files_for("method=npo", "seed=2") == files_for("seed=3", "method=npo") == 0
    assert files_for("method=gd", "seed=1") > 10
    (folder / "method" / "npo.yaml").write_text((folder / "method" / "npo.yaml").read_text("utf-8") + "\n", "utf-8")
    assert files_for("method=npo", "seed=1") == all_files


def test_a_config_is_a_copy():
    first = compose([], [conf_dir()])
    first.seed = 99
    assert compose([], [conf_dir()]).seed != 99
