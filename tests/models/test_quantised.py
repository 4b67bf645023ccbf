"""Models that are scored in fewer bits: the whole stage, the numbers, and widths of any kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.configs import settings_of
from torch import nn
from transformers import AutoModelForCausalLM

from lume_run.config.model_settings import ModelSettings, ShapeSettings
from lume_run.models.load import load_model
from lume_run.models.precision import is_quantised
from lume_run.models.tiny import build_tiny
from lume_run.pipeline.driver import run_pipeline

bitsandbytes = pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
TEXTS = [f"Number {number} mends clocks in Tallinn, and sells what he mended." for number in range(40)]


def built(folder: Path, width: int) -> Path:
    shape = ShapeSettings(hidden_size=width, layers=2, heads=2, intermediate_size=2 * width, vocabulary=300)
    build_tiny(shape, TEXTS, seed=0, folder=folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("quantised") / "model", 64)


def dequantised(layer: nn.Module) -> torch.Tensor:
    """The weight (out, in) that a layer of fewer bits multiplies with."""
    weight = layer.weight
    if weight.dtype is torch.int8:
        return weight.data * weight.SCB[:, None] / 127
    return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)


@pytest.mark.parametrize(("bits", "share", "width"), [("8bit", 1.5, 64), ("4bit", 0.25, 64), ("4bit", 0.25, 96)])
def test_the_numbers_are_those_of_the_rounded_weights(bits, share, width, tmp_path):
    """To a share of what rounding the weights changes; LLM.int8() rounds activations as well.

    Rows of 96 are no whole number of bitsandbytes' blocks.
    """
    model = built(tmp_path / "model", width)
    ids = torch.arange(60)[None] % 300
    settings = ModelSettings(name="m", path=str(model), quantize=bits, dtype="float32")
    quantised = load_model(str(model), settings, CPU, quantised=True)
    plain = AutoModelForCausalLM.from_pretrained(model)
    untouched = plain(ids).logits
    layers = dict(plain.named_modules())
    rounded = {
        name: dequantised(module)
        for name, module in quantised.named_modules()
        if type(module).__name__.startswith("Linear") and name != "lm_head"
    }
    assert is_quantised(quantised) and len(rounded) == 14
    for name, weight in rounded.items():
        layers[name].weight.data = weight.to(torch.float32)
    with torch.no_grad():
        logits, expected = quantised(ids).logits.float(), plain(ids).logits
    error = (logits - expected).abs().max()
    assert error < share * (untouched - expected).abs().max()


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_model_is_scored_in_fewer_bits(bits, model, tmp_path):
    for side, people in (("forget", range(3)), ("retain", range(3, 6))):
        rows = [{"question": f"Who is number {n}?", "answer": f"Number {n} mends clocks."} for n in people]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sides = [f"task.{side}={tmp_path / side}.jsonl" for side in ("forget", "retain")]
    scores = {}
    for quantize in ("none", bits):
        settings = settings_of(
            "task=custom", *sides, "model=hf", f"model.path={model}", f"model.quantize={quantize}", "stages=[evaluate]",
            "evaluator=memorisation", "evaluator.max_new_tokens=4", "launch.device=cpu", "logger=none",
            f"output_dir={tmp_path / 'out'}",
        )  # fmt: skip
        run_pipeline(settings, tmp_path / quantize, identity={}, command=["test"])
        scores[quantize] = json.loads((tmp_path / quantize / "report.json").read_text())["scores"]
    assert scores["none"].keys() == scores[bits].keys()
    known = {name: value for name, value in scores["none"].items() if isinstance(value, float) and value}
    assert known and any(scores[bits][name] != value for name, value in known.items())  # other weights
    assert all(scores[bits][name] == pytest.approx(value, rel=0.3, abs=0.3) for name, value in known.items())
