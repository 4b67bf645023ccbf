"""Every objective that conf/method names, on a tiny Llama: accumulation, checkpointing, and which weights move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import (
    LORA,
    MEMBERS,
    METHOD_FILES,
    OBJECTIVES,
    Setup,
    Snapshots,
    build_llama,
    compose_method,
    phase,
    rows_for,
    set_up,
)
from torch import Tensor

from lume_run.config.model_settings import LoraSettings
from lume_run.methods.baselines import BASELINES
from lume_run.methods.needs import Needs
from lume_run.methods.objective import Objective
from lume_run.models.forward import packed_inputs

pytestmark = pytest.mark.slow

CLOSE = 1e-5  # relative, in float32


def test_nothing_is_left_out():
    """What is no objective by its YAML file is a baseline."""
    for name in METHOD_FILES.keys() - set(OBJECTIVES):
        assert isinstance(compose_method(name), BASELINES), name
    assert all(isinstance(compose_method(name), Objective) for name in (*OBJECTIVES, *MEMBERS))
    assert len(compose_method("ties").members) == len(MEMBERS)


@pytest.fixture(scope="module")
def llama(tiny, tmp_path_factory) -> Path:
    return build_llama(tiny, tmp_path_factory.mktemp("llama"))


@dataclass(frozen=True)
class Whole:
    """The three steps of a method in whole batches, and how many tokens all forwards had: other ways are like these."""

    setup: Setup
    seen: Snapshots
    tokens: int


@pytest.fixture(scope="module")
def whole(llama, tmp_path_factory) -> Callable[[str, LoraSettings | None], Whole]:
    """By method and adapters, run once for all tests that compare with it."""

    @cache
    def of(name: str, lora: LoraSettings | None) -> Whole:
        with counted_tokens() as sizes:
            setup, seen = run(llama, tmp_path_factory.mktemp("whole"), name, lora, 16)
        return Whole(setup, seen, sum(sizes))

    return of


@contextmanager
def counted_tokens() -> Iterator[list[int]]:
    """How many tokens each forward has."""
    sizes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lume_run.models.forward.packed_inputs",
            lambda batch, packing, keep, original=packed_inputs: (
                sizes.append(len(packing.tokens)) or original(batch, packing, keep=keep)
            ),
        )
        yield sizes


def run(
    path: Path, folder: Path, name: str, lora: LoraSettings | None, micro: int, **model: Any
) -> tuple[Setup, Snapshots]:
    """Three steps of plain gradient descent: 4, 4 and 1 forget examples, each with a retain example beside it.

    Gradients are clipped to 1, so that methods of all scales make steps of one length; the log has their full norms.
    """
    seen, method = Snapshots(), compose_method(name)
    settings = phase(micro_batch_size=micro, max_grad_norm=1.0, learning_rate=0.1, schedule="constant")
    setup = set_up(path, rows_for(method, path), folder, method, settings, callbacks=[seen], lora=lora, **model)
    setup.trainer.train()
    assert setup.schedule.steps == len(seen.gradients) == len(seen.weights) == 3
    return setup, seen


def distance(weights: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """|one - other| / |other| over all weights together."""
    assert weights.keys() == other.keys()
    apart = sum(float(((weights[name] - value).double() ** 2).sum()) for name, value in other.items())
    return (apart / sum(float((value.double() ** 2).sum()) for value in other.values())) ** 0.5


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", [*OBJECTIVES, *MEMBERS])
def test_every_method(name, lora, llama, whole, tmp_path):
    """Three runs of the same steps: whole, in micro-batches of 2 rows, and with activations computed again."""
    whole, seen = whole(name, lora).setup, whole(name, lora).seen
    small, small_seen = run(llama, tmp_path / "small", name, lora, 2)
    again, again_seen = run(llama, tmp_path / "again", name, lora, 16, gradient_checkpointing=True)
    assert whole.schedule.accumulation == again.schedule.accumulation == 1
    assert small.schedule.accumulation > 1
    for setup, snapshots in ((small, small_seen), (again, again_seen)):
        assert setup.trainable == whole.trainable
        for step, tolerance in enumerate((CLOSE, 10 * CLOSE, 10 * CLOSE)):  # rounding grows from step to step
            assert distance(snapshots.gradients[step], seen.gradients[step]) < tolerance
            for part, value in whole.history[step].items():
                assert setup.history[step][part] == pytest.approx(value, rel=tolerance, abs=tolerance), part
        for weight, value in seen.weights[0].items():
            torch.testing.assert_close(snapshots.weights[0][weight], value, rtol=CLOSE, atol=CLOSE / 100)
    assert whole.moved == whole.trainable
    assert whole.trainable == expected_to_move(whole, compose_method(name), lora)


@pytest.mark.parametrize("name", ["npo_gd", "rmu"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_checkpointed_activations_are_really_computed_again(name, lora, llama, tmp_path):
    """The first layer's MLP runs once more for every training forward."""
    runs, method = [], compose_method(name)
    for checkpointing in (False, True):
        settings = phase(micro_batch_size=16, epochs=4 / 9)
        folder = tmp_path / str(checkpointing)
        setup = set_up(
            llama, rows_for(method, llama), folder, method, settings, lora=lora, gradient_checkpointing=checkpointing
        )
        calls: list[bool] = []
        first = next(module for path, module in setup.trainer.model.named_modules() if path.endswith("layers.0.mlp"))
        first.register_forward_pre_hook(lambda module, *_, calls=calls: calls.append(module.training))
        setup.trainer.train()
        runs.append(sum(calls))
    assert runs == [1, 2]


def expected_to_move(setup: Setup, method: Objective, lora: LoraSettings | None) -> set[str]:
    """All weights, or all adapters; up to the layer that is read where no logits are."""
    names = {name for name, _ in setup.trainer.model.named_parameters()}
    if lora is not None:
        names = {name for name in names if "lora_" in name}
    if method.needs.hidden_layer is not None:
        names = {name for name in names if ".layers.0." in name or "embed_tokens" in name}
    return names


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if compose_method(name).needs.shares_prompts])
def test_a_prompt_with_several_answers_is_run_once(name, lora, llama, whole, tmp_path, monkeypatch):
    """The same steps with every row apart; a refusal shares its prompt with the answer that it refuses."""
    shared, seen = whole(name, lora).setup, whole(name, lora).seen
    monkeypatch.setattr(Needs, "shares_prompts", False)
    with counted_tokens() as sizes:
        apart, seen_apart = run(llama, tmp_path / "apart", name, lora, 16)
    assert 0 < whole(name, lora).tokens < 0.9 * sum(sizes)
    for step, tolerance in enumerate((CLOSE, 10 * CLOSE, 10 * CLOSE)):
        assert distance(seen.gradients[step], seen_apart.gradients[step]) < tolerance
        for part, value in apart.history[step].items():
            assert shared.history[step][part] == pytest.approx(value, rel=tolerance, abs=tolerance), part
