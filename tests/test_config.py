"""Every YAML composes and checks; every mistake is found before a model is touched, all of them together."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lume_run.cli import run_name
from lume_run.config import as_data, check, checked, identity
from lume_run.errors import ConfigError, Problem
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import GradientAscent
from lume_run.overrides import compose, conf_dir, options
from lume_run.settings import Lora, Settings

CONF = conf_dir()
OPTIONS = [(group, name) for group, names in options([CONF]).items() for name in names]
ORGANIZATION = "llmunlearningsemeval2025organization"
METHOD = """# A combination of parts
defaults:
  - forget: {forget}
  - retain: {retain}
  - _self_
_target_: {target}
name: mine
"""


def cfg_of(*overrides: str, folder: Path | None = None):
    return compose(overrides, [CONF, *([folder] if folder else [])])


def problems_of(*overrides: str, folder: Path | None = None) -> dict[str, Problem]:
    """What check() finds, by place; every place is named once."""
    settings, problems, _ = check(cfg_of(*overrides, folder=folder))
    assert (settings is None) == bool(problems)
    found = {problem.where: problem for problem in problems}
    assert len(found) == len(problems), [str(problem) for problem in problems]
    return found


def settings_of(*overrides: str, folder: Path | None = None) -> Settings:
    return checked(cfg_of(*overrides, folder=folder))[0]


def data_of(*overrides: str) -> dict:
    return as_data(cfg_of(*overrides))


@pytest.fixture
def rows(tmp_path) -> Path:
    """A folder in LUME's layout (checks look at file names only)."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("forget.jsonl", "retain.jsonl"):
        (folder / name).touch()
    return folder


@pytest.fixture
def own(tmp_path):
    """Writes YAML files into a user's own configuration folder."""

    def write(path: str, text: str) -> Path:
        file = tmp_path / "own" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return tmp_path / "own"

    return write


# ------------------------------------------------------------------------------------------------- what is right


