"""What holds where nothing is said: one default in dataclass and YAML, the trainer of a model, debug."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from helpers.configs import CONF, cfg_of, data_of, problems_of, settings_of

from lume_run.config.model_settings import ModelSettings
from lume_run.config.overrides import override_problems
from lume_run.config.resolve import as_data
from lume_run.config.settings import LaunchSettings, LoggerSettings, Settings, TrainerSettings
from lume_run.config.targets import TARGET, import_target


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
def test_the_trainer_of_a_model(overrides, trainer, write_yaml, tiny):
    """LUME's, unless the model's own file says otherwise, and the command line before both; no file bears its name."""
    write_yaml(
        "model/smaller.yaml", "# Half as wide\ndefaults: [tiny, _self_]\nname: smaller\nshape: {hidden_size: 96}\n"
    )
    folder = write_yaml("model/mine.yaml", f"# Mine\ndefaults: [_base, _self_]\nname: mine\npath: {tiny}\n")
    data = as_data(cfg_of(*overrides, folder=folder))
    chosen = yaml.safe_load((CONF / "trainer" / f"{trainer}.yaml").read_text(encoding="utf-8"))
    assert data["trainer"]["train"] == chosen["train"]
    assert problems_of(*overrides, folder=folder) == {}


SCHEMAS = (  # a class of settings, the file with its defaults, where they stand in a config
    (Settings, "config.yaml", ""),
    (ModelSettings, "model/_base.yaml", "model."),
    (TrainerSettings, "trainer/lume.yaml", "trainer."),
    (LaunchSettings, "launch/auto.yaml", "launch."),
    (LoggerSettings, "logger/wandb.yaml", "logger."),
)
TWO_DEFAULTS = {"trainer.train.stop_accuracy"}  # fine-tuning stops at it, unlearning has none: one field for both


def defaults_of(schema: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key, default) of every field that has one, those of nested classes included."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        nested = [hint for hint in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(hint)]
        if nested:
            yield from defaults_of(nested[0], f"{path}{field.name}.")
        elif field.default is not MISSING:
            yield path + field.name, field.default
        elif field.default_factory is not MISSING:
            yield path + field.name, field.default_factory()


def leaves_of(node: dict, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves_of(value, f"{path}{key}.")
        else:
            yield path + key, value


@pytest.mark.parametrize(("schema", "file", "path"), SCHEMAS, ids=[file for _, file, _ in SCHEMAS])
def test_dataclass_and_yaml_say_the_same_default(schema, file, path):
    written = dict(leaves_of(yaml.safe_load((CONF / file).read_text(encoding="utf-8")), path))
    defaults = {key: value for key, value in defaults_of(schema, path) if key in written.keys() - TWO_DEFAULTS}
    assert defaults == {key: written[key] for key in defaults}
    assert len(defaults) >= 5


def test_every_default_of_a_setting_is_compared():
    """Each of them stands in one of the files, unless a file chooses the value for every option."""
    written = {
        key
        for _, file, path in SCHEMAS
        for key, _ in leaves_of(yaml.safe_load((CONF / file).read_text(encoding="utf-8")), path)
    }
    defaults = {key for schema, _, path in SCHEMAS for key, _ in defaults_of(schema, path)}
    unwritten = {key for key in defaults - written if not key.startswith("model.shape.")}
    assert unwritten == {
        "model.path",  # of every model's file
        "model.chat.arguments",  # none
        "evaluator.suites",  # of every evaluator's file
        "attack.attacks",  # of every attack's file
        *(
            f"trainer.train.{name}"
            for name in ("retain_ratio", "retain_partners", "chunk_size", "alternate", "sharpness")
        ),  # of unlearning alone
    }


CHOSEN = {("method/forget/rmu_compat", "mean"), ("method/retain/embed_compat", "mean")}  # what these files are for


def target_nodes(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        if TARGET in node:
            yield node
        for child in node.values():
            yield from target_nodes(child)


@pytest.mark.parametrize("folder", ["task", "evaluator", "method/forget", "method/retain"])
def test_class_and_yaml_say_the_same_default(folder):
    differing = set()
    compared = 0
    for path in sorted((CONF / folder).glob("*.yaml")):
        for node in target_nodes(yaml.safe_load(path.read_text(encoding="utf-8"))):
            defaults = dict(defaults_of(import_target(node[TARGET], ["lume_run"])))
            for name in defaults.keys() & node.keys():
                compared += 1
                default = list(defaults[name]) if isinstance(defaults[name], tuple) else defaults[name]
                if default != node[name]:
                    differing.add((f"{folder}/{path.stem}", name))
    assert differing == {(file, name) for file, name in CHOSEN if file.startswith(f"{folder}/")}
    assert compared >= 5


# ---------------------------------------------------------------------------------------------------------- debug


@pytest.mark.parametrize("task", ["bios", "novels", "wiki", "lume", "tofu"])
def test_debug_is_two_documents_and_two_epochs_without_tracking(task):
    settings = settings_of("debug=default", f"task={task}")
    assert settings.task.num_documents == 2
    assert (settings.trainer.train.epochs, settings.trainer.unlearn.epochs) == (2, 2)
    assert settings.logger.name == "none"


def test_debug_leaves_all_else_alone():
    ordinary, short = data_of("method=pdu", "evaluator=full"), data_of("method=pdu", "evaluator=full", "debug=default")
    assert "debug" not in ordinary.keys() | short.keys()
    changed = {key for key, value in leaves_of(ordinary) if dict(leaves_of(short))[key] != value}
    assert changed == {"task.num_documents", "trainer.train.epochs", "trainer.unlearn.epochs", "logger.name"}


def test_debug_wins_over_a_recipe_and_the_command_line_over_debug():
    recipe = ("experiment=semeval/sha256", "model=tiny", "debug=default")
    settings = settings_of(*recipe)
    assert settings.trainer.unlearn.epochs == 2
    assert settings.trainer.unlearn.batch_size == 60
    settings = settings_of(*recipe, "logger=tensorboard", "task.num_documents=3", "trainer.unlearn.epochs=1")
    assert (settings.logger.name, settings.task.num_documents, settings.trainer.unlearn.epochs) == ("tensorboard", 3, 1)


def test_a_debug_that_there_is_none_of():
    (problem,), _ = override_problems(["debug=true"], [CONF])
    assert (problem.what, problem.remedy) == ("there is no debug 'true'", "choose from: default")
