"""Every YAML composes and checks; every mistake is found before a model is touched, all of them together."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
import yaml
from helpers.shared import SHARED
from omegaconf import OmegaConf

from lume_run.common.errors import ConfigError, Problem
from lume_run.config.overrides import compose, conf_dir, group_options, override_problems
from lume_run.config.resolve import as_data, run_identity
from lume_run.config.settings import LoraSettings, Settings
from lume_run.config.targets import class_name
from lume_run.methods.base import MIDDLE, Needs, Role
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import GradientAscent, GradientDescent
from lume_run.methods.npo import NPO
from lume_run.pipeline.checks import check_config, require_settings
from lume_run.sweeps.names import run_name

CONF = conf_dir()
OPTIONS = [(group, name) for group, names in group_options([CONF]).items() for name in names]
EXPERIMENTS = group_options([CONF])["experiment"]
COMPANIONS = {  # what an option takes
    ("model", "hf"): ["model.path={tmp}"],
    ("method", "ties"): ["model.lora=true"],
    ("task", "muse"): ["task.data_dir={shared}/data/muse"],
    ("task", "real_world"): ["task.data_dir={shared}/data/real_world_closer_look"],
}
ORGANIZATION = "llmunlearningsemeval2025organization"
FORGET, RETAIN, FORGET_IDK, RETAIN_IDK, MISMATCH = Role
OWN = Needs(rows={FORGET})
STATES = Needs(rows={FORGET}, hidden_layer=MIDDLE, logits=False)
KEPT = Needs(rows={RETAIN}, hidden_layer=MIDDLE, logits=False, reference_hidden={RETAIN})
DISTRIBUTIONS = Needs(rows={RETAIN}, reference_logits={RETAIN})
FORGET_NEEDS = {
    "adaptive_rmu": replace(STATES, reference_hidden={FORGET}),
    "ceu": OWN,
    "dpo": Needs(rows={FORGET, FORGET_IDK}, reference_logps={FORGET, FORGET_IDK}),
    "ga": OWN,
    "idk": Needs(rows={FORGET_IDK}),
    "llmu": Needs(rows={FORGET, MISMATCH}),
    "me": replace(OWN, whole_rows={FORGET}),
    "me_compat": replace(OWN, every_position=True),
    "npo": replace(OWN, reference_logps={FORGET}),
    "pdu": OWN,
    "pdu_compat": replace(OWN, every_position=True),
    "rmu": STATES,
    "rmu_compat": STATES,
    "satimp": OWN,
    "simnpo": OWN,
    "undial": replace(OWN, reference_logits={FORGET}),
    "undial_compat": replace(OWN, reference_logits={FORGET}, every_position=True),
    "wga": OWN,
}
RETAIN_NEEDS = {
    "ap": Needs(rows={RETAIN, RETAIN_IDK}),
    "embed": KEPT,
    "embed_compat": KEPT,
    "gd": Needs(rows={RETAIN}),
    "kl": DISTRIBUTIONS,
    "kl_compat": replace(DISTRIBUTIONS, every_position=True),
    "kl_gd": DISTRIBUTIONS,
    "none": Needs(logits=False),
}
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
    settings, problems, _ = check_config(cfg_of(*overrides, folder=folder))
    assert (settings is None) == bool(problems)
    found = {problem.where: problem for problem in problems}
    assert len(found) == len(problems), [str(problem) for problem in problems]
    return found


def settings_of(*overrides: str, folder: Path | None = None) -> Settings:
    return require_settings(cfg_of(*overrides, folder=folder))[0]


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
    """Files that begin with `_` hold shared values and are none; each of them is a default of some option."""
    files = {path.relative_to(CONF).with_suffix("").as_posix(): path for path in CONF.rglob("*.yaml")}
    files = {name: path for name, path in files.items() if not name.startswith("hydra/")}  # launchers and sweepers
    shared = {name: path for name, path in files.items() if path.name.startswith("_")}
    assert files.keys() - shared == {f"{group}/{name}" for group, name in OPTIONS} | {"config"}
    composed = set()
    for name, path in files.items():
        for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", []):
            if isinstance(entry, str):  # from the root, or from the folder of its file
                composed.add(entry[1:] if entry.startswith("/") else f"{name.rpartition('/')[0]}/{entry}")
    assert shared.keys() <= composed


def test_the_default_is_right():
    assert problems_of() == {}


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_composes_and_checks(group, name, tmp_path):
    given = COMPANIONS.get((group, name), [])
    if any("{shared}" in override for override in given) and not SHARED.is_dir():
        pytest.skip(f"{group}={name} has no built-in data, and there is none at {SHARED}")
    companions = [override.format(tmp=tmp_path, shared=SHARED) for override in given]
    assert problems_of(f"{group}={name}", *companions) == {}


@pytest.mark.parametrize("model", ["tiny", "1b", "7b"])
@pytest.mark.parametrize("method", ["ga", "gd", "kl", "npo"])
def test_baselines_of_lume_on_every_model(method, model):
    settings = settings_of(f"method={method}", f"model={model}")
    assert (settings.method.name, settings.model.name) == (method, model)


def test_every_part_has_its_needs_written_here():
    assert FORGET_NEEDS.keys() == group_options([CONF])["method/forget"].keys()
    assert RETAIN_NEEDS.keys() == group_options([CONF])["method/retain"].keys()


@pytest.mark.parametrize("forget", FORGET_NEEDS)
@pytest.mark.parametrize("retain", RETAIN_NEEDS)
def test_every_pair_of_parts(forget, retain):
    """What is computed is what both need, and no more."""
    settings = settings_of(f"method/forget={forget}", f"method/retain={retain}")
    assert settings.method.needs == FORGET_NEEDS[forget] | RETAIN_NEEDS[retain]
    assert any(role.is_forget for role in settings.method.needs.rows)
    assert (RETAIN in settings.method.needs.rows) == (retain != "none")


@pytest.mark.parametrize("method", ["ties", "task_vector", "icu", "none", "retrain"])
def test_baselines_ask_for_nothing_while_training(method):
    assert settings_of(f"method={method}", "model.lora=true").method.name == method


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
    assert settings_of("model.lora=true").model.lora == LoraSettings(enabled=True)
    assert settings_of("model.lora=false").model.lora == LoraSettings()
    assert settings_of("model.lora.enabled=true", "model.lora.rank=4").model.lora == LoraSettings(enabled=True, rank=4)
    assert settings_of(
        "model.lora.enabled=true", "model.lora.target_modules=[q_proj,v_proj]"
    ).model.lora.target_modules == ["q_proj", "v_proj"]


def test_no_retain_part_reads_no_retain_rows():
    settings = settings_of("method=gd", "method/retain=none")
    assert settings.method.retain is None
    assert settings.method.needs.rows == {FORGET}


def test_parts_take_their_settings():
    method = settings_of("method=me_gd", "method.forget.prompts=false", "method.stop_when.retain_nll=2").method
    assert (method.forget_weight, method.forget.direction, method.forget.prompts) == (0.1, "to_uniform", False)
    assert (method.stop_when.retain_nll, method.stop_when.forget_loss, method.dual.bound) == (2.0, None, None)
    both = settings_of("method/retain=kl_gd").method.retain
    assert [(type(term.part), term.weight) for term in both.terms] == [(RetainKL, 0.5), (GradientDescent, 0.5)]


def test_adapters_to_merge_are_whole_methods():
    method = settings_of("method=ties", "model.lora=true").method
    assert (method.weights, method.combination, method.density) == ((1.0, 1.0), "ties", 0.8)
    weights = [(own.method.forget_weight, [term.weight for term in own.method.retain.terms]) for own in method.members]
    assert weights == [(0.4, [0.4, 0.2]), (0.3, [0.3, 0.4])]
    assert all(own.method.needs.rows == {FORGET, RETAIN} for own in method.members)


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
    assert not {"dry_run", "output_dir", "launch", "hydra"} & run_identity(data_of()).keys()


def test_identity_survives_a_class_that_moves_to_another_module():
    data = data_of()
    elsewhere = copy.deepcopy(data)
    elsewhere["method"]["_target_"] = elsewhere["method"]["_target_"].replace("lume_run.", "lume_run.elsewhere.")
    assert run_identity(elsewhere) == run_identity(data)
    elsewhere["method"]["_target_"] = "mine.Objective"  # of somebody else: another class
    assert run_identity(elsewhere) != run_identity(data)


def test_no_two_classes_that_configs_name_share_a_name():
    paths = {
        match[1]
        for path in conf_dir().rglob("*.yaml")
        for match in re.finditer(r"_target_: (lume_run\.[\w.]+)", path.read_text(encoding="utf-8"))
    }
    assert len({class_name(path) for path in paths}) == len(paths) > 40


def test_the_written_config_checks_to_the_same_run(tmp_path):
    """What a run folder holds is enough to repeat it, also from elsewhere."""
    _, data = require_settings(cfg_of("method=kl", f"output_dir={tmp_path}"))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(data)), encoding="utf-8")
    settings, again = require_settings(OmegaConf.load(tmp_path / "config.yaml"))
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


def test_the_old_key_of_the_suites(own):
    """In a user's own YAML file, on the command line, in the config.yaml of an earlier version's run folder."""
    renamed = "evaluator.metrics is now evaluator.suites"
    text = "metrics:\n  lume: {_target_: lume_run.evaluation.suites.lume.Lume}\n"
    in_file = problems_of("evaluator=mine", folder=own("evaluator/mine.yaml", text))
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
        ("method.dual.step_size=0", "method.dual.step_size", "greater than 0"),
        ("trainer.unlearn.retain_ratio=0", "trainer.unlearn.retain_ratio", "at least 1"),
        ("trainer.unlearn.chunk_size=0", "trainer.unlearn.chunk_size", "at least 1"),
    ],
)
def test_out_of_range(override, where, remedy):
    found = problems_of(override)
    assert found.keys() == {where}
    assert "out of range" in found[where].what
    assert remedy in found[where].remedy


@pytest.mark.parametrize(
    ("part", "override", "where", "remedy"),
    [
        ("method/forget=simnpo", "method.forget.beta=0", "method.forget.beta", "greater than 0"),
        ("method/forget=simnpo", "method.forget.delta=-1", "method.forget.delta", "at least 0"),
        ("method/forget=dpo", "method.forget.beta=0", "method.forget.beta", "greater than 0"),
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
        ("method=icu", "method.forget_examples=-1", "method.forget_examples", "at least 0"),
        ("method=ties", "method.density=0", "method.density", "greater than 0 and at most 1"),
    ],
)
def test_out_of_range_in_a_part(part, override, where, remedy):
    found = problems_of(part, override, "model.lora=true")
    assert found.keys() == {where}
    assert "out of range" in found[where].what
    assert found[where].remedy.startswith(remedy)
    assert ": " in found[where].remedy, "the remedy does not say what the setting is"


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (("method=ties", "method.weights=[1]"), "method", "2 members need as many weights, not 1"),
        (("method=ties", "method.members=[]", "method.weights=[]"), "method", "merging takes at least two members"),
        (("method/retain=kl_gd", "method.retain.terms=[]"), "method.retain", "a sum takes at least one term"),
    ],
)
def test_a_class_refuses_its_own_arguments(overrides, where, what):
    found = problems_of(*overrides, "model.lora=true")
    assert found.keys() == {where}
    assert found[where].what == what


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
    found = problems_of(override)
    assert found.keys() == {where}
    assert "unknown value" in found[where].what
    assert remedy in found[where].remedy


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
    found = problems_of(part, override, "model.lora=true")
    assert found.keys() == {where}
    assert remedy in found[where].remedy


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
        (("task.data_dir=empty",), "task.data_dir", "has no forget.jsonl and retain.jsonl"),
        (("model=hf", "model.path=./gone"), "model.path", "gone does not exist"),
        (("model=7b", "model.base=/gone"), "model.base", "/gone does not exist"),
        (("model.path=empty", "model.tokenizer=../gone"), "model.tokenizer", "gone does not exist"),
        (("stages=[score]", "responses=gone.jsonl"), "responses", "gone.jsonl does not exist"),
        (("method=idk_gd", "method.idk_file=gone.txt"), "method.idk_file", "gone.txt does not exist"),
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
        ("method/mine.yaml", "lume_run.config.settings.LoraSettings", "method", "name, needs, __call__"),
        ("method/forget/mine.yaml", "lume_run.config.settings.LoraSettings", "method.forget", "needs, __call__"),
        ("method/retain/mine.yaml", "lume_run.config.settings.LaunchSettings", "method.retain", "needs, __call__"),
    ],
)
def test_a_class_of_another_kind(own, path, target, where, lacking):
    folder = own(path, f"_target_: {target}")
    found = problems_of(f"{Path(path).parent}=mine", folder=folder)
    assert found.keys() == {where}
    assert found[where].what.endswith(f"it has no {lacking}")


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
        (("method=none", "model.trainable=['*.mlp.*']"), "model.trainable", "'none' cannot choose weights", "a loss"),
        (("method=icu", "model.trainable=['*.mlp.*']"), "model.trainable", "'icu' cannot choose weights", "a loss"),
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
        (("+trainer.train.alternate=true",), "trainer.train.alternate", "one side", "trainer.unlearn.alternate="),
    ],
)
def test_impossible_methods(overrides, where, what, remedy):
    found = problems_of(*overrides)
    assert found.keys() == {where}
    assert what in found[where].what
    assert remedy in found[where].remedy


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
        found = {problem.where: problem for problem in check_config(cfg)[1]}
    else:
        found = member_problems(change)
    place = ".".join(filter(None, ("method.members[0].method", where)))
    assert found.keys() == {place}
    assert found[place].what.startswith(what)
    assert found[place].remedy


def test_adapters_to_merge_in_steps_of_their_own():
    found = member_problems({"retain": None}, "trainer.unlearn.alternate=true")
    assert found["trainer.unlearn.alternate"].what == "'npo_kl_gd' reads no retain rows"
    found = member_problems({"dual": {"bound": 1.0}}, "trainer.unlearn.alternate=true")
    assert found["trainer.unlearn.alternate"].what == "steps without retain rows have no retain loss to bound"
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
    found = problems_of(f"method={method}", f"method.idk_file={tmp_path}/refusals.txt")
    assert found.keys() == {"method.idk_file"}
    assert found["method.idk_file"].what == f"'{method}' reads no refusals"
    assert found["method.idk_file"].remedy == "use it with idk, dpo or ap, or drop it"


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"", "{file}: holds no refusals", "one refusal a line"),
        (b" \n\n", "{file}: holds no refusals", "one refusal a line"),
        (b"I pass.\nd\xe9sol\xe9\n", "{file}:2: byte 2 of the line, 0xe9, is not UTF-8", "save the file as UTF-8"),
        (None, "{file}: cannot be read", "one refusal a line"),
    ],
    ids=["empty", "blank", "latin-1", "a folder"],
)
def test_refusals_that_cannot_be_used_are_told_up_front(content, what, remedy, tmp_path):
    file = tmp_path / "refusals.txt"
    file.mkdir() if content is None else file.write_bytes(content)
    found = problems_of("method=idk_gd", f"method.idk_file={file}")
    assert found.keys() == {"method.idk_file"}
    assert found["method.idk_file"].what.startswith(what.format(file=file))
    assert remedy in found["method.idk_file"].remedy


# ------------------------------------------------------------------------------------------------- experiments


TRIED = {  # (learning rate, epochs, batch size, warm-up, weight decay); None: as in the trainer
    "closer_look": (1e-5, 5, 32, 0.2, 0.01),
    "closer_look/real_world_me_gd": (5e-6, 5, 32, 0.2, 0.01),
    "open_unlearning": (1e-5, 10, 32, 0.1, 0.01),
    "open_unlearning/tofu_undial": (1e-4, 10, 32, 0.1, 0.01),
    "semeval": (1e-5, 10, 32, 0.1, 0.01),
    "semeval/ails_ntua_7b": (1e-5, 7, 1, 0.0, 0.0),
    "semeval/ails_ntua_lora": (1e-5, 7, 1, 0.0, 0.0),
    "semeval/ails_ntua_agad": (5e-5, 3, 16, 0.0, 0.0),
    "semeval/zjuklab": (1e-4, 5, None, 0.2, 0.01),  # each adapter has a batch size of its own
    "semeval/snuffleupagus_1b": (5e-5, None, 8, 0.0, 0.0),
    "semeval/snuffleupagus_7b": (5e-5, None, 12, 0.0, 0.0),
    "semeval/sha256": (1.5e-5, 8, 60, 0.0, 0.0),
    "semeval/atyaephyra": (1e-4, 20, 2, 0.0, 0.0),
    "simnpo": (1e-5, 10, 32, 0.1, 0.01),
}
RATES = ("learning_rate", "epochs", "batch_size", "warmup", "weight_decay")


@cache
def default_data() -> dict:
    return data_of()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_tried_on_the_tiny_model(name):
    """It sets the method, the unlearning phase as published, what of the model belongs to the method, nothing else."""
    settings, data = require_settings(cfg_of(f"experiment={name}", "model=tiny"))
    default = default_data()
    assert settings.model.name == "tiny"
    assert data.keys() == default.keys()
    for group in ("task", "launch", "seed", "stages"):
        assert data[group] == default[group], group
    assert set(data["evaluator"]["suites"]) == {measured_by(name)}
    assert {**data["evaluator"], "suites": {}} == {**default["evaluator"], "suites": {}}
    assert data["trainer"]["train"] == default["trainer"]["train"]
    changed = {key for key, value in data["model"].items() if value != default["model"][key]}
    assert changed <= {"max_length", "lora", "trainable"}
    longest = max((start for start in TRIED if name.startswith(start)), key=len)
    phase, others = data["trainer"]["unlearn"], default["trainer"]["unlearn"]
    for key, value in zip(RATES, TRIED[longest], strict=True):
        assert phase[key] == (others[key] if value is None else value), key
    raw_loop = "snuffleupagus" in name or "atyaephyra" in name  # without the library's schedule and clipping
    assert (phase["schedule"], phase["max_grad_norm"]) == (("constant", 0) if raw_loop else ("linear", 1))


def measured_by(name: str) -> str:
    """The suite of the paper that a recipe is from."""
    families = {"closer_look": "closer_look", "open_unlearning": "tofu", "simnpo/tofu": "tofu"}
    return next((suite for family, suite in families.items() if name.startswith(family)), "lume")


def test_every_published_rate_is_of_some_experiment():
    assert all(any(name.startswith(start) for name in EXPERIMENTS) for start in TRIED)


@pytest.mark.parametrize(
    ("overrides", "trainer"),
    [
        ((), "tiny"),
        (("model=1b",), "lume"),
        (("model=mine",), "lume"),
        (("model=smaller",), "tiny"),
        (("trainer=lume",), "lume"),
        (("model=tiny", "trainer=lume"), "lume"),
        (("trainer=lume", "model=tiny"), "lume"),
        (("model=7b", "trainer=tiny"), "tiny"),
        (("experiment=semeval/sha256", "model=tiny", "trainer=lume"), "lume"),
    ],
)
def test_the_trainer_of_a_model(overrides, trainer, own, tmp_path):
    """LUME's, unless the model's own file says otherwise, and the command line before both; no file bears its name."""
    own("model/smaller.yaml", "# Half as wide\ndefaults: [tiny, _self_]\nname: smaller\nshape: {hidden_size: 96}\n")
    folder = own("model/mine.yaml", f"# Mine\ndefaults: [_base, _self_]\nname: mine\npath: {tmp_path}\n")
    data = as_data(cfg_of(*overrides, folder=folder))
    chosen = yaml.safe_load((CONF / "trainer" / f"{trainer}.yaml").read_text(encoding="utf-8"))
    assert data["trainer"]["train"] == chosen["train"]
    assert problems_of(*overrides, folder=folder) == {}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_names_its_source_and_the_one_size_it_is_for(name):
    sources = ("arXiv:", "open-unlearning", "SemEval-2025 Task 4")
    assert any(source in EXPERIMENTS[name] for source in sources), EXPERIMENTS[name]
    text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n# ")
    chosen = [entry["override /model"] for entry in yaml.safe_load(text)["defaults"] if "override /model" in entry]
    assert chosen == ([name[-2:]] if name.endswith(("_1b", "_7b")) else [])


def test_the_recipes_are_all_there():
    families = {
        "closer_look/tofu_": "me_gd me_gd_compat idk_ap ga_gd ga_kl npo_gd npo_kl dpo_gd dpo_kl idk_gd idk_kl",
        "closer_look/continual_": "me_gd idk_ap",
        "closer_look/real_world_": "me_gd idk_ap",
        "open_unlearning/tofu_": "grad_ascent grad_diff npo simnpo idk_dpo rmu undial wga satimp ceu pdu",
        "simnpo/tofu_": "forget05",
        "semeval/": "ga gd kl npo ails_ntua_7b ails_ntua_lora ails_ntua_agad zjuklab sha256 atyaephyra",
        "semeval/snuffleupagus_": "1b 7b",
    }
    assert EXPERIMENTS.keys() == {family + name for family, names in families.items() for name in names.split()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_recipe_by_its_old_name(name):
    """Recipes were `semeval_npo` before they stood in a folder for each family."""
    (problem,), _ = override_problems([f"experiment={name.replace('/', '_')}"], [CONF])
    assert problem.remedy == f"did you mean '{name}'?"


@pytest.mark.parametrize(
    ("name", "forget_weight", "max_length"),
    [
        ("closer_look/tofu_me_gd", 0.1, 500),
        ("closer_look/tofu_me_gd_compat", 0.1, 500),
        ("closer_look/tofu_idk_ap", 1.0, 500),
        ("closer_look/continual_me_gd", 1.0, 500),
        ("closer_look/continual_idk_ap", 1.0, 500),
        ("closer_look/real_world_me_gd", 0.5, 300),
        ("closer_look/real_world_idk_ap", 1.0, 300),
        ("open_unlearning/tofu_simnpo", 0.125, None),
        ("open_unlearning/tofu_satimp", 0.1, None),
        ("simnpo/tofu_forget05", 0.1375, 500),
    ],
)
def test_published_coefficients(name, forget_weight, max_length):
    settings = settings_of(f"experiment={name}")
    assert (settings.method.forget_weight, settings.method.retain_weight) == (forget_weight, 1.0)
    assert settings.model.max_length == max_length


def test_the_released_maximum_entropy_is_padded_to_500():
    needs = settings_of("experiment=closer_look/tofu_me_gd_compat").method.needs
    assert (needs.pad_to, needs.every_position, needs.whole_rows) == (500, True, set())
    assert settings_of("experiment=closer_look/tofu_me_gd").method.needs.whole_rows == {FORGET}


def test_open_unlearnings_primal_dual():
    method = settings_of("experiment=open_unlearning/tofu_pdu").method
    assert (method.retain_weight, method.dual.bound, method.dual.step_size) == (100.0, 0.3, 5.0)
    assert method.dual.warmup_steps == 5 * 400 // 32


def test_semeval_systems():
    chunks = settings_of("experiment=semeval/ails_ntua_7b")
    unlearn = chunks.trainer.unlearn
    assert (chunks.method.forget_weight, chunks.method.retain_weight) == (1 / 8, 7 / 8 * 0.5)
    assert (unlearn.chunk_size, unlearn.retain_ratio, unlearn.alternate) == (32, 7, False)
    layers = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(32)]
    assert matched(layers, chunks.model.trainable) == layers[24:]
    turns = settings_of("experiment=semeval/ails_ntua_agad")
    assert (turns.trainer.unlearn.chunk_size, turns.trainer.unlearn.alternate) == (64, True)
    adapted = settings_of("experiment=semeval/ails_ntua_lora").model.lora
    assert (adapted.enabled, adapted.rank, adapted.alpha) == (True, 16, 64.0)
    for size, number, scale in (("7b", 26, 5.0), ("1b", 14, 3.0)):
        steered = settings_of(f"experiment=semeval/snuffleupagus_{size}")
        assert (steered.method.forget.layer, steered.method.forget.scale) == (number, scale)
        assert (steered.method.retain_weight, steered.method.needs.hidden_layer) == (900.0, number)
        names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(32)]
        assert matched(names, steered.model.trainable) == names[number - 2 : number + 1]
    assert matched(layers, settings_of("experiment=semeval/sha256").model.trainable) == layers[:6]
    merged = settings_of("experiment=semeval/zjuklab")
    default = settings_of("method=ties", "model.lora=true").method
    assert [member.batch_size for member in merged.method.members] == [4, 8]
    assert [member.method for member in merged.method.members] == [member.method for member in default.members]
    assert merged.model.lora == LoraSettings(enabled=True, rank=32, alpha=32.0, dropout=0.05)
    low = settings_of("experiment=semeval/atyaephyra")
    assert low.method.forget == NPO(beta=0.5)
    assert [(type(term.part), term.weight) for term in low.method.retain.terms] == [
        (GradientDescent, 1.0),
        (RetainKL, 0.5),
    ]
    assert low.model.lora == LoraSettings(enabled=True, rank=5, alpha=5.0, target_modules=["q_proj", "v_proj"])


def matched(names: list[str], patterns: list[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def test_the_command_line_wins_over_an_experiment():
    settings = settings_of("experiment=semeval/npo", "method.forget.beta=0.5", "trainer.unlearn.epochs=1")
    assert (settings.method.forget, settings.trainer.unlearn.epochs) == (NPO(beta=0.5), 1.0)


# ------------------------------------------------------------------------------------------------- _target_


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "lume_runner.X", "lume_run_x.Y", "X", "", "lume_run"]
)
def test_foreign_targets_are_refused(target):
    cfg = cfg_of()
    OmegaConf.update(cfg, "method.forget._target_", target)
    _, problems, _ = check_config(cfg)
    assert [problem.where for problem in problems] == ["method.forget._target_"]
    assert problems[0].what == f"'{target}' is not from lume_run"
    assert "allow_external" in problems[0].remedy


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("lume_run.methods.kl.forward_kl", "is not a dataclass"),
        ("lume_run.common.store.FileLock", "is not a dataclass"),
        ("lume_run.common.console.console", "is not a dataclass"),
        ("lume_run.pipeline.manifest.subprocess", "is not a dataclass"),
        ("lume_run.methods.npo.Nothing", "is not a dataclass"),
        ("lume_run.methods.nothing.NPO", "cannot be imported"),
        ("lume_run..NPO", "cannot be imported"),
    ],
)
def test_only_dataclasses_are_built(target, what):
    cfg = cfg_of()
    OmegaConf.update(cfg, "method.forget._target_", target)
    _, problems, _ = check_config(cfg)
    assert [problem.where for problem in problems] == ["method.forget._target_"]
    assert what in problems[0].what


OWN_LOSS = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lume_run.methods.base import Needs

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
    settings, problems, _ = check_config(cfg)
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
        "method.dual.step_size=0",
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
        "method.dual.step_size",
        "task.num_documents",
        "evaluator.mmlu.data_dir",
        "method.forget._target_",
        "launch.device",
    }


def test_all_conflicts_are_reported_together(tmp_path):
    """Where every value is right by itself."""
    (tmp_path / "empty.txt").touch()
    found = problems_of(
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
    assert found.keys() == {
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


def test_checking_changes_no_config():
    cfg = cfg_of("model=hf", "model.base=${nowhere}")
    before = OmegaConf.to_yaml(cfg)
    check_config(cfg)
    assert OmegaConf.to_yaml(cfg) == before


def test_an_adapter_setting_without_adapters_is_refused():
    """A rank that nothing reads would look like a result of that rank."""
    _, problems, _ = check_config(compose(["model.lora.rank=4"], [conf_dir()]))
    assert [(problem.where, problem.remedy) for problem in problems] == [
        ("model.lora.rank", "add model.lora.enabled=true")
    ]
    assert not check_config(compose(["model.lora.rank=4", "model.lora.enabled=true"], [conf_dir()]))[1]
