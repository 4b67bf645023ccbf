"""What a device must hold: estimates against what torch allocates, which mode that speaks for, running out of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import weakref
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from helpers.pretend_device import tensors_in
from helpers.shared import ROOT
from helpers.training import LORA, compose_method, phase, rows_for, set_up, tokenizer_at
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from lume_run.common import logits
from lume_run.common.devices import GIB, is_out_of_memory
from lume_run.common.errors import ConfigError, RunError
from lume_run.config.overrides import compose, conf_dir
from lume_run.launch.world import World
from lume_run.methods.needs import Needs, Role, Totals
from lume_run.models.adapters import with_adapters
from lume_run.models.load import config_of
from lume_run.models.placement import USABLE_MEMORY_SHARE
from lume_run.models.precision import is_quantised
from lume_run.models.rows.batch import Batch, collate
from lume_run.models.rows.head import KEPT_NUMBERS, PART_NUMBERS
from lume_run.models.rows.roles import plan_roles
from lume_run.models.rows.tokenise import TokenRow
from lume_run.models.tiny import olmo_config
from lume_run.pipeline import dry_run
from lume_run.pipeline.checks.config import check_config, require_settings
from lume_run.pipeline.dry_run import show_plan
from lume_run.pipeline.memory.budget import ENOUGH_TOKENS, MOST_TOKENS, Estimator, with_phase
from lume_run.pipeline.memory.estimate import forward_tokens
from lume_run.pipeline.memory.launch_mode import choose_world, estimator_of
from lume_run.pipeline.memory.remedies import explain_out_of_memory, out_of_memory_message, remedies
from lume_run.pipeline.memory.sizes import Lengths, sizes_of
from lume_run.pipeline.run import Run
from lume_run.pipeline.train import phase_identity
from lume_run.training.micro_batches import DEFAULT_TOKENS
from lume_run.training.signals import read_signals
from lume_run.training.zero import save_trained_model

pytestmark = pytest.mark.slow

SCRIPTS = ROOT / "scripts"
ALONE = World()
CHECKPOINTING = "model.gradient_checkpointing=true"


class Live(TorchDispatchMode):
    """Bytes of all tensors that are alive, and their peak; those of fake tensors count as if they were real."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self._count(tensor.untyped_storage())
        return result

    def _count(self, storage) -> None:
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, name: int) -> None:
        self.now -= self.sizes.pop(name, 0)


def settings_of(*overrides: str):
    return require_settings(compose([*overrides], [conf_dir()]))[0]


def estimate(*overrides: str, lengths: Lengths, compute: int = 2) -> Estimator:
    settings = settings_of("stages=[unlearn]", *overrides)
    sizes = sizes_of(settings, olmo_config(settings.model.shape), "unlearn")
    return Estimator(settings=settings, stage="unlearn", sizes=sizes, lengths=lengths, compute=compute)


def batch_of(rows: int, lengths: Lengths) -> Batch:
    ids, start = tuple(range(lengths.tokens)), lengths.tokens - lengths.labels
    row = TokenRow(example_id="", ids=ids, answer_start=start, label_start=start)
    return collate([row] * rows, pad_id=0, totals=Totals())


@contextmanager
def parts_of_a_gpu():
    """Logits in parts as large as there."""
    with pytest.MonkeyPatch.context() as patch:
        for sizes in (KEPT_NUMBERS, PART_NUMBERS):
            patch.setitem(sizes, "cpu", sizes["cuda"])
        patch.setattr(logits, "CACHED_NUMBERS", logits.CHUNK_NUMBERS)
        yield