def test_every_yaml_is_an_option():
    files = {path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml")}
    assert files == {f"{group}/{name}" for group, name in OPTIONS} | {"config"}


def test_the_default_is_right():
    assert problems_of() == {}


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_composes_and_checks(group, name, tmp_path):
    companions = [f"model.path={tmp_path}"] if (group, name) == ("model", "hf") else []
    assert problems_of(f"{group}={name}", *companions) == {}


@pytest.mark.parametrize("model", ["tiny", "1b", "7b"])
@pytest.mark.parametrize("method", ["ga", "gd", "kl", "npo"])
def test_baselines_of_lume_on_every_model(method, model):
    settings = settings_of(f"method={method}", f"model={model}")
    assert (settings.method.name, settings.model.name) == (method, model)


@pytest.mark.parametrize("forget", sorted(options([CONF])["method/forget"]))
@pytest.mark.parametrize("retain", sorted(options([CONF])["method/retain"]))
def test_every_pair_of_parts(forget, retain):
    settings = settings_of(f"method/forget={forget}", f"method/retain={retain}")
    assert settings.method.needs.retain_rows == (retain != "none")
    assert settings.method.needs.reference_logps == (forget == "npo")
    assert settings.method.needs.reference_logits == retain.startswith("kl")


@pytest.mark.parametrize(
    ("model", "path", "base"),
    [
        ("7b", "olmo-finetuned-semeval25-unlearning", "allenai/OLMo-7B-0724-Instruct-hf"),
        ("1b", "olmo-1B-model-semeval25-unlearning", "allenai/OLMo-1B-0724-hf"),
    ],
)
def test_released_targets(model, path, base):
    settings = settings_of("method=npo", "task=bios", f"model={model}")
    assert settings.model.path == f"{ORGANIZATION}/{path}"
    assert settings.model.base == base
    assert settings.model.is_target
    assert settings.task.source == "hub"
    assert settings.task.hub_id == f"{ORGANIZATION}/semeval25-unlearning-dataset-public"
    assert list(settings.task.subtasks) == ["bios"]
    unlearn = settings.trainer.unlearn
    assert (unlearn.learning_rate, unlearn.epochs, unlearn.batch_size) == (1e-5, 10, 32)
    assert (settings.method.forget.beta, settings.method.retain) == (0.1, None)
    assert settings.model.mmlu_gate == (0.371 if model == "7b" else None)


def test_source_follows_from_what_is_given(rows, tmp_path):
    assert data_of()["task"]["source"] == "builtin"
    assert data_of("model=7b")["task"]["source"] == "hub"
    assert data_of(f"task.data_dir={rows}")["task"]["source"] == "folder"
    assert data_of("model=7b", f"task.data_dir={rows}")["task"]["source"] == "folder"
    assert data_of("model=hf", f"model.path={tmp_path}")["task"]["source"] == "builtin"
    assert data_of("model=hf", f"model.path={tmp_path}", "model.is_target=true")["task"]["source"] == "hub"


def test_lora_takes_a_flag_or_settings():
    assert settings_of("model.lora=true").model.lora == Lora(enabled=True)
    assert settings_of("model.lora=false").model.lora == Lora()
    assert settings_of("model.lora.enabled=true", "model.lora.rank=4").model.lora == Lora(enabled=True, rank=4)
    assert settings_of(
        "model.lora.enabled=true", "model.lora.target_modules=[q_proj,v_proj]"
    ).model.lora.target_modules == ["q_proj", "v_proj"]


def test_no_retain_part_reads_no_retain_rows():
    settings = settings_of("method=gd", "method/retain=none")
    assert settings.method.retain is None
    assert not settings.method.needs.retain_rows


def test_numbers_of_the_right_kind():
    settings = settings_of("trainer.unlearn.epochs=2", "trainer.unlearn.batch_size=16.0", "model.max_length=64")
    assert (settings.trainer.unlearn.epochs, settings.trainer.unlearn.batch_size) == (2.0, 16)
    assert isinstance(settings.trainer.unlearn.epochs, float)
    assert isinstance(settings.trainer.unlearn.batch_size, int)


def test_relative_paths_become_absolute(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    data = data_of("task.data_dir=rows", "model=hf", "model.path=model", "model.tokenizer='~/model'", "output_dir=o")
    assert data["task"]["data_dir"] == str(rows)
    assert data["model"]["path"] == data["model"]["tokenizer"] == str(tmp_path / "model")
    assert data["output_dir"] == str(tmp_path / "o")
    assert data_of("model=7b")["model"]["path"].startswith(ORGANIZATION)  # a hub id stays one
    assert data_of("model=hf", "model.path=./gone")["model"]["path"] == str(tmp_path / "gone")


def test_identity_leaves_out_what_computes_nothing(tmp_path):
    name = run_name(data_of())
    for override in ("dry_run=true", f"output_dir={tmp_path}", "launch.device=cpu"):
        assert run_name(data_of(override)) == name, override
    others = ("seed=1", "method=npo", "trainer.unlearn.epochs=3", "evaluator.max_new_tokens=9", "stages=[train]")
    names = [run_name(data_of(override)) for override in others]
    assert len({name, *names}) == len(names) + 1
    assert name.startswith("bios-tiny-npo_gd-")
    assert names[-1].startswith("train-bios-tiny-") and "npo" not in names[-1]  # no method takes part
    assert not {"dry_run", "output_dir", "launch", "hydra"} & identity(data_of()).keys()


def test_the_written_config_checks_to_the_same_run(tmp_path):
    """What a run folder holds is enough to repeat it, also from elsewhere."""
    _, data = checked(cfg_of("method=kl", f"output_dir={tmp_path}"))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(data)), encoding="utf-8")
    settings, again = checked(OmegaConf.load(tmp_path / "config.yaml"))
    assert again == data
    assert isinstance(settings.method.forget, GradientAscent)
    assert isinstance(settings.method.retain, RetainKL)


# ------------------------------------------------------------------------------------------------- single mistakes


@pytest.mark.parametrize(
    ("override", "where", "remedy"),
    [
        ("+sede=1", "sede", "'seed'"),
        ("+trainer.unlearn.learning_rte=1", "trainer.unlearn.learning_rte", "'learning_rate'"),
        ("+model.lora.rnak=1", "model.lora.rnak", "'rank'"),
        ("+task.subtask=[bios]", "task.subtask", "'subtasks'"),
        ("+method.forget.betta=1", "method.forget.betta", "'beta'"),
        ("+evaluator.mmlu.zzz=1", "evaluator.mmlu.zzz", "choose from: data_dir"),
    ],
)
def test_unknown_key(override, where, remedy):
    found = problems_of(override)
    assert found.keys() == {where}
    assert found[where].what == "unknown key"
    assert remedy in found[where].remedy


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
    found = problems_of(override)
    assert found.keys() == {where}
    assert what in found[where].what


@pytest.mark.parametrize("group", ["task", "method", "method.forget"])
def test_a_value_where_a_group_belongs(group):
    cfg = cfg_of()
    OmegaConf.update(cfg, group, 3)
    settings, problems, _ = check(cfg)
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
        ("method.forget_weight=nan", "method.forget_weight", "a finite number"),
    ],
)
def test_out_of_range(override, where, remedy):
    found = problems_of(override)
    assert found.keys() == {where}
    assert "out of range" in found[where].what
    assert remedy in found[where].remedy


def test_a_class_refuses_its_own_arguments():
    found = problems_of("method.forget.beta=0")
    assert found["method.forget"].what == "beta must be greater than 0"


