"""Single mistakes: unknown keys and names, wrong types, values out of range, missing files."""

from __future__ import annotations

import pytest
from helpers.configs import CONF, cfg_of, problems_of
from omegaconf import OmegaConf

from lume_run.config.overrides import override_problems
from lume_run.pipeline.checks.config import check_config


@pytest.mark.parametrize(
    ("override", "where", "remedy"),
    [
        ("+sede=1", "sede", "'seed'"),
        ("+trainer.unlearn.learning_rte=1", "trainer.unlearn.learning_rte", "'trainer.unlearn.learning_rate'"),
        ("+model.lora.rnak=1", "model.lora.rnak", "'model.lora.rank'"),
        ("+task.subtask=[bios]", "task.subtask", "'task.subtasks'"),
        ("+method.forget.betta=1", "method.forget.betta", "'method.forget.beta'"),
        ("+evaluator.mmlu.zzz=1", "evaluator.mmlu.zzz", "choose from: data_dir"),
    ],
)
def test_unknown_key(override, where, remedy):
    problems = problems_of(override)
    assert problems.keys() == {where}
    assert problems[where].what == "unknown key"
    assert remedy in problems[where].remedy


@pytest.mark.parametrize(
    ("overrides", "where", "remedy"),
    [
        (("method.beta=1",), "method.beta", "did you mean 'method.forget.beta'?"),
        (("method=simnpo", "method.delta=1"), "method.delta", "did you mean 'method.forget.delta'?"),
        (("beta=1",), "beta", "did you mean 'method.forget.beta'?"),
        (
            ("trainer.learning_rate=1",),
            "trainer.learning_rate",
            "did you mean 'trainer.train.learning_rate' or 'trainer.unlearn.learning_rate'?",
        ),
        (("trainer.unlern.epochs=1",), "trainer.unlern.epochs", "did you mean 'trainer.unlearn.epochs'?"),
        (("evalator.mmlu.shots=1",), "evalator.mmlu.shots", "did you mean 'evaluator.mmlu.shots'?"),
    ],
)
def test_an_unknown_key_is_compared_by_its_last_part_too(overrides, where, remedy):
    (problem,), _ = override_problems(overrides, [CONF])
    assert (problem.where, problem.what, problem.remedy) == (where, "unknown key", remedy)


def test_a_key_that_stands_a_level_too_high_in_a_file(write_yaml):
    text = "# Mine\ndefaults: [npo_gd, _self_]\nbeta: 0.5\n"
    problems = problems_of("method=mine", folder=write_yaml("method/mine.yaml", text))
    assert problems["method.beta"].remedy == "did you mean 'method.forget.beta'?"


@pytest.mark.parametrize(
    ("override", "where", "what"),
    [
        ("seed=zero", "seed", "a whole number, got 'zero'"),
        ("seed=true", "seed", "a whole number, got True"),
        ("seed=1.5", "seed", "a whole number, got 1.5"),
        ("seed=inf", "seed", "a whole number, got inf"),
        ("seed=null", "seed", "a whole number, got None"),
        ("dry_run=1", "dry_run", "true or false, got 1"),
        ("trainer.unlearn.learning_rate=fast", "trainer.unlearn.learning_rate", "a number, got 'fast'"),
        ("model.name=7", "model.name", "text, got 7"),
        ("model.max_length=short", "model.max_length", "a whole number, got 'short'"),
        ("model.lora=3", "model.lora", "a group of settings, got 3"),
        ("model.lora.target_modules=3", "model.lora.target_modules", "a list, got 3"),
        ("task.subtasks=bios", "task.subtasks", "a list, got 'bios'"),
        ("task.subtasks=[bios,3]", "task.subtasks[1]", "text, got 3"),
        ("stages=evaluate", "stages", "a list, got 'evaluate'"),
        ("trainer.train=3", "trainer.train", "a group of settings, got 3"),
        ("allow_external=[3]", "allow_external[0]", "text, got 3"),
        ("allow_external=mine", "allow_external", "a list, got 'mine'"),
    ],
)
def test_wrong_type(override, where, what):
    problems = problems_of(override)
    assert problems.keys() == {where}
    assert what in problems[where].what


@pytest.mark.parametrize("group", ["task", "method", "method.forget"])
def test_a_value_where_a_group_belongs(group):
    cfg = cfg_of()
    OmegaConf.update(cfg, group, 3)
    settings, problems, _ = check_config(cfg)
    assert settings is None
    assert [problem.where for problem in problems] == [group]
    assert "expected a group with _target_, got 3" in problems[0].what