def allocated(estimator: Estimator) -> int:
    """The peak of two accumulated micro-batches when AdamW has its moments, as load_for_training holds weights."""
    settings = estimator.settings
    half = settings.model.lora.enabled
    config = olmo_config(settings.model.shape)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if half else torch.float32)
    model = with_adapters(base, settings.model.lora, 0)
    live, needs = Live(), Needs(rows={Role.RETAIN})
    tokens = forward_tokens(settings.trainer.unlearn, settings.method.needs, estimator.lengths, ALONE)
    batch = batch_of(tokens // estimator.lengths.tokens, estimator.lengths)
    plan = plan_roles(batch, needs)
    with FakeTensorMode(allow_non_fake_inputs=True), live, parts_of_a_gpu():
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    empty = torch.empty(weight.shape, dtype=weight.dtype)
                    module._parameters[name] = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
            for name, buffer in module._buffers.items():
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        if settings.model.gradient_checkpointing is True:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        model.train()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        moments = []
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = read_signals(model, batch, needs=needs, plan=plan).logps.sum()
            loss.backward()
            moments = moments or [torch.empty_like(weight) for weight in trained for _ in range(2)]
        return live.peak


@pytest.mark.parametrize(
    ("overrides", "lengths"),
    [
        (("model=1b", CHECKPOINTING), Lengths()),
        (("model=1b", "trainer.unlearn.micro_batch_tokens=1024"), Lengths(tokens=256, labels=64)),
        (("model=1b", "model.lora=true", "trainer.unlearn.micro_batch_size=4"), Lengths(tokens=256, labels=250)),
        (("model=7b", "model.lora=true", CHECKPOINTING), Lengths()),
        (("model=7b", "trainer.unlearn.micro_batch_size=2", CHECKPOINTING), Lengths()),
    ],
    ids=["1b", "1b, all activations", "1b, LoRA, all activations", "7b, LoRA", "7b"],
)
def test_estimates_are_what_torch_allocates(overrides, lengths):
    """As wide as the released models; a quarter of their layers will do."""
    estimator = estimate(*overrides, f"model.shape.layers={4 if 'model=1b' in overrides else 8}", lengths=lengths)
    peak, static = allocated(estimator), estimator.sizes.parameters * (2 if estimator.sizes.adapters else 16)
    total = estimator.total(ALONE)
    assert 1 / 1.1 < total / peak < 1.1
    assert 1 / 1.25 < (total - static) / (peak - static) < 1.25  # what a step needs beside weights and optimizer, too


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_estimate_of_a_small_model_that_trains(lora, tiny, tmp_path):
    """The trainer that runs have, in float32, with all that it allocates."""
    method = compose_method("npo_gd")
    rows = rows_for(method, tiny, forget=8, retain=8)
    tokens, labels = (sum(counts) / len(rows) for counts in ([len(row.ids) for row in rows], [r.labels for r in rows]))
    lengths = Lengths(tokens=round(tokens), labels=round(labels))  # one micro-batch holds all of them
    live = Live()
    with live:
        settings = phase(optimizer="adamw_torch_fused", micro_batch_size=16, batch_size=8)
        setup = set_up(tiny, rows, tmp_path, method, settings, lora=lora)
        live.peak = live.now
        setup.trainer.train()
    settings = settings_of("method=npo_gd", "trainer.unlearn.micro_batch_size=16", "trainer.unlearn.batch_size=8")
    settings = replace(settings, model=setup.job.model)
    sizes = sizes_of(settings, config_of(str(tiny), settings.model), "unlearn")
    estimator = Estimator(settings=settings, stage="unlearn", sizes=sizes, lengths=lengths, compute=4)
    assert 1 / 1.25 < estimator.total(ALONE) / live.peak < 1.25


def test_parts_by_hand():
    """7B by ZeRO's own arithmetic: 2 bytes a weight and gradient, 12 of optimizer, divided by four devices."""
    estimator = estimate("model=7b", lengths=Lengths())
    count = estimator.sizes.parameters
    assert count == 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 2 * 50304 * 4096
    parts = {
        mode: estimator.parts(World(mode=mode, processes=4))
        for mode in ("ddp", "zero1", "zero2", "zero3", "zero3_offload")
    }
    assert parts["zero3"]["weights"] == count * 2 / 4
    assert [parts[mode]["gradients"] for mode in ("zero1", "zero2", "zero3")] == [count * 2, count / 2, count / 2]
    assert parts["zero3"]["optimizer"] == count * 12 / 4
    assert parts["zero1"]["optimizer"] >= count * 12 / 4
    assert parts["ddp"]["communication"] == parts["ddp"]["gradients"] == count * 4
    held = ("weights", "gradients", "optimizer", "frozen reference")
    assert [parts["zero3_offload"][name] for name in held] == [0, 0, 0, 0]
    rank_8 = 32 * 8 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert estimate("model=7b", "model.lora=true", lengths=Lengths()).sizes.adapters == rank_8
    live = estimate("model=7b", "method=kl", lengths=Lengths())
    assert live.parts(ALONE)["frozen reference"] == count * 2
    assert live.parts(World(mode="zero3", processes=4))["frozen reference"] == count / 2
    assert estimate("model=7b", "method=kl", "model.lora=true", lengths=Lengths()).parts(ALONE)["frozen reference"] == 0


# ------------------------------------------------------------------------------------------------------- auto


@pytest.fixture
def on(monkeypatch, tmp_path):
    """A run on so many GPUs of so many GiB each, as far as the choice of a launch mode can tell."""

    def run_on(gpus: int, gib: float, *overrides: str) -> Run:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=int(gib * GIB)))
        builtin = ("model.path=null", "model.is_target=false", "task=bios")
        return Run(settings_of(*builtin, *overrides), tmp_path)

    return run_on


