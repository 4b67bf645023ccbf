"""What had another name in an earlier version gets a message with the new one."""

from __future__ import annotations

import pytest
from helpers.configs import CONF, cfg_of, data_of, problems_of
from omegaconf import OmegaConf

from lume_run.config.overrides import group_options, override_problems
from lume_run.config.resolve import as_data
from lume_run.pipeline.checks.config import check_config

EXPERIMENTS = group_options([CONF])["experiment"]


def test_the_old_key_of_the_suites(write_yaml):
    """In a user's own YAML file, on the command line, in the config.yaml of an earlier version's run folder."""
    renamed = "evaluator.metrics is now evaluator.suites"
    text = "metrics:\n  lume: {_target_: lume_run.evaluation.suites.lume.Lume}\n"
    in_file = problems_of("evaluator=mine", folder=write_yaml("evaluator/mine.yaml", text))
    assert in_file.keys() == {"evaluator.metrics"}
    assert in_file["evaluator.metrics"].what == renamed
    assert "suites: in a YAML file" in in_file["evaluator.metrics"].remedy
    overrides = {
        "evaluator.metrics.mia.k=0.3": "evaluator.suites.mia.k=0.3",
        "~evaluator.metrics.mia": "~evaluator.suites.mia",
        "evaluator.metrics={}": "evaluator.suites={}",
    }
    for override, remedy in overrides.items():
        (problem,), _ = override_problems([override], [CONF])
        assert (problem.what, problem.remedy) == (renamed, remedy)
    data = as_data(cfg_of())
    data["evaluator"]["metrics"] = data["evaluator"].pop("suites")
    _, problems, _ = check_config(OmegaConf.create(data))
    assert [problem.what for problem in problems] == [renamed]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_recipe_by_its_old_name(name):
    """Recipes were `semeval_npo` before they stood in a folder for each family."""
    (problem,), _ = override_problems([f"experiment={name.replace('/', '_')}"], [CONF])
    assert problem.remedy == f"did you mean '{name}'?"


def test_a_class_by_its_old_path():
    """As in the config.yaml of a run folder from before suites had a package of their own."""
    data = data_of("evaluator=mia")
    data["evaluator"]["suites"]["mia"]["_target_"] = "lume_run.suites.membership.Membership"
    data["method"]["forget"]["_target_"] = "lume_run.methods.kl.NPO"
    data["method"]["retain"]["_target_"] = "lume_run.losses.Forgotten"
    _, problems, _ = check_config(OmegaConf.create(data))
    remedies = {problem.where: problem.remedy.removesuffix(" is where the class is now") for problem in problems}
    assert remedies == {
        "evaluator.suites.mia._target_": "_target_: lume_run.evaluation.suites.mia.Membership",
        "method.forget._target_": "_target_: lume_run.methods.npo.NPO",
        "method.retain._target_": "",
    }
