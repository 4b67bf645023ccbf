"""Whole runs that look inside their models, in this process: what is asked, shared, attacked, and missing."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from helpers.configs import problems_of
from helpers.shared import shape

from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.memory.estimate import evaluation_estimate
from lume_run.pipeline.memory.sizes import Sizes

pytestmark = pytest.mark.slow

SMALL = (
    *("task.num_documents=2", *shape(32, 2, 64), "evaluator.max_new_tokens=4", "evaluator.membership=false"),
    *("trainer.train.epochs=4", "trainer.unlearn.epochs=2", "logger=none", "evaluator.resamples=20"),
)
INSIDE = "evaluator=[memorisation,logit_lens,uds]"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shelf")


def run(folder: Path, shelf: Path, *overrides: str) -> dict[str, Any]:
    settings, data = require_settings(compose([*SMALL, f"output_dir={shelf}", *overrides], [conf_dir()]))
    run_pipeline(settings, folder, identity=run_identity(data), command=["test"])
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_a_run_that_looks_inside(shelf, tmp_path):
    """The model before unlearning has depth 0 and the retrained one 1; the last layer says what the model says.

    Attacked models are looked into as well, those behind other prompts not.
    """
    report = run(tmp_path / "run", shelf, INSIDE, "attack=[prune,few_shot]", "attack.attacks.prune.shares=[0.3]")
    scores = report["scores"]
    assert scores["retrained.uds"] == pytest.approx(1.0)
    assert scores["target.uds"] == pytest.approx(0.0, abs=1e-4)
    assert 0 <= scores["unlearned.uds"] <= 1
    for subject in ("target", "unlearned", "retrained"):
        for side in ("forget", "retain"):
            last = scores[f"{subject}.logit_lens.{side}.layer_2.probability"]
            assert last == pytest.approx(scores[f"{subject}.{side}.probability"], abs=1e-4)
            assert scores[f"{subject}.logit_lens.{side}.probability"] >= last
    rows = {(row["attack"], row["score"]) for row in report["attacks"]["rows"]}
    assert {("prune", "uds"), ("prune", "logit_lens.forget.probability")} < rows
    assert not {score for attack, score in rows if attack == "few_shot"} & {"uds", "logit_lens.forget.probability"}
    assert ("prune", "logit_lens.forget.layer_1.probability") not in rows  # a profile, nothing to be forgotten
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "| layer | forget, before | forget, after | forget, retrained | retain, before |" in text
    (last,) = [line for line in text.split("\n") if line.startswith("| 2 | ")]
    assert f"| 2 | {scores['target.forget.probability']:.3f} (" in last
    assert "| logit_lens.forget.layer_1.probability |" not in text
    cost = report["costs"]["unlearned"]["asks"]
    assert cost["patch"]["passes"] == 4 * -(-cost["patch"]["passes"] // 4)  # two and one for each layer


def test_a_model_alone(shelf, tmp_path):
    """Without the model from before and a retrained one there is a reason; with both there is a number."""
    run(tmp_path / "first", shelf, "evaluator.retrained=true")
    artifacts = json.loads((tmp_path / "first" / "manifest.json").read_text())["artifacts"]
    alone = ("stages=[evaluate]", f"model.path={artifacts['unlearned']}", INSIDE)
    report = run(tmp_path / "alone", shelf, *alone)
    assert report["scores"]["model.uds"] is None
    assert "attack.target" in report["reasons"]["model.uds"]
    assert report["scores"]["model.logit_lens.forget.probability"] is not None
    both = (f"attack.target={artifacts['target']}", f"evaluator.retrained_model={artifacts['retrained']}")
    report = run(tmp_path / "both", shelf, *alone, *both)
    assert 0 <= report["scores"]["model.uds"] <= 1
    assert report["scores"]["retrained.uds"] == pytest.approx(1.0)


def test_a_target_that_nothing_reads(tmp_path):
    alone = ("stages=[evaluate]", f"model.path={tmp_path}", f"attack.target={tmp_path}")
    assert "attack.target" in problems_of(*alone, "evaluator=lume")
    assert "attack.target" not in problems_of(*alone, "evaluator=uds")
    assert "attack.target" in problems_of(f"attack.target={tmp_path}", "evaluator=uds")


def test_two_models_are_planned_for():
    sizes = Sizes(**dict.fromkeys((field.name for field in fields(Sizes)), 100))
    settings = [
        require_settings(compose([*SMALL, evaluator], [conf_dir()]))[0] for evaluator in ("evaluator=lume", INSIDE)
    ]
    plain, inside = (evaluation_estimate(each, sizes, 2)["weights"] for each in settings)
    assert (plain, inside) == (200, 400)