@pytest.mark.parametrize(
    ("override", "where", "remedy"),
    [
        ("stages=[trian]", "stages[0]", "'train'"),
        ("model.dtype=bf16", "model.dtype", "'bfloat16'"),
        ("model.attention=flash", "model.attention", "flash_attention_2"),
        ("trainer.unlearn.optimizer=adamw", "trainer.unlearn.optimizer", "'adamw_torch'"),
        ("trainer.unlearn.schedule=cosin", "trainer.unlearn.schedule", "'cosine'"),
        ("launch.name=zzz", "launch.name", "choose from: single"),
        ("task.source=disk", "task.source", "builtin, folder, hub"),
        ("task.split=test", "task.split", "train, validation, all"),
    ],
)
def test_unknown_choice(override, where, remedy):
    found = problems_of(override)
    assert found.keys() == {where}
    assert "unknown value" in found[where].what
    assert remedy in found[where].remedy


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (("task.data_dir=gone",), "task.data_dir", "gone"),
        (("evaluator.mmlu.data_dir=gone",), "evaluator.mmlu.data_dir", "gone does not exist"),
        (("evaluator.mmlu.data_dir=empty",), "evaluator.mmlu.data_dir", "no test/*_test.csv in"),
        (("task.data_dir=empty",), "task.data_dir", "has no forget.jsonl and retain.jsonl"),
        (("model=hf", "model.path=./gone"), "model.path", "gone does not exist"),
        (("model=7b", "model.base=/gone"), "model.base", "/gone does not exist"),
        (("model.path=empty", "model.tokenizer=../gone"), "model.tokenizer", "gone does not exist"),
        (("stages=[score]", "responses=gone.jsonl"), "responses", "gone.jsonl does not exist"),
    ],
)
def test_missing_files(overrides, where, what, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    found = problems_of(*overrides)
    assert found.keys() == {where}
    assert what in found[where].what
    assert found[where].remedy


# ------------------------------------------------------------------------------------------------- combinations


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
        (("stages=[evaluate]",), "model.path", "scores an existing model"),
        (("model=7b", "task.source=builtin"), "task.source", "never saw the built-in documents"),
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
    found = problems_of(*(override.format(tmp=tmp_path) for override in overrides))
    assert found.keys() == {where}
    assert what in found[where].what
    assert found[where].remedy


def test_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = problems_of("launch.device=cuda")
    assert "no CUDA device" in found["launch.device"].what
    assert problems_of("launch.device=cpu") == {}


def test_parts_in_the_wrong_place(own):
    target = "lume_run.methods.objective.Objective"
    own("method/forget/swapped.yaml", "_target_: lume_run.methods.likelihood.GradientDescent")
    own("method/retain/swapped.yaml", "_target_: lume_run.methods.likelihood.GradientAscent")
    folder = own("method/mine.yaml", METHOD.format(forget="swapped", retain="swapped", target=target))
    found = problems_of("method=mine", folder=folder)
    assert found["method.forget"].what == "GradientDescent is a retain regulariser"
    assert found["method.forget"].remedy == "forget parts: conf/method/forget"
    assert found["method.retain"].what == "GradientAscent is a forget objective"
    assert found["method.retain"].remedy == "retain parts: conf/method/retain"


@pytest.mark.parametrize(
    ("path", "target", "where", "lacking"),
    [
        ("task/mine.yaml", "lume_run.methods.npo.NPO", "task", "name, load, check"),
        ("method/mine.yaml", "lume_run.methods.npo.NPO", "method", "name"),
        ("method/mine.yaml", "lume_run.settings.Lora", "method", "name, needs, __call__"),
        ("method/forget/mine.yaml", "lume_run.settings.Lora", "method.forget", "needs, __call__"),
        ("method/retain/mine.yaml", "lume_run.settings.Launch", "method.retain", "needs, __call__"),
    ],
)
def test_a_class_of_another_kind(own, path, target, where, lacking):
    folder = own(path, f"_target_: {target}")
    found = problems_of(f"{Path(path).parent}=mine", folder=folder)
    assert found.keys() == {where}
    assert found[where].what.endswith(f"it has no {lacking}")


# ------------------------------------------------------------------------------------------------- _target_


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "lume_runner.X", "lume_run_x.Y", "X", "", "lume_run"]
)
def test_foreign_targets_are_refused(target):
    cfg = cfg_of()
    OmegaConf.update(cfg, "method.forget._target_", target)
    _, problems, _ = check(cfg)
    assert [problem.where for problem in problems] == ["method.forget._target_"]
    assert problems[0].what == f"'{target}' is not from lume_run"
    assert "allow_external" in problems[0].remedy


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("lume_run.methods.kl.forward_kl", "is not a dataclass"),
        ("lume_run.store.FileLock", "is not a dataclass"),
        ("lume_run.runtime.console", "is not a dataclass"),
        ("lume_run.runtime.subprocess", "is not a dataclass"),
        ("lume_run.methods.npo.Nothing", "is not a dataclass"),
        ("lume_run.methods.nothing.NPO", "cannot be imported"),
        ("lume_run..NPO", "cannot be imported"),
    ],
)
def test_only_dataclasses_are_built(target, what):
    cfg = cfg_of()
    OmegaConf.update(cfg, "method.forget._target_", target)
    _, problems, _ = check(cfg)
    assert [problem.where for problem in problems] == ["method.forget._target_"]
    assert what in problems[0].what