@pytest.mark.parametrize(
    ("override", "where", "remedy"),
    [
        ("seed=-1", "seed", "at least 0 and at most 4294967295"),
        ("trainer.unlearn.learning_rate=0", "trainer.unlearn.learning_rate", "greater than 0 and at most 1"),
        ("trainer.unlearn.learning_rate=2", "trainer.unlearn.learning_rate", "greater than 0 and at most 1"),
        ("trainer.unlearn.learning_rate=nan", "trainer.unlearn.learning_rate", "greater than 0"),
        ("trainer.train.epochs=-0.5", "trainer.train.epochs", "greater than 0"),
        ("trainer.unlearn.epochs=inf", "trainer.unlearn.epochs", "greater than 0"),
        ("trainer.unlearn.batch_size=0", "trainer.unlearn.batch_size", "at least 1"),
        ("trainer.unlearn.warmup=1.1", "trainer.unlearn.warmup", "at most 1"),
        ("model.lora.dropout=1", "model.lora.dropout", "at most 0.99"),
        ("model.max_length=7", "model.max_length", "at least 8"),
        ("model.shape.vocabulary=255", "model.shape.vocabulary", "at least 260"),
        ("model.mmlu_gate=37.1", "model.mmlu_gate", "at most 1"),
        ("evaluator.mmlu.shots=6", "evaluator.mmlu.shots", "at most 5"),
        ("method.forget_weight=nan", "method.forget_weight", "at least 0"),
        ("method.retain_weight=-1", "method.retain_weight", "at least 0"),
        ("method.forget.beta=0", "method.forget.beta", "greater than 0: inverse temperature"),
        ("method.forget.beta=-0.1", "method.forget.beta", "greater than 0"),
        ("method.forget.beta=nan", "method.forget.beta", "greater than 0"),
        ("method.stop_when.forget_loss=nan", "method.stop_when.forget_loss", "a finite number"),
        ("method.stop_when.retain_nll=-1", "method.stop_when.retain_nll", "at least 0"),
        ("method.dual.bound=-1", "method.dual.bound", "at least 0"),
        ("method.dual.bound=1e30", "method.dual.bound", "at most 1000000000"),
        ("method.stop_when.forget_loss=1" + "0" * 400, "method.stop_when.forget_loss", "at most 1000000000"),
        ("evaluator.resamples=1e12", "evaluator.resamples", "at most 1000000"),
        ("trainer.unlearn.beta2=1", "trainer.unlearn.beta2", "at most 0.999999"),
        ("method.dual.step_size=0", "method.dual.step_size", "greater than 0"),
        ("trainer.unlearn.retain_ratio=0", "trainer.unlearn.retain_ratio", "at least 1"),
        ("trainer.unlearn.chunk_size=0", "trainer.unlearn.chunk_size", "at least 1"),
        ("trainer.unlearn.sharpness=0", "trainer.unlearn.sharpness", "greater than 0"),
        ("trainer.unlearn.sharpness=-0.1", "trainer.unlearn.sharpness", "greater than 0"),
        ("trainer.unlearn.sharpness=inf", "trainer.unlearn.sharpness", "greater than 0"),
    ],
)
def test_out_of_range(override, where, remedy):
    problems = problems_of(override)
    assert problems.keys() == {where}
    assert "out of range" in problems[where].what
    assert remedy in problems[where].remedy


@pytest.mark.parametrize(
    ("part", "override", "where", "remedy"),
    [
        ("method/forget=simnpo", "method.forget.beta=0", "method.forget.beta", "greater than 0"),
        ("method/forget=simnpo", "method.forget.delta=-1", "method.forget.delta", "at least 0"),
        ("method/forget=dpo", "method.forget.beta=0", "method.forget.beta", "greater than 0"),
        ("method/forget=altpo", "method.forget.beta=0", "method.forget.beta", "greater than 0"),
        ("method/forget=altpo", "method.forget.alternates=0", "method.forget.alternates", "at least 1"),
        ("method/forget=altpo", "method.forget.temperature=0", "method.forget.temperature", "greater than 0"),
        ("method/forget=altpo", "method.forget.max_new_tokens=0", "method.forget.max_new_tokens", "at least 1"),
        ("method/retain=ap", "method.retain.beta=0", "method.retain.beta", "greater than 0"),
        ("method/forget=llmu", "method.forget.mismatch_weight=-1", "method.forget.mismatch_weight", "at least 0"),
        ("method/forget=rmu", "method.forget.layer=-2", "method.forget.layer", "at least -1"),
        ("method/forget=rmu", "method.forget.steering=0", "method.forget.steering", "greater than 0"),
        ("method/forget=adaptive_rmu", "method.forget.scale=0", "method.forget.scale", "greater than 0"),
        ("method/retain=embed", "method.retain.layer=-2", "method.retain.layer", "at least -1"),
        ("method/forget=undial", "method.forget.beta=-1", "method.forget.beta", "at least 0"),
        ("method/forget=ceu", "method.forget.ignore_first=-1", "method.forget.ignore_first", "at least 0"),
        ("method/forget=wga", "method.forget.beta=-1", "method.forget.beta", "at least 0"),
        ("method/forget=satimp", "method.forget.beta2=-1", "method.forget.beta2", "at least 0"),
        ("method/forget=me_compat", "method.forget.pad_to=-1", "method.forget.pad_to", "at least 0"),
        ("method/retain=kl_compat", "method.retain.pad_to=-1", "method.retain.pad_to", "at least 0"),
        ("method=task_vector", "method.alpha=-1", "method.alpha", "at least 0"),
        ("method=whp", "method.alpha=-1", "method.alpha", "at least 0"),
        ("method=icu", "method.forget_examples=-1", "method.forget_examples", "at least 0"),
        ("method=ties", "method.density=0", "method.density", "greater than 0 and at most 1"),
    ],
)
def test_out_of_range_in_a_part(part, override, where, remedy):
    problems = problems_of(part, override, "model.lora=true")
    assert problems.keys() == {where}
    assert "out of range" in problems[where].what
    assert problems[where].remedy.startswith(remedy)
    assert ": " in problems[where].remedy, "the remedy does not say what the setting is"


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (("method=ties", "method.weights=[1]"), "method", "2 members need as many weights, not 1"),
        (("method=ties", "method.members=[]", "method.weights=[]"), "method", "merging takes at least two members"),
        (("method/retain=kl_gd", "method.retain.terms=[]"), "method.retain", "a sum takes at least one term"),
    ],
)
def test_a_class_refuses_its_own_arguments(overrides, where, what):
    problems = problems_of(*overrides, "model.lora=true")
    assert problems.keys() == {where}
    assert problems[where].what == what


