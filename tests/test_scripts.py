"""Every script loads; the results table of all methods: what its numbers are, and that a page keeps its prose."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from helpers.shared import ROOT

from lume_run.config.overrides import conf_dir, group_options
from lume_run.methods.baselines import BASELINES

SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS)
def test_every_script_loads(path, monkeypatch):
    """What it takes from the package is there."""
    file = ROOT / path
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # of packages there
    spec = importlib.util.spec_from_file_location(f"script_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.__doc__


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "method_table.py"
    if not path.exists():
        pytest.skip("the scripts are not shipped with the package")
    spec = importlib.util.spec_from_file_location("method_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(**scores: float | None) -> dict:
    names = ("forget.regurgitation", "forget.knowledge", "retain.regurgitation", "retain.knowledge")
    values = dict(zip(names, (0.2, 0.0, 1.0, 0.5), strict=True)) | scores
    training = {
        "target": {"seconds_per_step": 9.0, "peak_memory_bytes": 9 * 2**30},
        "unlearned": {"seconds_per_step": 0.25, "peak_memory_bytes": 2**29},
    }
    return {"scores": {f"unlearned.{name}": value for name, value in values.items()}, "training": training}


def test_every_method_has_a_row(script):
    listed = {name.partition(":")[0] for name in (*script.BASELINES, *script.LOSSES)}
    assert listed == set(group_options([conf_dir()])["method"])
    assert len(script.BASELINES) == len(BASELINES)


def test_a_row_by_hand(script):
    row = script.summary(report())
    assert row["utility"] == pytest.approx(2 / (1 / 1.0 + 1 / 0.5))
    assert row["forgotten"] == pytest.approx(1 - (0.2 + 0.0) / 2)
    assert (row["s/step"], row["peak GiB"]) == (0.25, 0.5)  # those of unlearning, not of the target
    assert script.summary(report(**{"retain.knowledge": 0.0}))["utility"] == 0.0


def test_the_best_rate_needs_both_sides(script):
    """A model that forgot everything and kept nothing scores 0, as one that forgot nothing does."""
    by_rate = [
        {"utility": 1.0, "forgotten": 0.0},
        {"utility": 0.6, "forgotten": 0.9},
        {"utility": 0.0, "forgotten": 1.0},
    ]
    assert script.best_rate("gd", ["1e-4", "5e-4", "1e-3"], by_rate) == "5e-4"
    assert script.best_rate("gd", ["1e-4", "5e-4"], [by_rate[1], by_rate[1]]) == "1e-4"  # the lower of equals


def test_cells(script):
    assert script.cell([0.5]) == "0.500"
    assert script.cell([0.4, 0.6]) == "0.500 ±0.10"
    assert script.cell([None]) == ""


def test_a_page_keeps_what_stands_around_its_table(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Results\n\nbefore\n\n{script.BEGIN}\nold\n{script.END}\n\nafter\n", encoding="utf-8")
    for lines in (["| a |"], ["| b |", "| c |"]):
        script.write_table(page, lines)
    assert page.read_text(encoding="utf-8") == (
        f"# Results\n\nbefore\n\n{script.BEGIN}\n\n| b |\n| c |\n\n{script.END}\n\nafter\n"
    )


def test_the_plot_is_drawn(script, tmp_path):
    rows = {name: [script.summary(report())] for name in ("retrain", "none", "gd", "npo_gd")}
    script.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
