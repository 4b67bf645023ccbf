"""Values that are right alone and impossible together; every problem is reported, all together."""

from __future__ import annotations

import pytest
from helpers.configs import cfg_of, problems_of
from omegaconf import OmegaConf

from lume_run.common.errors import ConfigError
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import as_data
from lume_run.pipeline.checks.config import check_config, combination_problems, require_settings


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (("stages=[]",), "stages", "no stage given"),
        (("stages=[train,score]",), "stages", "score stands alone"),
        (("stages=[unlearn,train]",), "stages", "out of order or repeated"),
        (("stages=[train,train]",), "stages", "out of order or repeated"),
        (("stages=[score]",), "responses", "needs a responses file"),
        (("responses={tmp}",), "responses", "only stage score reads responses"),
        (("model.shape=null",), "model.path", "neither a path nor a shape"),
        (("model.is_target=true", "task.source=hub"), "model.path", "must be named"),
        (("model.revision=main",), "model.revision", "model.path is null"),
        (("stages=[evaluate]",), "model.path", "scores an existing model"),
        (("model=7b", "task.source=builtin"), "task.source", "never saw the built-in documents"),
        (("model=tofu-llama-3.2-1b", "task=bios"), "task", "memorised the rows of another benchmark"),
        (("model=tofu-llama-3.2-1b", "task=bios", "task.source=builtin"), "task", "rows of another benchmark"),
        (("model=1b", "task=tofu"), "task", "memorised the rows of another benchmark"),
        (
            ("model=7b", "model.base=null", "evaluator.retrained=true"),
            "model.base",
            "fine-tunes the model from before",
        ),
        (("method/forget=npo", "task.split=train"), "task.split", "picks among released parquet files"),
        (("task.num_documents=0",), "task.num_documents", "no data"),
        (("task.subtasks=[]",), "task.subtasks", "no subtask"),
        (("task.subtasks=[poems]",), "task.subtasks", "unknown subtask 'poems'"),
        (("trainer.unlearn.optimizer=paged_adamw_8bit",), "trainer.unlearn.optimizer", "needs bitsandbytes"),
        (("launch.device=gpu",), "launch.device", "gpu"),
    ],
)
def test_impossible_combinations(overrides, where, what, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as where bitsandbytes is not installed
    problems = problems_of(*(override.format(tmp=tmp_path) for override in overrides))
    assert problems.keys() == {where}
    assert what in problems[where].what
    assert problems[where].remedy


def test_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    problems = problems_of("launch.device=cuda")
    assert "no CUDA device" in problems["launch.device"].what
    assert problems_of("launch.device=cpu") == {}


def test_all_problems_are_reported_together(tmp_path):
    problems = problems_of(
        "model=hf",  # model.path is ???
        "model.base=${nowhere}",
        "model.dtype=bf16",
        "seed=x",
        "+sede=3",
        "stages=[evaluate,train]",
        "trainer.unlearn.learning_rate=7",
        "trainer.train.batch_size=0",
        "task.num_documents=0",
        f"evaluator.mmlu.data_dir={tmp_path}/gone",
        "method.forget._target_=os.system",
        "method.dual.step_size=0",
        "launch.device=gpu",
    )
    assert problems.keys() == {
        "model.path",
        "model.base",
        "model.dtype",
        "seed",
        "sede",
        "stages",
        "trainer.unlearn.learning_rate",
        "trainer.train.batch_size",
        "method.dual.step_size",
        "task.num_documents",
        "evaluator.mmlu.data_dir",
        "method.forget._target_",
        "launch.device",
    }


def test_all_conflicts_are_reported_together(tmp_path):
    """Where every value is right by itself."""
    (tmp_path / "empty.txt").touch()
    problems = problems_of(
        "method=idk_gd",
        f"method.idk_file={tmp_path}/empty.txt",
        "method.forget_weight=0",
        "method.retain_weight=0",
        "trainer.unlearn.optimizer=sgd",
        "+trainer.train.chunk_size=8",
        "+trainer.train.alternate=true",
        "model.trainable=['*.mlp.*']",
        "model.lora=true",
        "model.is_target=true",
    )
    assert problems.keys() == {
        "method.idk_file",
        "method.forget_weight",
        "trainer.train.chunk_size",
        "trainer.train.alternate",
        "model.trainable",
        "model.path",
    }


def test_the_message_numbers_problems_and_remedies():
    with pytest.raises(ConfigError) as caught:
        require_settings(cfg_of("seed=-1", "model.dtype=bf16"))
    text = str(caught.value)
    assert text.startswith("The configuration has problems (2):\n  1. ")
    assert "model.dtype: unknown value 'bf16'\n      -> did you mean 'bfloat16'?" in text
    assert "seed: -1 is out of range\n      -> at least 0" in text
    assert isinstance(caught.value, ValueError)


def test_without_a_group_nothing_breaks():
    for group in ("task", "model", "method", "evaluator", "trainer", "launch"):
        cfg = OmegaConf.create({key: value for key, value in as_data(cfg_of()).items() if key != group})
        settings, problems, _ = check_config(cfg)
        assert settings is None
        assert group in {problem.where for problem in problems}


def test_an_adapter_setting_without_adapters_is_refused():
    """A rank that nothing reads would look like a result of that rank."""
    _, problems, _ = check_config(compose(["model.lora.rank=4"], [conf_dir()]))
    assert [(problem.where, problem.remedy) for problem in problems] == [
        ("model.lora.rank", "add model.lora.enabled=true")
    ]
    assert not check_config(compose(["model.lora.rank=4", "model.lora.enabled=true"], [conf_dir()]))[1]


@pytest.mark.parametrize("name", ["../..", "a/b", "", ".", "..", ".hidden", "a b", "a\nb", "\x1b[2J", "ü"])
@pytest.mark.parametrize("group", ["task", "model", "method"])
def test_names_stay_in_the_output_folder(group, name):
    data = {group: {"name": name}, "stages": ["train"]}
    problems = [problem for problem in combination_problems(data) if problem.where == f"{group}.name"]
    assert len(problems) == 1 and repr(name) in problems[0].what and problems[0].remedy


@pytest.mark.parametrize("name", ["npo+gd", "tiny", "7b", "a.b_c-d", "-1"])
def test_usual_names_pass(name):
    data = {"model": {"name": name}, "stages": ["train"]}
    assert not [problem for problem in combination_problems(data) if problem.where == "model.name"]