@pytest.mark.parametrize(
    ("gpus", "gib", "overrides", "mode"),
    [
        (1, 79.1, ("model=7b", "model.lora=true"), "single"),
        (1, 79.1, ("model=7b",), "zero3_offload"),
        (1, 139.8, ("model=7b",), "single"),
        (2, 79.1, ("model=7b", "method=kl"), "zero3"),
        (8, 79.1, ("model=7b",), "zero2"),
        (8, 23.6, ("model=7b",), "zero3"),
        (2, 39.4, ("model=7b",), "zero3_offload"),
        (8, 79.1, ("model=7b", "model.lora=true"), "ddp"),
        (8, 79.1, ("model=1b",), "ddp"),
        (1, 79.1, ("model=1b",), "single"),
        (1, 79.1, ("model=7b", "launch=zero2"), "zero2"),
        (8, 9.0, ("model=7b", "model.lora=true", "model.quantize=4bit"), "ddp"),
    ],
)
def test_auto_picks_the_fastest_mode_that_fits(gpus, gib, overrides, mode, on):
    run = on(gpus, gib, *overrides)
    world = choose_world(run)
    assert (world.mode, world.size) == (mode, gpus)
    estimator = estimator_of(run)
    if run.settings.launch.name == "auto":
        assert world.why.startswith(f"about {estimator.total(world) / GIB:.1f} of {gib:.1f} GiB a device")
        assert estimator.total(world) <= USABLE_MEMORY_SHARE * gib * GIB
        assert ("GiB of host memory" in world.why) == (mode == "zero3_offload")
    else:
        assert world.why.startswith("as configured")


@pytest.mark.parametrize(("gpus", "mode"), [(1, "single"), (8, "ddp")])
def test_sharpness_shares_nothing_out_and_keeps_a_copy_of_the_weights(gpus, mode, on):
    """Also where only ZeRO would fit: no device would have the whole gradient."""
    plain, sharp = (on(gpus, 40.0, "model=7b", *extra) for extra in ((), ("trainer.unlearn.sharpness=0.01",)))
    assert choose_world(plain).stage >= 2
    assert choose_world(sharp).mode == mode
    parts, fewer = (estimator_of(run).parts(World()) for run in (sharp, plain))
    assert parts["unperturbed weights"] == fewer["gradients"]
    assert not fewer["unperturbed weights"]
    assert not any("zero" in remedy.setting for remedy in remedies(sharp, "unlearn"))


def test_auto_says_when_nothing_fits(on):
    world = choose_world(on(1, 2.0, "model=7b"))
    assert world.mode == "zero3_offload"
    assert "no mode fits by this estimate" in world.why


