"""Sharpness: the same as two passes written out, however a step is cut; what else a step may hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.shared import tokenizer_at
from helpers.training import LORA, Setup, build_llama, phase, rows_for, set_up
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lume_run.methods.jensun import JensUn, RetainJS
from lume_run.methods.kl import RetainKL
from lume_run.methods.likelihood import GradientAscent, GradientDescent
from lume_run.methods.npo import NPO
from lume_run.methods.objective import Objective
from lume_run.models.rows.batch import collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.reference import live_reference
from lume_run.training.schedule import IDLE_ROLE, totals_of
from lume_run.training.sharpness import SharpnessTrainer, side_of
from lume_run.training.signals import read_signals
from lume_run.training.trainer import Diverged, UnlearnTrainer

pytestmark = pytest.mark.slow

NPO_GD = Objective(name="npo+gd", forget=NPO(beta=0.5), retain=GradientDescent(), forget_weight=0.7, retain_weight=2.0)
JENSUN = Objective(name="jensun", forget=JensUn(tokens=(5, 9)), retain=RetainJS(), forget_weight=100.0)
GA_KL = Objective(name="ga+kl", forget=GradientAscent(), retain=RetainKL())
ALONE = Objective(name="npo", forget=NPO(beta=0.5))
RHO = 0.3
EXACT = 1e-6
ONE_STEP = phase(epochs=4 / 9, learning_rate=0.05, schedule="constant", max_grad_norm=0.0, micro_batch_size=16)


@pytest.fixture(scope="module")
def llama(tiny, tmp_path_factory):
    return build_llama(tiny, tmp_path_factory.mktemp("llama"))


def train(llama, folder, method: Objective, settings, **options) -> Setup:
    setup = set_up(llama, rows_for(method, llama), folder, method, settings, **options)
    setup.trainer.train()
    return setup


def gradient_of(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))


def two_passes(llama, method: Objective, setup: Setup, rows: list[TokenRow]) -> dict[str, Tensor]:
    """The weights after a step, written out: w - 0.05 (forget'(w + rho g / |g|) + retain'(w)), g = forget'(w)."""
    model, frozen = (AutoModelForCausalLM.from_pretrained(llama).train(False) for _ in range(2))
    step = [rows[number] for micro in setup.schedule.micro_batches for number in micro.rows]
    batch = collate(step, pad_id=int(tokenizer_at(llama).pad_token_id), totals=totals_of(step, [range(len(step))]))
    if setup.job.cache is not None:
        batch = setup.job.cache.attach(batch, method.needs.reference_logps)

    def signals():
        reference = live_reference(model, frozen) if method.needs.live_reference else None
        return read_signals(model, batch, needs=method.needs, reference=reference)

    s = signals()
    ascent = gradient_of(method.forget(s), model)
    retain = gradient_of(method.retain_weight * method.retain(s), model) if method.retain else None
    norm = torch.cat([gradient.flatten() for gradient in ascent]).double().norm()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), ascent, strict=True):
            parameter += RHO * gradient / norm
    forget = gradient_of(method.forget_weight * method.forget(signals()), model)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            further = retain[number] if retain else 0
            parameter.copy_(before[number] - 0.05 * (forget[number] + further))
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("method", [NPO_GD, JENSUN, GA_KL, ALONE], ids=lambda method: method.name)
def test_a_step_is_two_passes_written_out(method, llama, tmp_path):
    """And is another one than without sharpness."""
    rows = rows_for(method, llama)
    settings = replace(ONE_STEP, sharpness=RHO)
    setup = train(llama, tmp_path / "sharp", method, settings)
    assert isinstance(setup.trainer, SharpnessTrainer) and setup.schedule.steps == 1
    for name, value in two_passes(llama, method, setup, rows).items():
        torch.testing.assert_close(setup.weights[name], value, atol=EXACT, rtol=0, msg=name)
    plain = train(llama, tmp_path / "plain", method, ONE_STEP)
    assert type(plain.trainer) is UnlearnTrainer
    apart = max(float((setup.weights[name] - value).abs().max()) for name, value in plain.weights.items())
    assert apart > 100 * EXACT


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("method", [NPO_GD, GA_KL], ids=lambda method: method.name)
def test_how_a_step_is_cut_changes_nothing(method, lora, llama, tmp_path):
    """Three steps; small micro-batches hold one side alone, or nothing but idle rows."""
    runs = [
        train(
            llama,
            tmp_path / str(size),
            method,
            phase(micro_batch_size=size, sharpness=RHO, learning_rate=0.1, max_grad_norm=1.0),
            lora=lora,
        )
        for size in (16, 1, 3)
    ]
    whole, *others = runs
    assert whole.schedule.accumulation == 1 < others[1].schedule.accumulation
    for setup in others:
        assert any(micro.idle for micro in setup.schedule.micro_batches)
        for mine, theirs in zip(setup.history, whole.history, strict=True):
            assert mine.keys() == theirs.keys() >= {"perturbed_forget_loss", "forget_loss", "retain_loss", "tokens"}
            for name in mine.keys() - {"epoch"}:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
        for name, value in setup.weights.items():
            torch.testing.assert_close(value, whole.weights[name], atol=1e-5, rtol=0)
    assert whole.moved == whole.trainable


