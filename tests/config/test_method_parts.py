"""Parts and methods in the wrong place, methods that cannot be trained, refusals of a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.configs import cfg_of, problems_of, settings_of
from omegaconf import OmegaConf

from lume_run.common.errors import Problem
from lume_run.methods.needs import Role
from lume_run.pipeline.checks.config import check_config
from lume_run.pipeline.plan import model_problems
from lume_run.pipeline.run import Run

FORGET, RETAIN, FORGET_IDK, RETAIN_IDK, MISMATCH, ALTERNATE = Role
METHOD = """# A combination of parts
defaults:
  - forget: {forget}
  - retain: {retain}
  - _self_
_target_: {target}
name: mine
"""


def test_parts_in_the_wrong_place(write_yaml):
    target = "lume_run.methods.objective.Objective"
    write_yaml("method/forget/swapped.yaml", "_target_: lume_run.methods.likelihood.GradientDescent")
    write_yaml("method/retain/swapped.yaml", "_target_: lume_run.methods.likelihood.GradientAscent")
    folder = write_yaml("method/mine.yaml", METHOD.format(forget="swapped", retain="swapped", target=target))
    problems = problems_of("method=mine", folder=folder)
    assert problems["method.forget"].what == "GradientDescent is a retain regulariser"
    assert problems["method.forget"].remedy == "forget parts: conf/method/forget"
    assert problems["method.retain"].what == "GradientAscent is a forget objective"
    assert problems["method.retain"].remedy == "retain parts: conf/method/retain"


@pytest.mark.parametrize(
    ("path", "target", "where", "lacking"),
    [
        ("task/mine.yaml", "lume_run.methods.npo.NPO", "task", "name, load, check"),
        ("method/mine.yaml", "lume_run.methods.npo.NPO", "method", "name"),
        ("method/mine.yaml", "lume_run.config.model_settings.LoraSettings", "method", "name, needs, __call__"),
        ("method/forget/mine.yaml", "lume_run.config.model_settings.LoraSettings", "method.forget", "needs, __call__"),
        ("method/retain/mine.yaml", "lume_run.config.settings.LaunchSettings", "method.retain", "needs, __call__"),
    ],
)
def test_a_class_of_another_kind(write_yaml, path, target, where, lacking):
    folder = write_yaml(path, f"_target_: {target}")
    problems = problems_of(f"{Path(path).parent}=mine", folder=folder)
    assert problems.keys() == {where}
    assert problems[where].what.endswith(f"it has no {lacking}")


@pytest.mark.parametrize(
    ("overrides", "where", "what", "remedy"),
    [
        (("method=npo", "method.dual.bound=1"), "method.dual.bound", "no retain loss to bound", "method/retain=gd"),
        (
            ("method=ga", "method.retain_weight=2"),
            "method.retain_weight",
            "no effect without a retain part",
            "/retain=",
        ),
        (("method=ga", "method.forget_weight=0"), "method.forget_weight", "nothing is left", "a weight above 0"),
        (
            ("method=gd", "method.forget_weight=0", "method.retain_weight=0"),
            "method.forget_weight",
            "nothing is left to optimise",
            "a weight above 0",
        ),
        (("method=ties",), "method", "'ties' merges LoRA adapters", "model.lora=true"),
        (
            ("model.trainable=['*.mlp.*']", "model.lora=true"),
            "model.trainable",
            "only adapters are trained",
            "model.lora.target_modules",
        ),
        *(
            (
                (f"method={name}", "model.lora.enabled=true", "model.lora.save=true"),
                "model.lora.save",
                "leaves no adapter that could be saved alone",
                "a method that is a loss",
            )
            for name in ("ties", "task_vector", "retrain", "whp", "icu", "none")
        ),
        (("method=none", "model.trainable=['*.mlp.*']"), "model.trainable", "'none' cannot choose weights", "a loss"),
        (("method=icu", "model.trainable=['*.mlp.*']"), "model.trainable", "'icu' cannot choose weights", "a loss"),
        (("method=whp", "model.trainable=['*']"), "model.trainable", "'whp' cannot choose weights", "a loss"),
        (("method=whp", "evaluator.placement=spread"), "evaluator.placement", "not spread over", "replicas"),
        (("method=whp", "evaluator=logit_lens"), "evaluator.suites.logit_lens", "answer as one", "another evaluator"),
        (("method=whp", "attack=quantise"), "attack.attacks.quantise", "no weights of an unlearned one", "prefill"),
        (("method=retrain", "model.trainable=['*']"), "model.trainable", "'retrain' cannot choose weights", "a loss"),
        (("method=task_vector", "model.trainable=['*']"), "model.trainable", "'task_vector' cannot choose", "a loss"),
        (
            ("method=pdu", "trainer.unlearn.alternate=true"),
            "trainer.unlearn.alternate",
            "steps without retain rows have no retain loss to bound",
            "method.dual.bound=null",
        ),
        (
            ("method=npo", "trainer.unlearn.alternate=true"),
            "trainer.unlearn.alternate",
            "'npo' reads no retain rows",
            "method/retain=gd",
        ),
        (
            ("method=npo", "trainer.unlearn.retain_ratio=7"),
            "trainer.unlearn.retain_ratio",
            "'npo' reads no retain rows",
            "method/retain=gd",
        ),
        (
            ("model=7b", "method=retrain", "model.base=null"),
            "model.base",
            "before it saw the documents",
            "model.base=FOLDER_OR_ID",
        ),
        (
            ("method=rmu", "method.forget.layer=1", "method.retain.layer=0"),
            "method",
            "the parts read different layers (1 and 0); give both the same",
            "set method.forget.layer and method.retain.layer to the same number",
        ),
        (("+trainer.train.chunk_size=8",), "trainer.train.chunk_size", "one side only", "trainer.unlearn.chunk_size="),
        (("+trainer.train.retain_ratio=2",), "trainer.train.retain_ratio", "one side", "trainer.unlearn.retain_ratio="),
        (("+trainer.train.sharpness=0.1",), "trainer.train.sharpness", "one side", "trainer.unlearn.sharpness="),
        *(
            ((f"method={name}", "trainer.unlearn.sharpness=0.1"), "trainer.unlearn.sharpness", "no forget loss", "null")
            for name in ("none", "retrain", "task_vector", "whp", "icu")
        ),
        *(
            (
                (f"launch={mode}", "trainer.unlearn.sharpness=1"),
                "trainer.unlearn.sharpness",
                f"{mode} has",
                "launch=ddp",
            )
            for mode in ("zero1", "zero2", "zero3", "zero3_offload")
        ),
        (("+trainer.train.alternate=true",), "trainer.train.alternate", "one side", "trainer.unlearn.alternate="),
    ],
)
def test_impossible_methods(overrides, where, what, remedy):
    problems = problems_of(*overrides)
    assert problems.keys() == {where}
    assert what in problems[where].what
    assert remedy in problems[where].remedy


def test_an_engine_runs_one_model():
    reasons = [problem.what for problem in check_config(cfg_of("method=whp", "evaluator.backend=vllm")).problems]
    assert "'whp' runs two models, and vllm one" in reasons


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=gd", "trainer.unlearn.alternate=true", "trainer.unlearn.retain_ratio=3"),
        ("method=npo", "method.stop_when.retain_nll=2", "trainer.unlearn.alternate=true"),  # retain rows are watched
        ("method=gd", "method.forget_weight=0"),
        ("method=rmu", "method.forget.layer=1", "method.retain.layer=1"),
        ("method=rmu", "method.retain.layer=1"),
        ("method=ties", "stages=[train,evaluate]"),
        ("method=retrain", "model=7b"),
        ("method=retrain",),
        ("model.trainable=['*.layers.1.mlp.*']",),
        ("method=ga", "method.stop_when.forget_loss=-8"),
        ("trainer.unlearn.chunk_size=32",),
        ("trainer.unlearn.sharpness=0.01",),
        ("trainer.unlearn.sharpness=0.01", "model.lora=true", "launch=ddp"),
        ("trainer.unlearn.sharpness=0.01", "method=ties", "model.lora=true"),
    ],
    ids=" ".join,
)
def test_possible_methods(overrides):
    assert problems_of(*overrides) == {}


def member_problems(change: dict, *overrides: str) -> dict[str, Problem]:
    """What is found when the first adapter of `ties` is changed."""
    cfg = cfg_of("method=ties", "model.lora=true", *overrides)
    for key, value in change.items():
        OmegaConf.update(cfg, f"method.members.0.method.{key}", value, merge=False, force_add=True)
    return {problem.where: problem for problem in check_config(cfg)[1]}


NLL = {"_target_": "lume_run.methods.likelihood.GradientDescent"}
ASCENT = {"_target_": "lume_run.methods.likelihood.GradientAscent"}


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"forget": NLL}, "forget", "GradientDescent is a retain regulariser"),
        ({"retain": ASCENT}, "retain", "GradientAscent is a forget objective"),
        ({"retain": None, "dual": {"bound": 1.0}}, "dual.bound", "there is no retain loss to bound"),
        ({"retain": None, "retain_weight": 2.0}, "retain_weight", "has no effect without a retain part"),
        ({"idk_file": "/nowhere"}, "idk_file", "'npo_kl_gd' reads no refusals"),
        (
            {"idk_file": "/nowhere", "forget": {"_target_": "lume_run.methods.likelihood.Refusal"}},
            "idk_file",
            "adapters to merge all refuse with the built-in sentences",
        ),
        ({"_target_": "lume_run.methods.baselines.NoOp", "name": "no"}, "", "NoOp does not belong here"),
    ],
)
def test_adapters_to_merge_are_checked_like_any_method(change, where, what):
    if "_target_" in change:
        cfg = cfg_of("method=ties", "model.lora=true")
        OmegaConf.update(cfg, "method.members.0.method", change, merge=False)
        problems = {problem.where: problem for problem in check_config(cfg)[1]}
    else:
        problems = member_problems(change)
    place = ".".join(filter(None, ("method.members[0].method", where)))
    assert problems.keys() == {place}
    assert problems[place].what.startswith(what)
    assert problems[place].remedy


def test_adapters_to_merge_in_steps_of_their_own():
    problems = member_problems({"retain": None}, "trainer.unlearn.alternate=true")
    assert problems["trainer.unlearn.alternate"].what == "'npo_kl_gd' reads no retain rows"
    problems = member_problems({"dual": {"bound": 1.0}}, "trainer.unlearn.alternate=true")
    assert problems["trainer.unlearn.alternate"].what == "steps without retain rows have no retain loss to bound"
    assert member_problems({}, "trainer.unlearn.alternate=true") == {}


def test_terms_of_a_sum_share_a_layer():
    embed = {"_target_": "lume_run.methods.rmu.EmbeddingDistance"}
    cfg = cfg_of("method=rmu", "method/retain=kl_gd", "trainer.unlearn.alternate=true")
    terms = [{"part": embed | {"layer": 0}, "weight": 1.0}, {"part": embed | {"layer": 1}, "weight": 1.0}]
    OmegaConf.update(cfg, "method.retain.terms", terms, merge=False)
    _, problems, _ = check_config(cfg)
    assert [(problem.where, problem.remedy) for problem in problems] == [
        ("method", "set `layer` of all terms to the same number")
    ]


@pytest.mark.parametrize(
    "overrides",
    [("method=idk_gd",), ("method=dpo_kl",), ("method=idk_ap",), ("method=npo", "method/retain=ap")],
    ids=" ".join,
)
def test_refusals_of_the_users_own(overrides, tmp_path):
    file = tmp_path / "refusals.txt"
    file.write_text("I pass.\n", encoding="utf-8")
    assert problems_of(*overrides, f"method.idk_file={file}") == {}


@pytest.mark.parametrize("method", ["npo", "gd", "me_gd", "rmu"])
def test_refusals_that_nothing_reads(method, tmp_path):
    (tmp_path / "refusals.txt").write_text("I pass.\n", encoding="utf-8")
    problems = problems_of(f"method={method}", f"method.idk_file={tmp_path}/refusals.txt")
    assert problems.keys() == {"method.idk_file"}
    assert problems["method.idk_file"].what == f"'{method}' reads no refusals"
    assert problems["method.idk_file"].remedy == "use it with idk, dpo or ap, or drop it"


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"", "{file}: holds no refusals", "one refusal a line"),
        (b" \n\n", "{file}: holds no refusals", "one refusal a line"),
        (b"I pass.\nd\xe9sol\xe9\n", "{file}:2: byte 2 of the line, 0xe9, is not UTF-8", "save the file as UTF-8"),
        (None, "{file}: is a folder, not a file", "one refusal a line"),
    ],
    ids=["empty", "blank", "latin-1", "a folder"],
)
def test_refusals_that_cannot_be_used_are_told_up_front(content, what, remedy, tmp_path):
    file = tmp_path / "refusals.txt"
    file.mkdir() if content is None else file.write_bytes(content)
    problems = problems_of("method=idk_gd", f"method.idk_file={file}")
    assert problems.keys() == {"method.idk_file"}
    assert problems["method.idk_file"].what.startswith(what.format(file=file))
    assert remedy in problems["method.idk_file"].remedy


@pytest.mark.parametrize(("tokens", "problems"), [("[]", 0), ("[0,7]", 0), ("[7,4000]", 1)])
def test_a_token_that_the_model_lacks_is_refused_in_the_plan(tokens, problems, tmp_path):
    settings = settings_of("method=jensun", f"method.forget.tokens={tokens}")
    refused = model_problems(Run(settings=settings, folder=tmp_path))
    assert len(refused) == problems
    for problem in refused:
        assert problem.where == "method.forget.tokens"
        assert "token 4000 is named, but the last token is" in problem.what


def test_a_target_is_text_and_its_tokens_are_ids():
    assert problems_of("method=jensun", "method.forget.target=' '").keys() == {"method.forget.target"}
    assert "ids from 0 on, not -1" in problems_of("method=jensun", "method.forget.tokens=[3,-1]")["method.forget"].what
    assert problems_of("method=jensun", "method.forget.tokens=[a]").keys() == {"method.forget.tokens[0]"}


def test_a_prompt_for_alternates_holds_the_question():
    assert problems_of("method=altpo", "method.forget.prompt='{question} {answer}'") == {}
    problem = problems_of("method=altpo", "method.forget.prompt='Say something else.'")["method.forget"]
    assert "prompt does not hold {question}" in problem.what
