"""The wheel carries everything: all modules, all YAML files, the command; it runs without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers.shared import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that the checkout gets no build folder."""
    pytest.importorskip("build", reason="the package `build` makes the wheel")
    pytest.importorskip("setuptools", reason="the wheel is built without network")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("lume_run", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def relative(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def test_every_yaml_is_inside(installed):
    inside = relative(installed / "lume_run" / "config" / "conf", "*.yaml")
    assert inside == relative(ROOT / "conf", "*.yaml")
    assert {"config.yaml", "method/npo.yaml", "method/forget/npo.yaml", "method/retain/none.yaml"} <= inside


def test_every_module_is_inside(installed):
    assert relative(installed / "lume_run", "*.py") == relative(ROOT / "lume_run", "*.py")


def test_type_checkers_see_that_it_is_typed(installed):
    assert (installed / "lume_run" / "py.typed").is_file()


def test_nothing_else_is_inside(installed):
    folders = sorted(path.name for path in installed.iterdir())
    assert len(folders) == 2
    assert folders[0] == "lume_run"
    assert folders[1].endswith(".dist-info")


def test_the_command_and_the_licence_are_inside(installed):
    (entry_points,) = installed.rglob("entry_points.txt")
    assert "lume-run = lume_run.cli:main" in entry_points.read_text(encoding="utf-8")
    assert list(installed.rglob("LICENSE"))


def test_it_runs_elsewhere_with_its_own_conf(installed, tmp_path):
    copy = tmp_path / "site"
    shutil.copytree(installed, copy)
    config = copy / "lume_run" / "config" / "conf" / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert text.count("\nseed: 0\n") == 1
    config.write_text(text.replace("\nseed: 0\n", "\nseed: 4711\n"), encoding="utf-8")  # the checkout's has another
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    where = run(copy, cwd, "-c", "import lume_run.cli as cli; print(cli.__file__); print(cli.conf_dir())")
    assert where.stdout.split() == [str(copy / "lume_run" / "cli.py"), str(copy / "lume_run" / "config" / "conf")]
    done = run(copy, cwd, "-m", "lume_run.cli", "--cfg", "job", "method=npo", "task=wiki")
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout)
    assert (job["seed"], job["method"]["name"], job["task"]["name"]) == (4711, "npo", "wiki")
    assert job["method"]["forget"]["_target_"] == "lume_run.methods.npo.NPO"
    assert list(cwd.iterdir()) == []


def test_it_plans_elsewhere(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "lume_run.cli", "dry_run=true", "task=novels", "method=gd")
    assert done.returncode == 0, done.stderr
    assert f"plan {tmp_path}/outputs/novels-tiny-gd-" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_options_of_the_wheel(installed, tmp_path):
    for group, first in (("method/forget", "adaptive_rmu "), ("method/retain", "ap "), ("experiment", "closer_look/")):
        done = run(installed, tmp_path, "-m", "lume_run.cli", "--help", group)
        assert done.returncode == 0
        assert f"{group}=\n  {first}" in done.stdout


def test_the_page_of_the_report_is_inside(installed):
    kept = (".yaml", ".html", ".css", ".js")
    assets = {name for name in relative(ROOT / "lume_run", "*") if name.endswith(kept)}
    wanted = ("page/page.html", "page/page.css", "page/page.js", "published.yaml")
    assert {f"report/comparison/{name}" for name in wanted} <= assets
    assert assets <= relative(installed / "lume_run", "*")