def test_auto_without_deepspeed_and_without_a_gpu(on, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_world(on(8, 79.1, "model=7b")).mode == "ddp"
    assert choose_world(on(8, 79.1, "model=7b")).why == "deepspeed is not installed"
    monkeypatch.undo()
    assert str(choose_world(Run(settings_of("launch.device=cpu"), tmp_path))) == "single, 1 process"
    assert choose_world(Run(settings_of("launch.device=cpu", "launch.processes=2"), tmp_path)).mode == "ddp"


def plan_of(monkeypatch, run: Run) -> str:
    screen = Console(record=True, width=200, file=StringIO())
    monkeypatch.setattr(dry_run, "console", screen)
    show_plan(run.settings, run.folder)
    return screen.export_text()


def test_a_plan_lists_what_takes_memory_and_where_else_it_would_fit(on, monkeypatch, tmp_path):
    said = plan_of(monkeypatch, on(2, 79.1, "model=7b"))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.split("\n") if line.startswith("│")]
    sizes = {cells[0]: float(cells[1]) for cells in lines if len(cells) == 2 and cells[1][:1].isdigit()}
    total = sizes.pop("in all (fits 79.1 GiB)")
    assert sum(sizes.values()) == pytest.approx(total, abs=0.05)
    assert {"weights", "gradients", "optimizer", "activations", "logits"} <= set(sizes)
    assert "single, 1 process: " in said and "does not fit 79.1 GiB" in said
    assert "launch: zero2, 2 processes (about" in said
    monkeypatch.undo()
    said = plan_of(monkeypatch, Run(settings_of("model=7b", "model.path=null", "model.is_target=false"), tmp_path))
    assert "zero3, 8 processes: " in said
    assert "fits a 141 GB card" in said
    assert "fits no card" in said  # DDP with all weights


# --------------------------------------------------------------------------------------- tokens of a forward

MANY_ROWS = "trainer.unlearn.batch_size=4096"


@pytest.mark.parametrize(("lora", "smallest"), [(False, 26.0), (True, 4.0)])
def test_auto_fills_a_device_and_no_more(lora, smallest, on):
    """The smaller the device, the fewer tokens; where few would fit, activations are computed again."""
    resolved = []
    for gib in (2000.0, 79.1, 39.4, smallest):
        run = on(1, gib, "model=1b", "launch=single", MANY_ROWS, f"model.lora={str(lora).lower()}")
        estimator = estimator_of(run)
        settings = estimator.resolved(ALONE)
        tokens = settings.trainer.unlearn.micro_batch_tokens
        resolved.append((tokens, settings.model.gradient_checkpointing))
        room = USABLE_MEMORY_SHARE * gib * GIB
        assert estimator.total(ALONE) == sum(estimator._parts(settings, ALONE).values()) <= room
        fuller = with_phase(settings, "unlearn", micro_batch_tokens=tokens + 1)
        assert tokens == MOST_TOKENS or sum(estimator._parts(fuller, ALONE).values()) > room
    tokens = [count for count, _ in resolved]
    assert resolved[0] == (MOST_TOKENS, False)
    assert all(count >= ENOUGH_TOKENS or again for count, again in resolved)
    assert resolved[-1][1]
    assert tokens[-1] < tokens[0]


def test_what_is_asked_for_is_taken(on):
    run = on(1, 79.1, "model=1b", "trainer.unlearn.micro_batch_tokens=777", "model.gradient_checkpointing=true")
    settings = estimator_of(run).resolved(ALONE)
    assert (settings.trainer.unlearn.micro_batch_tokens, settings.model.gradient_checkpointing) == (777, True)


def test_a_step_bounds_what_auto_takes(on):
    """4 + 4 rows of at most 129 tokens; half as many on each of two devices."""
    run = on(2, 79.1, "model=1b", "trainer.unlearn.batch_size=4")
    estimator = estimator_of(run)
    tokens = [
        estimator.resolved(world).trainer.unlearn.micro_batch_tokens
        for world in (ALONE, World(mode="ddp", processes=2))
    ]
    assert tokens == [8 * estimator.lengths.tokens, 4 * estimator.lengths.tokens]


@pytest.mark.parametrize("method", ["method/forget=rmu_compat", "method/retain=kl_compat"])
def test_what_depends_on_micro_batches_has_the_same_on_every_device(method, on):
    overrides = ("model=1b", MANY_ROWS, "method=npo_kl", method)
    tokens = {
        estimator_of(on(1, gib, *overrides)).resolved(ALONE).trainer.unlearn.micro_batch_tokens for gib in (79.1, 23.6)
    }
    assert tokens == {DEFAULT_TOKENS}


def test_micro_batches_are_in_the_hash_of_what_depends_on_them_alone():
    trained = []
    for method in (["method=npo_kl"], ["method=npo_kl", "method/retain=kl_compat"]):
        identities = []
        for extra in ([], ["trainer.unlearn.micro_batch_tokens=99"], ["trainer.unlearn.micro_batch_size=3"]):
            settings = settings_of(*method, *extra)
            identities.append(phase_identity(settings.trainer.unlearn, settings.method.needs))
        trained.append([identity == identities[0] for identity in identities])
    assert trained == [[True, True, True], [True, False, False]]


