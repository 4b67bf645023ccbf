"""Weights between those before and after unlearning: what they are, that they are shared, where there are none."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.configs import data_of, problems_of
from safetensors.torch import load_file

from lume_run.config.resolve import run_identity


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (("method=icu",), ["mix"]),
        (("method=whp",), ["mix"]),
        (("method=none",), ["mix"]),
        (("sequence=in_turn",), ["mix"]),
        (("stages=[train,evaluate]",), ["mix"]),
        (("method=retrain",), []),
        (("mix=1.5",), ["mix"]),
    ],
)
def test_where_there_is_nothing_between(overrides, where):
    assert list(problems_of("mix=0.5", *overrides)) == where


def test_a_run_without_it_has_the_folder_that_it_had():
    assert "mix" not in run_identity(data_of())
    assert run_identity(data_of("mix=0.5"))["mix"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), ("model.lora.enabled=true", "model.lora.target_modules=[q_proj,v_proj]")])
def test_half_of_the_way(lora, tmp_path):
    """Each weight is the mean of both, adapters counted in; the unlearned model is made once for all shares."""
    from helpers import warm

    words = ["debug=default", "logger=none", "model.shape.hidden_size=48", "model.shape.layers=1", *lora]
    for mix in ("null", "0.5"):
        ended = warm.run(*words, f"mix={mix}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    half = next((tmp_path / "outputs").glob("*/unmixed")).parent
    whole = next(path for path in (tmp_path / "outputs").glob("bios*") if path != half)
    manifest = json.loads((half / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["artifacts"]["unlearned"] == str(half / "unlearned" / "model")
    assert manifest["training"]["unlearned"]["steps"] > 0
    target = load_file(f"{manifest['artifacts']['target']}/model.safetensors")
    after = load_file(whole / "unlearned" / "model" / "model.safetensors")
    mixed = load_file(half / "unlearned" / "model" / "model.safetensors")
    changed = {name for name, weight in after.items() if not torch.equal(weight, target[name])}
    assert {name.split(".")[-2] for name in changed} >= {"q_proj", "v_proj"}
    assert len(changed) == 2 or not lora
    for name, weight in mixed.items():
        torch.testing.assert_close(weight, (target[name] + after[name]) / 2)
    shared = (half / "unmixed" / "model" / "model.safetensors").stat().st_ino
    assert shared == (whole / "unlearned" / "model" / "model.safetensors").stat().st_ino