@pytest.mark.parametrize(
    ("override", "where", "remedy"),
    [
        ("stages=[trian]", "stages[0]", "'train'"),
        ("model.dtype=bf16", "model.dtype", "'bfloat16'"),
        ("model.attention=flash", "model.attention", "flash_attention_2"),
        ("trainer.unlearn.optimizer=adamw", "trainer.unlearn.optimizer", "'adamw_torch'"),
        ("trainer.unlearn.schedule=cosin", "trainer.unlearn.schedule", "'cosine'"),
        ("launch.name=zzz", "launch.name", "choose from: auto, single, ddp, zero1"),
        ("task.source=disk", "task.source", "builtin, folder, hub"),
        ("task.split=test", "task.split", "train, validation, all"),
    ],
)
def test_unknown_choice(override, where, remedy):
    problems = problems_of(override)
    assert problems.keys() == {where}
    assert "unknown value" in problems[where].what
    assert remedy in problems[where].remedy


@pytest.mark.parametrize(
    ("part", "override", "where", "remedy"),
    [
        ("method=me_gd", "method.forget.direction=uniform", "method.forget.direction", "'to_uniform'"),
        ("method=rmu", "method.forget.mean=row", "method.forget.mean", "'rows'"),
        ("method=rmu", "method.retain.mean=release", "method.retain.mean", "'released'"),
        ("method=ties", "method.combination=dare_tie", "method.combination", "'dare_ties'"),
    ],
)
def test_unknown_choice_in_a_part(part, override, where, remedy):
    problems = problems_of(part, override, "model.lora=true")
    assert problems.keys() == {where}
    assert remedy in problems[where].remedy


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        ("method=npo_kd", "there is no method 'npo_kd'", "did you mean 'npo_kl'?"),
        ("method=idkap", "there is no method 'idkap'", "did you mean 'idk_ap'?"),
        ("method/forget=simpo", "there is no method/forget 'simpo'", "did you mean 'simnpo'?"),
        ("method/retain=embd", "there is no method/retain 'embd'", "did you mean 'embed'?"),
        (
            "experiment=closer_look/tofu_megd",
            "there is no experiment 'closer_look/tofu_megd'",
            "did you mean 'closer_look/tofu_me_gd'?",
        ),
    ],
)
def test_unknown_names_come_with_the_nearest(override, what, remedy):
    """Also of an experiment, which Hydra would leave out without a word if it were optional."""
    problems, good = override_problems([override, "seed=1"], [CONF])
    assert good == ["seed=1"]
    assert [problem.what for problem in problems] == [what]
    assert remedy in problems[0].remedy


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (("task.data_dir=gone",), "task.data_dir", "gone"),
        (("evaluator.mmlu.data_dir=gone",), "evaluator.mmlu.data_dir", "gone does not exist"),
        (("evaluator.mmlu.data_dir=empty",), "evaluator.mmlu.data_dir", "no test/*_test.csv in"),
        (("task.data_dir=empty",), "task.data_dir", "has neither forget.jsonl and retain.jsonl"),
        (("model=hf", "model.path=./gone"), "model.path", "gone does not exist"),
        (("model=7b", "model.base=/gone"), "model.base", "/gone does not exist"),
        (("model.path=model", "model.tokenizer=../gone"), "model.tokenizer", "gone does not exist"),
        (("stages=[score]", "responses=gone.jsonl"), "responses", "gone.jsonl does not exist"),
        (("method=idk_gd", "method.idk_file=gone.txt"), "method.idk_file", "gone.txt does not exist"),
    ],
)
def test_missing_files(overrides, where, what, tiny, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").symlink_to(tiny)
    monkeypatch.chdir(tmp_path)
    problems = problems_of(*overrides)
    assert problems.keys() == {where}
    assert what in problems[where].what
    assert problems[where].remedy