# ------------------------------------------------------------------------------------------------ out of memory

OPTIMIZER = "trainer.unlearn.optimizer=adamw_bnb_8bit"
FEWER = "model.shape.layers=8"
SMALL = ("trainer.unlearn.micro_batch_tokens=516", CHECKPOINTING)  # four of the longest rows
MICRO = "trainer.unlearn.micro_batch_tokens=129"
SAVING = {  # of a model as wide as 7B on two GPUs under ddp
    (): ["launch=zero2", "launch=zero3", OPTIMIZER],
    (OPTIMIZER,): ["launch=zero2", "launch=zero3", "launch=zero3_offload"],
    ("model.lora=true",): [MICRO, "model.quantize=4bit", "launch=zero3_offload"],
    ("model.lora=true", MICRO, "model.gradient_checkpointing=false", "model.quantize=8bit"): [
        "model.gradient_checkpointing=true"
    ],
}


@pytest.mark.parametrize("overrides", SAVING, ids=lambda overrides: " ".join(overrides) or "as it is")
def test_the_cheapest_settings_that_are_not_yet_set_are_named(overrides, on):
    run = replace(on(2, 79.1, "model=7b", FEWER, *SMALL, *overrides), world=World(mode="ddp", processes=2))
    cheapest = remedies(run, "unlearn")
    assert [remedy.setting for remedy in cheapest] == SAVING[overrides]
    now = estimator_of(run)
    for remedy in cheapest:
        assert remedy.saved > 0
        name, _, value = remedy.setting.partition("=")
        if name == "launch":
            after = now.total(World(mode=value, processes=2))
        else:
            changed = on(
                2,
                79.1,
                "model=7b",
                FEWER,
                *SMALL,
                *(override for override in overrides if not override.startswith(name)),
                remedy.setting,
            )
            after = estimator_of(changed).total(run.world)
        assert remedy.saved == pytest.approx(now.total(run.world) - after)
    message = out_of_memory_message(run, "unlearn", "unlearned", "CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert message.startswith("Out of memory while making unlearned on cuda: CUDA out of memory.\n")
    assert all(f"  - {remedy.setting}: about " in message for remedy in cheapest)


def test_what_auto_took_is_named_first(on):
    """A forward that fills the device, activations kept: fewer tokens, then activations computed again."""
    run = replace(on(2, 79.1, "model=7b", "model.lora=true"), world=World(mode="ddp", processes=2))
    settings = [remedy.setting for remedy in remedies(run, "unlearn")]
    assert settings[:2] == [MICRO, CHECKPOINTING]


def test_running_out_of_memory_is_told_apart(on, tmp_path):
    run = Run(settings_of("launch.device=cpu"), tmp_path)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
    ):
        with (
            pytest.raises(RunError, match="Out of memory while making target on cpu"),
            explain_out_of_memory(run, "train", "target"),
        ):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(run, "train", "target"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert is_out_of_memory(caught.value)
    evaluation = out_of_memory_message(run, "evaluate", "target responses", "")
    assert "evaluator.batch_tokens=1024: about" in evaluation
    assert "evaluator.max_new_tokens=128: about" in evaluation


LIMITED = """
import resource, sys
import pandas, peft, torch, transformers, lume_run.training.optimise, lume_run.pipeline.driver, lume_run.cli
from pathlib import Path
used = next(line for line in Path("/proc/self/status").read_text().split("\\n") if line.startswith("VmSize:"))
limit = int(used.split()[1]) * 1024 + int(sys.argv.pop(1)) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
lume_run.cli.main()
"""


def test_a_real_failure_to_allocate(tmp_path):
    """Fine-tuning 29 M weights takes 460 MB; the process may have 350 more than it began with."""
    overrides = ["model.shape.hidden_size=512", "model.shape.heads=8", "model.shape.intermediate_size=4096"]
    overrides += ["model.shape.layers=4", f"output_dir={tmp_path}", "task.num_documents=1", "stages=[train]"]
    command = [sys.executable, "-c", LIMITED, "350", *overrides, "launch=single"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "error: Out of memory while making target on cpu: " in done.stderr
    assert "- trainer.train.micro_batch_tokens=" in done.stderr
    assert "- model.gradient_checkpointing=true: about " in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------- fewer bits


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (("model.quantize=4bit",), "model.quantize", "weights that train cannot"),
        (("model.quantize=8bit", "model.lora=true", "launch=zero3"), "model.quantize", "ZeRO-3 cannot share out"),
        (
            ("trainer.unlearn.optimizer=paged_adamw_8bit", "launch.device=cpu"),
            "trainer.unlearn.optimizer",
            "there is no GPU",
        ),
        (("trainer.train.optimizer=adamw_bnb_8bit", "launch=zero3_offload"), "trainer.train.optimizer", "on the host"),
    ],
)
def test_what_bitsandbytes_cannot_do_is_refused(overrides, where, what):
    _, problems, _ = check_config(compose([*overrides], [conf_dir()]))
    assert [problem.where for problem in problems] == [where]
    assert what in problems[0].what
    assert problems[0].remedy


