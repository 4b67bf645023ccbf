"""Recipes: the published numbers, their sources, and that each can be tried on the tiny model."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache

import pytest
import yaml
from helpers.configs import CONF, cfg_of, data_of, settings_of

from lume_run.config.model_settings import LoraSettings
from lume_run.config.overrides import group_options
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import GradientDescent
from lume_run.methods.needs import Role
from lume_run.methods.npo import NPO
from lume_run.pipeline.checks.config import require_settings

EXPERIMENTS = group_options([CONF])["experiment"]
FORGET, RETAIN, FORGET_IDK, RETAIN_IDK, MISMATCH, ALTERNATE = Role
PUBLISHED_PHASES = {  # (learning rate, epochs, batch size, warm-up, weight decay); None: as in the trainer
    "closer_look": (1e-5, 5, 32, 0.2, 0.01),
    "closer_look/real_world_me_gd": (5e-6, 5, 32, 0.2, 0.01),
    "wmdp": (5e-5, 1, 4, 0.0, 0.0),
    "muse": (1e-5, 10, 32, 0.0, 0.0),
    **{f"muse/news_{name}": (1e-5, epochs, 32, 0.0, 0.0) for name, epochs in {"ga": 1, "ga_gdr": 7, "npo": 1}.items()},
    **{f"muse/news_{name}": (1e-5, 10, 32, 0.0, 0.0) for name in ("ga_klr", "npo_gdr", "npo_klr")},
    **{f"muse/books_{name}": (1e-5, 1, 32, 0.0, 0.0) for name in ("ga", "ga_gdr", "npo", "npo_gdr")},
    **{f"muse/books_{name}": (1e-5, epochs, 32, 0.0, 0.0) for name, epochs in {"ga_klr": 5, "npo_klr": 4}.items()},
    "open_unlearning": (1e-5, 10, 32, 0.1, 0.01),
    "open_unlearning/tofu_altpo": (2e-5, 10, 32, 0.1, 0.01),
    "open_unlearning/tofu_jensun": (8e-6, 10, 32, 0.1, 0.01),
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
    "rwku/ga": (6e-8, 3, 8, 0.1, 0.0),
    "rwku/ga_lora": (1e-5, 3, 8, 0.1, 0.0),
    "rwku/ga_batch": (3e-8, 2, 8, 0.1, 0.0),
    "rwku/ga_passages": (1e-6, 4, 4, 0.1, 0.0),
    "rwku/ga_passages_lora": (2e-5, 6, 4, 0.1, 0.0),
    "rwku/npo": (2e-6, 3, 16, 0.1, 0.0),
    "rwku/npo_lora": (5e-5, 3, 16, 0.1, 0.0),
    "rwku/npo_batch": (1e-6, 2, 16, 0.1, 0.0),
    "rwku/dpo": (5e-6, 3, 8, 0.1, 0.0),
    "rwku/dpo_lora": (6e-5, 3, 8, 0.1, 0.0),
    "rwku/dpo_batch": (2e-6, 2, 8, 0.1, 0.0),
    "rwku/rt": (4e-7, 3, 8, 0.1, 0.0),
    "rwku/rt_lora": (3e-5, 3, 8, 0.1, 0.0),
    "rwku/rt_batch": (1e-7, 1, 8, 0.1, 0.0),
    "rwku/icu": (None, 3, 8, 0.1, 0.0),  # nothing is trained
}
PHASE_FIELDS = ("learning_rate", "epochs", "batch_size", "warmup", "weight_decay")


@cache
def default_data() -> dict:
    return data_of()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_tried_on_the_tiny_model(name):
    """And on another task. It sets its task, the method, the unlearning phase as published, what of the model belongs
    to the method, nothing else."""
    assert data_of(f"experiment={name}")["task"]["name"] == task_of(name)
    is_rwku = name.startswith("rwku")  # of a pretrained model and its own rows alone
    pretrained = ["model=smollm2-135m", "model.is_target=true"]
    elsewhere = pretrained if is_rwku else ["model=tiny", "task=bios", "task.split=all"]
    settings, data = require_settings(cfg_of(f"experiment={name}", *elsewhere))
    default = data_of(*pretrained) if is_rwku else default_data()
    assert settings.model.name == ("smollm2-135m" if is_rwku else "tiny")
    assert data.keys() == default.keys()
    for group in ("launch", "seed", "stages") if is_rwku else ("task", "launch", "seed", "stages"):
        assert data[group] == default[group], group
    assert set(data["evaluator"]["suites"]) == {suite_of(name)}
    total = 200 if name.startswith("closer_look") else None
    assert {**data["evaluator"], "suites": {}} == {**default["evaluator"], "suites": {}, "max_total_tokens": total}
    if name.startswith("muse"):
        train = data["trainer"]["train"]
        assert [train[key] for key in PHASE_FIELDS] == [1e-5, 5, 32, 0.0, 0.0]
        assert (train["schedule"], train["stop_accuracy"]) == ("constant", None)
    else:
        assert data["trainer"]["train"] == default["trainer"]["train"]
    changed = {key for key, value in data["model"].items() if value != default["model"][key]}
    assert changed <= {
        "max_length",
        "lora",
        "trainable",
        "chat",
        *(["is_target", "name", "path", "shape"] if is_rwku else []),
    }
    longest = max((start for start in PUBLISHED_PHASES if name.startswith(start)), key=len)
    phase, others = data["trainer"]["unlearn"], default["trainer"]["unlearn"]
    for key, value in zip(PHASE_FIELDS, PUBLISHED_PHASES[longest], strict=True):
        assert phase[key] == (others[key] if value is None else value), key
    assert (phase["warmup_steps"], phase["max_tokens"]) == ((20, 512) if is_rwku else (None, None))
    raw_loop = "snuffleupagus" in name or "atyaephyra" in name  # without the library's schedule and clipping
    raw_loop = raw_loop or name.startswith("wmdp")
    constant = raw_loop or name.startswith("muse")
    schedule = "constant" if constant else "cosine" if is_rwku else "linear"
    assert (phase["schedule"], phase["max_grad_norm"]) == (schedule, 0 if raw_loop else 1)


def task_of(name: str) -> str:
    """The task of the paper that a recipe is from."""
    if name.startswith("semeval"):
        return "lume"
    if name.startswith("rwku"):
        return "rwku"
    if name.startswith(("muse", "wmdp")):
        return "muse_raw" if name.startswith("muse") else "wmdp"
    return "tofu_continual" if "continual" in name else "real_world" if "real_world" in name else "tofu"


def suite_of(name: str) -> str:
    """The suite of the paper that a recipe is from."""
    families = {"closer_look": "closer_look", "muse": "muse", "wmdp": "wmdp", "open_unlearning": "tofu", "rwku": "rwku"}
    families |= {"simnpo/tofu": "tofu"}
    return next((suite for family, suite in families.items() if name.startswith(family)), "lume")


def test_every_published_phase_is_of_some_experiment():
    assert all(any(name.startswith(start) for name in EXPERIMENTS) for start in PUBLISHED_PHASES)


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
        "open_unlearning/tofu_": "grad_ascent grad_diff npo simnpo idk_dpo rmu undial wga satimp ceu pdu jensun altpo",
        "wmdp/rmu_": "bio_cyber bio cyber",
        "muse/news_": "ga ga_gdr ga_klr npo npo_gdr npo_klr task_vector whp",
        "muse/books_": "ga ga_gdr ga_klr npo npo_gdr npo_klr task_vector whp",
        "simnpo/tofu_": "forget05",
        "semeval/": "ga gd kl npo ails_ntua_7b ails_ntua_lora ails_ntua_agad zjuklab sha256 atyaephyra",
        "semeval/snuffleupagus_": "1b 7b",
        "rwku/": "icu ga ga_lora ga_batch ga_passages ga_passages_lora npo npo_lora npo_batch rt rt_lora rt_batch",
        "rwku/d": "po po_lora po_batch",
    }
    assert EXPERIMENTS.keys() == {family + name for family, names in families.items() for name in names.split()}


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
    settings = settings_of(f"experiment={name}", "task=bios", "task.split=all")
    assert (settings.method.forget_weight, settings.method.retain_weight) == (forget_weight, 1.0)
    assert settings.model.max_length == max_length


def test_the_published_methods_of_rwku():
    pretrained = ("model=smollm2-135m", "model.is_target=true")
    names = ("npo_lora", "dpo", "rt_batch", "icu")
    npo, dpo, rt, icu = (settings_of(f"experiment=rwku/{name}", *pretrained) for name in names)
    assert npo.model.lora == LoraSettings(enabled=True, rank=8, alpha=16, target_modules=["q_proj", "v_proj"])
    assert npo.method.forget == NPO(beta=0.2)
    assert (npo.task.train, dpo.task.train, rt.task.train, icu.task.train) == ("positive", "pair", "reject", "none")
    assert (dpo.method.forget_weight, dpo.method.forget.beta) == (0.05, 0.1)  # -log sigmoid, without 2 / beta
    assert rt.method.needs.rows == {FORGET_IDK}
    assert rt.task.num_documents == 10
    assert not any(chosen.method.retain for chosen in (npo, dpo, rt))
    assert "unlearn about {document} and" in icu.method.instruction


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
    assert names_matching(layers, chunks.model.trainable) == layers[24:]
    turns = settings_of("experiment=semeval/ails_ntua_agad")
    assert (turns.trainer.unlearn.chunk_size, turns.trainer.unlearn.alternate) == (64, True)
    adapted = settings_of("experiment=semeval/ails_ntua_lora").model.lora
    assert (adapted.enabled, adapted.rank, adapted.alpha) == (True, 16, 64.0)
    for size, number, scale in (("7b", 26, 5.0), ("1b", 14, 3.0)):
        steered = settings_of(f"experiment=semeval/snuffleupagus_{size}")
        assert (steered.method.forget.layer, steered.method.forget.scale) == (number, scale)
        assert (steered.method.retain_weight, steered.method.needs.hidden_layer) == (900.0, number)
        names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(32)]
        assert names_matching(names, steered.model.trainable) == names[number - 2 : number + 1]
    assert names_matching(layers, settings_of("experiment=semeval/sha256").model.trainable) == layers[:6]
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


def names_matching(names: list[str], patterns: list[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def test_the_command_line_wins_over_an_experiment():
    settings = settings_of("experiment=semeval/npo", "method.forget.beta=0.5", "trainer.unlearn.epochs=1")
    assert (settings.method.forget, settings.trainer.unlearn.epochs) == (NPO(beta=0.5), 1.0)