def test_what_is_logged(llama, tmp_path):
    """Parts are those of the weights as they are; the loss is what was minimised, and the worst is above the plain."""
    sharp = train(llama, tmp_path / "sharp", NPO_GD, replace(ONE_STEP, sharpness=RHO)).history[0]
    plain = train(llama, tmp_path / "plain", NPO_GD, ONE_STEP).history[0]
    for name in ("forget_loss", "retain_loss", "forget_nll", "retain_nll", "tokens"):
        assert sharp[name] == pytest.approx(plain[name], rel=1e-6), name
    assert sharp["perturbed_forget_loss"] > sharp["forget_loss"]
    assert sharp["loss"] == pytest.approx(0.7 * sharp["perturbed_forget_loss"] + 2 * sharp["retain_loss"], rel=1e-5)
    assert "perturbed_forget_loss" not in plain


def test_a_radius_of_next_to_nothing_is_none(llama, tmp_path):
    sharp = train(llama, tmp_path / "sharp", NPO_GD, phase(sharpness=1e-9))
    plain = train(llama, tmp_path / "plain", NPO_GD, phase())
    for name, value in plain.weights.items():
        torch.testing.assert_close(sharp.weights[name], value, atol=EXACT, rtol=0)


def test_steps_of_retain_rows_alone_are_plain(llama, tmp_path):
    setup = train(llama, tmp_path, NPO_GD, phase(sharpness=RHO, alternate=True, epochs=8 / 9))
    assert ["perturbed_forget_loss" in entry for entry in setup.history] == [True, False] * 2


def test_weights_are_put_back_where_the_worst_is_not_finite(llama, tmp_path):
    setup = set_up(llama, rows_for(NPO_GD, llama), tmp_path, NPO_GD, replace(ONE_STEP, sharpness=1e30))
    with pytest.raises(Diverged):
        setup.trainer.train()
    assert setup.moved == set()


def test_a_side_without_rows_is_an_idle_row(llama):
    rows = rows_for(NPO_GD, llama, forget=3, retain=2)
    batch = collate(rows, pad_id=0, totals=totals_of(rows, [range(len(rows))]))
    forget, retain = (side_of(batch, forget=forget) for forget in (True, False))
    assert (forget.keys, retain.keys) == (batch.keys[:3], batch.keys[3:])
    assert side_of(forget, forget=False).role.tolist() == [IDLE_ROLE]
    idle = replace(batch, role=torch.full_like(batch.role, IDLE_ROLE))
    assert side_of(idle, forget=True).role.tolist() == side_of(idle, forget=False).role.tolist() == [IDLE_ROLE]