@pytest.mark.parametrize("override", ["model.quantize=4bit", "trainer.unlearn.optimizer=adamw_bnb_8bit"])
def test_without_bitsandbytes(override, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes\n +-> pip install 'lume-run\[quantize\]'"):
        settings_of(override, "model.lora=true")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_adapters_on_a_quantised_base(bits, tiny, tmp_path):
    """Trained beside fewer bits, merged into the whole weights."""
    pytest.importorskip("bitsandbytes")
    method = compose_method("npo_gd")
    setup = set_up(tiny, rows_for(method, tiny), tmp_path / "checkpoints", method, phase(), lora=LORA, quantize=bits)
    model = setup.trainer.model
    assert is_quantised(model)
    linear = [module for name, module in model.named_modules() if name.endswith("mlp.up_proj.base_layer")]
    assert {type(module).__name__ for module in linear} == {{"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits]}
    assert {module.weight.dtype for module in linear} == {{"4bit": torch.uint8, "8bit": torch.int8}[bits]}
    setup.trainer.train()
    assert setup.moved == setup.trainable
    assert all(".lora_" in name for name in setup.moved)
    whole = with_adapters(AutoModelForCausalLM.from_pretrained(tiny), LORA, 0)
    save_trained_model(setup.trainer, tokenizer_at(tiny), tmp_path / "out", keep_adapters=False, reload=lambda: whole)
    trained, start = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (tmp_path / "out", tiny))
    weights = setup.weights
    for name, value in start.items():
        low, high = (f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.default.weight" for side in "AB")
        added = LORA.alpha / LORA.rank * weights[high] @ weights[low] if low in weights else 0.0
        torch.testing.assert_close(trained[name], value + added, rtol=1e-5, atol=1e-6)


def test_moments_of_eight_bits(tiny, tmp_path):
    pytest.importorskip("bitsandbytes")
    method = compose_method("gd")
    settings = phase(optimizer="adamw_bnb_8bit", learning_rate=1e-3)
    setup = set_up(tiny, rows_for(method, tiny), tmp_path, method, settings)
    setup.trainer.train()
    assert setup.moved == setup.trainable
    states = setup.trainer.optimizer.optimizer.state
    kinds = {name: states[weight]["state1"].dtype for name, weight in setup.trainer.model.named_parameters()}
    assert kinds["lm_head.weight"] is torch.uint8
    assert kinds["model.embed_tokens.weight"] is torch.float32  # the library keeps embeddings whole


# ---------------------------------------------------------------------------------------------------- scripts


@pytest.fixture
def script(monkeypatch):
    """A script as a module, by name."""
    if not SCRIPTS.is_dir():
        pytest.skip("the scripts are not shipped with the package")
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def test_the_page_has_the_numbers_of_the_estimate(script):
    page = ROOT / "docs" / "memory.md"
    if not page.exists():
        pytest.skip("the documentation is not shipped with the package")
    lines = script("memory_table").table()
    assert len(lines) > 30
    assert "\n".join(lines) in page.read_text(encoding="utf-8")
    by_world = {
        tuple(cells[:4]): cells[-1] for line in lines[2:] if (cells := [cell.strip() for cell in line.split("|")[1:-1]])
    }
    assert by_world["7b", "LoRA", "`single`", "1"] == "24 GB"
    assert by_world["7b", "full", "`single`", "1"] == "141 GB"
    assert by_world["7b", "full", "`zero3`", "2"] == "80 GB"