OWN_LOSS = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lume_run.contracts import Needs

Path(__file__).with_suffix(".imported").touch()


@dataclass(frozen=True, kw_only=True)
class Mine:
    strength: float
    needs: ClassVar[Needs] = Needs()

    def __call__(self, s):
        return self.strength * s.logps.sum()
"""


def test_allow_external_takes_a_users_own_loss(own, tmp_path, monkeypatch):
    name = "losses_of_a_user"
    (tmp_path / f"{name}.py").write_text(OWN_LOSS, encoding="utf-8")
    imported = tmp_path / f"{name}.imported"
    monkeypatch.syspath_prepend(tmp_path)
    folder = own("method/forget/mine.yaml", f"# Mine\n_target_: {name}.Mine\nstrength: 2\n")
    refused = problems_of("method/forget=mine", folder=folder)
    assert refused["method.forget._target_"].what == f"'{name}.Mine' is not from lume_run"
    refused = problems_of("method/forget=mine", "allow_external=[losses_of]", folder=folder)
    assert refused.keys() == {"method.forget._target_"}  # a prefix of names, not of letters
    assert not imported.exists(), "a module that was not allowed has been imported"
    settings = settings_of("method/forget=mine", f"allow_external=[{name}]", folder=folder)
    assert (type(settings.method.forget).__name__, settings.method.forget.strength) == ("Mine", 2.0)
    assert imported.exists()
    found = problems_of("method/forget=mine", f"allow_external=[{name}]", "+method.forget.size=1", folder=folder)
    assert found.keys() == {"method.forget.size"}


# ------------------------------------------------------------------------------------------------- all together


def test_values_that_lead_nowhere_are_named():
    found = problems_of("model=hf", "model.base=${nowhere}", "model.tokenizer=${model.path}")
    assert found.keys() == {"model.path", "model.base"}  # model.tokenizer is right once model.path is
    assert found["model.path"].what == "Missing mandatory value: path"
    assert "nowhere" in found["model.base"].what
    assert all(problem.remedy == f"set {where}=..." for where, problem in found.items())


def test_a_group_that_leads_nowhere():
    cfg = cfg_of()
    OmegaConf.update(cfg, "trainer", "${nowhere}")
    settings, problems, _ = check(cfg)
    assert settings is None
    assert [problem.where for problem in problems] == ["trainer"]


def test_all_problems_are_reported_together(tmp_path):
    found = problems_of(
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
        "launch.device=gpu",
    )
    assert found.keys() == {
        "model.path",
        "model.base",
        "model.dtype",
        "seed",
        "sede",
        "stages",
        "trainer.unlearn.learning_rate",
        "trainer.train.batch_size",
        "task.num_documents",
        "evaluator.mmlu.data_dir",
        "method.forget._target_",
        "launch.device",
    }


def test_the_message_numbers_problems_and_remedies():
    with pytest.raises(ConfigError) as caught:
        checked(cfg_of("seed=-1", "model.dtype=bf16"))
    text = str(caught.value)
    assert text.startswith("The configuration has problems (2):\n  1. ")
    assert "model.dtype: unknown value 'bf16'\n      -> did you mean 'bfloat16'?" in text
    assert "seed: -1 is out of range\n      -> at least 0" in text
    assert isinstance(caught.value, ValueError)


def test_without_a_group_nothing_breaks():
    for group in ("task", "model", "method", "evaluator", "trainer", "launch"):
        cfg = OmegaConf.create({key: value for key, value in as_data(cfg_of()).items() if key != group})
        settings, problems, _ = check(cfg)
        assert settings is None
        assert group in {problem.where for problem in problems}


def test_checking_changes_no_config():
    cfg = cfg_of("model=hf", "model.base=${nowhere}")
    before = OmegaConf.to_yaml(cfg)
    check(cfg)
    assert OmegaConf.to_yaml(cfg) == before


def test_an_adapter_setting_without_adapters_is_refused():
    """A rank that nothing reads would look like a result of that rank."""
    _, problems, _ = check(compose(["model.lora.rank=4"], [conf_dir()]))
    assert [(problem.where, problem.remedy) for problem in problems] == [
        ("model.lora.rank", "add model.lora.enabled=true")
    ]
    assert not check(compose(["model.lora.rank=4", "model.lora.enabled=true"], [conf_dir()]))[1]
