"""Rounding and pruning: arithmetic by hand, bitsandbytes' own numbers, and which weights are edited."""

from __future__ import annotations

import pytest
import torch
from helpers.configs import problems_of
from torch import nn

from lume_run.attacks.edit import linear_weights, write_edited
from lume_run.attacks.prune import Prune, prune_weights
from lume_run.attacks.quantise import FP4, NF4, Quantise, nearest, round_to_grid, round_to_int8
from lume_run.common.errors import RunError
from lume_run.config.model_settings import ModelSettings
from lume_run.models.load import load_model
from lume_run.models.precision import BLOCK

CPU = torch.device("cpu")


def test_the_nearest_level_and_half_way_the_lower():
    values = torch.tensor([-2.0, -0.26, -0.25, 0.0, 0.24, 0.75, 0.76, 9.0])
    expected = torch.tensor([-1.0, -0.5, -0.5, 0.0, 0.0, 0.5, 1.0, 1.0])
    assert torch.equal(nearest(values, (-1.0, -0.5, 0.0, 0.5, 1.0)), expected)


def test_int8_is_a_127th_of_each_rows_largest():
    weight = torch.tensor([[127.0, 0.4, -0.6, -127.0], [2.54, 0.021, 0.029, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[127.0, 0.0, -1.0, -127.0], [2.54, 0.02, 0.02, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(round_to_int8(weight), expected)


def test_blocks_have_scales_of_their_own_across_rows():
    """Rows of 96: the second block begins in the first row's last third, and the last one is short."""
    weight = torch.full((3, 96), 0.01)
    weight[0, 0], weight[0, 64] = 1.0, 0.01
    rounded = round_to_grid(weight, (-1.0, 0.0, 1.0)).flatten()
    assert rounded[0] == 1.0
    assert torch.equal(rounded[1:BLOCK], torch.zeros(BLOCK - 1))  # 0.01 of 1 is nearest to 0
    assert torch.allclose(rounded[BLOCK:], torch.full((3 * 96 - BLOCK,), 0.01))  # each the largest of its block


@pytest.mark.parametrize("grid", [NF4, FP4])
def test_grids_rise_and_end_at_one(grid):
    assert list(grid) == sorted(set(grid))
    assert (grid[0], grid[-1], 0.0 in grid) == (-1.0, 1.0, True)
    on_grid = torch.tensor(grid)
    assert torch.equal(round_to_grid(on_grid, grid), on_grid)  # what lies on it stays


@pytest.mark.parametrize(("name", "grid"), [("nf4", NF4), ("fp4", FP4)])
@pytest.mark.parametrize("shape", [(8, 64), (5, 48), (3, 7)])
def test_four_bits_are_those_of_bitsandbytes(name, grid, shape):
    """As one row: its CPU kernel takes another block's scale where blocks end within rows."""
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(weight.reshape(1, -1), quant_type=name, blocksize=BLOCK)
    expected = functional.dequantize_4bit(packed, state).view(shape)
    assert torch.allclose(round_to_grid(weight, grid), expected, atol=1e-6)


def test_int8_is_that_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(16, 40, generator=torch.Generator().manual_seed(1)).half()
    rows, scale, _ = functional.int8_vectorwise_quant(weight)
    expected = rows.float() * scale[:, None] / 127
    assert torch.allclose(round_to_int8(weight.float()), expected, atol=1e-6)


def weights_of(*rows: list[float]) -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(len(row), 1, bias=False) for row in rows)
    for layer, row in zip(model.layers, rows, strict=True):
        layer.weight.data = torch.tensor([row])
    model.get_output_embeddings = model.get_input_embeddings = lambda: None
    return model


@pytest.mark.parametrize(
    ("scope", "first", "second"),
    [
        ("matrix", [0.0, 0.0, 3.0, -4.0], [0.0, 0.0, 30.0, -40.0]),
        ("model", [0.0, 0.0, 0.0, 0.0], [10.0, -20.0, 30.0, -40.0]),
    ],
)
def test_the_smallest_half_becomes_zero(scope, first, second):
    model = weights_of([1.0, -2.0, 3.0, -4.0], [10.0, -20.0, 30.0, -40.0])
    prune_weights(model, 0.5, scope)
    assert [layer.weight[0].tolist() for layer in model.layers] == [first, second]


def test_of_equal_weights_exactly_the_share_is_dropped():
    model = weights_of([1.0] * 10)
    prune_weights(model, 0.3, "matrix")
    assert model.layers[0].weight[0].tolist() == [0.0] * 3 + [1.0] * 7


def test_embeddings_and_head_are_left(tiny, tmp_path):
    """Of a whole model: every linear layer's weights lie on the grid, everything else is as it was."""
    settings = ModelSettings(name="test")
    (edit,) = Quantise(formats=("nf4",)).edits()
    write_edited(settings, str(tiny), edit, tmp_path / "model")
    before, after = (load_model(str(path), settings, CPU, dtype=torch.float32) for path in (tiny, tmp_path / "model"))
    edited = {f"{name}.weight" for name in linear_weights(before)}
    assert edited
    assert not any("lm_head" in name or "embed" in name for name in edited)
    for (name, weight), changed in zip(before.named_parameters(), after.parameters(), strict=True):
        expected = round_to_grid(weight, NF4) if name in edited else weight
        assert torch.equal(changed, expected), name
        assert torch.equal(changed, weight) == (name not in edited), name


def test_a_model_without_linear_layers_is_refused():
    model = nn.Module()
    model.get_output_embeddings = model.get_input_embeddings = lambda: None
    with pytest.raises(RunError, match="no linear layers"):
        linear_weights(model)


def test_strengths_are_named_by_their_formats():
    assert [edit.strength.label for edit in Quantise().edits()] == ["int8", "nf4", "fp4"]
    assert [edit.strength.label for edit in Prune().edits()] == ["10%", "30%", "50%"]
    assert len({str(edit.identity) for edit in (*Quantise().edits(), *Prune().edits())}) == 6


@pytest.mark.parametrize(
    "override",
    [
        "attack.attacks.quantise.formats=[]",
        "attack.attacks.quantise.formats=[nf4,nf4]",
        "attack.attacks.prune.shares=[0]",
        "attack.attacks.prune.shares=[10]",
        "attack.attacks.benign.path=/no/such/file.txt",
    ],
)
def test_what_is_refused(override):
    place = ".".join(override.partition("=")[0].split(".")[:3])
    assert any(where.startswith(place) or "no/such" in where for where in problems_of("attack=full", override))
