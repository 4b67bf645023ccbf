"""Every YAML file is an option that composes, checks, and asks for what its parts need."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from helpers.configs import CONF, problems_of, settings_of
from helpers.shared import DATA, SHARED

from lume_run.config.model_settings import LoraSettings
from lume_run.config.overrides import group_options
from lume_run.methods.distillation import CEU, UNDIAL
from lume_run.methods.entropy import LogitMargin, MaximumEntropy
from lume_run.methods.jensun import RetainJS, TokenLogProb
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import GradientDescent
from lume_run.methods.needs import MIDDLE, Needs, Role

pytestmark = pytest.mark.slow

SIDES_OF_TOFU = (("forget", "01"), ("retain", "90"))
OPTIONS = [(group, name) for group, names in group_options([CONF]).items() for name in names]
REAL_PEOPLE = ["task.data_dir={shared}/data/real_world_closer_look"]
PRETRAINED = ["model=smollm2-135m", "model.is_target=true"]
COMPANIONS = {  # what an option takes
    ("model", "hf"): ["model.path={tiny}"],
    **{("model", name): ["task=tofu"] for group, name in OPTIONS if group == "model" and name.startswith("tofu-")},
    **{("model", name): ["task=muse_raw"] for group, name in OPTIONS if group == "model" and name.startswith("muse-")},
    ("method", "ties"): ["model.lora=true"],
    **{
        ("task", name): [
            "task.forget={shared}/data/tofu/forget01.jsonl",
            "task.retain={shared}/data/tofu/retain90.jsonl",
        ]
        for name in ("custom", "ugbench")
    },
    ("task", "muse"): ["task.data_dir={shared}/data/muse"],
    ("task", "real_world"): REAL_PEOPLE,
    ("task", "real_world_closer_look"): REAL_PEOPLE,
    **{("experiment", f"closer_look/real_world_{method}"): REAL_PEOPLE for method in ("me_gd", "idk_ap")},
    ("task", "rwku"): PRETRAINED,
    **{(group, name): PRETRAINED for group, name in OPTIONS if group == "experiment" and name.startswith("rwku/")},
}
ORGANIZATION = "llmunlearningsemeval2025organization"
FORGET, RETAIN, FORGET_IDK, RETAIN_IDK, MISMATCH, ALTERNATE = Role
FORGET_ROWS = Needs(rows={FORGET})
FORGET_LOGITS = replace(FORGET_ROWS, distributions=True, every_position=True)
FORGET_STATES = Needs(rows={FORGET}, hidden_layer=MIDDLE, logits=False)
RETAIN_STATES = Needs(rows={RETAIN}, hidden_layer=MIDDLE, logits=False, reference_hidden={RETAIN})
KL = Needs(token_losses=(RetainKL(),), rows={RETAIN}, reference_logits={RETAIN})
ALTERNATES = {FORGET, ALTERNATE}
FORGET_NEEDS = {
    "altpo": Needs(rows=ALTERNATES, reference_logps=ALTERNATES),
    "adaptive_rmu": replace(FORGET_STATES, reference_hidden={FORGET}),
    "ceu": replace(FORGET_ROWS, token_losses=(CEU(),)),
    "dpo": Needs(rows={FORGET, FORGET_IDK}, reference_logps={FORGET, FORGET_IDK}),
    "ga": FORGET_ROWS,
    "idk": Needs(rows={FORGET_IDK}),
    "jensun": replace(FORGET_ROWS, token_losses=(TokenLogProb(token=0),)),
    "llmu": Needs(rows={FORGET, MISMATCH}),
    "me": replace(FORGET_ROWS, token_losses=(MaximumEntropy(),), whole_rows={FORGET}),
    "me_compat": FORGET_LOGITS,
    "npo": replace(FORGET_ROWS, reference_logps={FORGET}),
    "pdu": replace(FORGET_ROWS, token_losses=(LogitMargin(),)),
    "pdu_compat": FORGET_LOGITS,
    "rmu": FORGET_STATES,
    "rmu_compat": replace(FORGET_STATES, released_means=True),
    "satimp": FORGET_ROWS,
    "simnpo": FORGET_ROWS,
    "undial": replace(FORGET_ROWS, token_losses=(UNDIAL(),), reference_logits={FORGET}),
    "undial_compat": replace(FORGET_LOGITS, reference_logits={FORGET}),
    "wga": FORGET_ROWS,
}
RETAIN_NEEDS = {
    "ap": Needs(rows={RETAIN, RETAIN_IDK}),
    "embed": RETAIN_STATES,
    "embed_compat": replace(RETAIN_STATES, released_means=True),
    "gd": Needs(rows={RETAIN}),
    "js": Needs(token_losses=(RetainJS(),), rows={RETAIN}, reference_logits={RETAIN}),
    "kl": KL,
    "kl_compat": Needs(rows={RETAIN}, distributions=True, reference_logits={RETAIN}, every_position=True),
    "kl_gd": KL,
    "none": Needs(logits=False),
}


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
def test_every_option_composes_and_checks(group, name, tiny):
    given = COMPANIONS.get((group, name), [])
    if any("{shared}" in override for override in given) and not DATA.is_dir():
        pytest.skip(f"{group}={name} has no built-in data, and there is none at {DATA}")
    companions = [override.format(tiny=tiny, shared=SHARED) for override in given]
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


@pytest.mark.parametrize("method", ["ties", "task_vector", "whp", "icu", "none", "retrain"])
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
    weights = [
        (member.method.forget_weight, [term.weight for term in member.method.retain.terms]) for member in method.members
    ]
    assert weights == [(0.4, [0.4, 0.2]), (0.3, [0.3, 0.4])]
    assert all(member.method.needs.rows == {FORGET, RETAIN} for member in method.members)


def test_numbers_of_the_right_kind():
    settings = settings_of("trainer.unlearn.epochs=2", "trainer.unlearn.batch_size=16.0", "model.max_length=64")
    assert (settings.trainer.unlearn.epochs, settings.trainer.unlearn.batch_size) == (2.0, 16)
    assert isinstance(settings.trainer.unlearn.epochs, float)
    assert isinstance(settings.trainer.unlearn.batch_size, int)
