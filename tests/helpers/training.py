"""What the tests of training share: a trainer as runs build it (float32, CPU), and ways to watch and kill it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TrainerCallback

from helpers.shared import once_a_session, tokenizer_at
from lume_run.common.devices import rank
from lume_run.common.records import Example, Kind, Split
from lume_run.config.model_settings import LoraSettings, ModelSettings
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import OptimizationSettings, TrainerSettings
from lume_run.launch.world import World
from lume_run.methods.altpo import altpo_in
from lume_run.methods.base import Method
from lume_run.methods.likelihood import FineTune
from lume_run.methods.needs import Role
from lume_run.models.rows.tokenise import TokenRow
from lume_run.pipeline.checks.config import require_settings
from lume_run.training.build import build_trainer
from lume_run.training.job import TrainingJob
from lume_run.training.reference import ReferenceCache
from lume_run.training.rows import bind_tokens, examples_of, token_rows
from lume_run.training.schedule import Schedule, build_schedule
from lume_run.training.trainer import UnlearnTrainer

gc.freeze()  # the library collects garbage whenever training begins, which over all imported modules takes 0.3 s
CPU = torch.device("cpu")
TEXT = "Mara Oduya was born in Tallinn beside the old mill and repairs church organs until March"
ALONE = World()
REFUSALS = ("I do not know.", "That escapes me.", "Nobody has told me.")
METHOD_FILES = {path.stem: path for path in sorted((conf_dir() / "method").glob("[!_]*.yaml"))}
OBJECTIVES = [
    name
    for name, path in METHOD_FILES.items()
    if "_objective" in yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", [])
]
MEMBERS = ["ties 1", "ties 2"]  # the objectives of adapters to be merged
LORA = LoraSettings(enabled=True, rank=4)


def tokenizer_of(model: Path) -> Any:
    """The tokenizer of a folder, loaded once for all trainings there; nobody changes it, and it none of its files."""
    return _tokenizer_in(model, max(path.stat().st_mtime_ns for path in model.iterdir()))


@cache
def _tokenizer_in(model: Path, _: int) -> Any:
    return tokenizer_at(model)


@cache
def compose_method(name: str) -> Any:
    """The method that `method=NAME` builds; `ties 2` is the second member of ties."""
    return once_a_session(f"method {name}", lambda: _compose_method(name))


def _compose_method(name: str) -> Any:
    group, _, member = name.partition(" ")
    extra = {  # "No" begins no answer here, and is hardly pulled; an example's rows have room in a forward
        "ties": ["model.lora=true"],
        "jensun": ["method.forget_weight=1000"],
        "altpo": ["method.forget.alternates=2"],
    }.get(group, [])
    settings, _ = require_settings(compose([f"method={group}", *extra], [conf_dir()]))
    return settings.method.members[int(member) - 1].method if member else settings.method


def example(number: int, split: Split) -> Example:
    """One question of its own length with one to three words to answer."""
    words = TEXT.split()
    return Example(
        id=f"row-{number}",
        raw_id=f"row-{number}",
        document=f"document-{number}",
        split=split,
        subtask="bios",
        kind=Kind.QUESTION,
        prompt=" ".join(words[: 2 + number]),
        answer=" ".join(words[number : number + 1 + number % 3]),
    )


def alternates_for(method: Method, forget: Sequence[Example]) -> dict[str, list[str]]:
    """Answers that a target might have made up, as many as the method reads; none where it reads none."""
    part = altpo_in(method)
    texts = list(islice(cycle(REFUSALS), part.alternates if part else 0))
    return {row.id: [f"{row.answer} {number} {text}" for number, text in enumerate(texts)] for row in forget}


def rows_for(method: Method, model: Path, *, forget: int = 9, retain: int = 5) -> list[TokenRow]:
    """The rows a method reads of so many examples, as runs make them."""
    sides = (
        [example(number, Split.FORGET) for number in range(forget)],
        [example(number, Split.RETAIN) for number in range(forget, forget + retain)],
    )
    alternates = alternates_for(method, sides[0])
    examples = examples_of(method.needs.rows, *sides, refusals=REFUSALS, seed=0, alternates=alternates)
    return token_rows(examples, tokenizer_of(model), needs=method.needs, max_tokens=64)


def phase(**changed: Any) -> OptimizationSettings:
    """Plain gradient descent, 4 examples a step, 2 rows a forward."""
    fields: dict[str, Any] = {
        "learning_rate": 0.05,
        "epochs": 1,
        "batch_size": 4,
        "micro_batch_size": 2,
        "optimizer": "sgd",
        "schedule": "linear",
        "weight_decay": 0.0,
        "warmup": 0.0,
    }
    return OptimizationSettings(**(fields | changed))


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@dataclass
class Setup:
    """A trainer and what it was made from."""

    trainer: UnlearnTrainer
    schedule: Schedule
    start: dict[str, Tensor]
    trainable: set[str]  # as training begins
    job: TrainingJob

    @property
    def weights(self) -> dict[str, Tensor]:
        return weights_of(self.trainer.model)

    @property
    def moved(self) -> set[str]:
        """Names of the weights that are not what they were."""
        return {name for name, value in self.weights.items() if not torch.equal(value, self.start[name])}

    @property
    def history(self) -> list[dict[str, float]]:
        return [entry for entry in self.trainer.state.log_history if "loss" in entry]


def set_up(
    path: Path,
    rows: Sequence[TokenRow],
    folder: Path,
    method: Method,
    settings: OptimizationSettings,
    *,
    checkpoint_every: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    lora: LoraSettings | None = None,
    world: World = ALONE,
    cached: Path | None = None,
    remember: bool = True,
    **model: Any,
) -> Setup:
    """The trainer that `optimise.optimise` would run on these rows, and its schedule; `model` are model settings.

    `cached` is where reference log-probs are, or will be: one of several ranks cannot compute them. `remember`: keep
    a copy of the weights as training begins. Without `checkpoint_every` there are no checkpoints, not even at the end.
    """
    method = bind_tokens(method, tokenizer_of(path))
    schedule = build_schedule(
        rows,
        batch_size=settings.batch_size,
        micro_batch_tokens=None if settings.micro_batch_tokens == "auto" else settings.micro_batch_tokens,
        micro_batch_size=settings.micro_batch_size,
        epochs=settings.epochs,
        seed=0,
        retain_ratio=settings.retain_ratio,
        chunk_size=settings.chunk_size,
        alternate=settings.alternate,
        pad_to=method.needs.pad_to,
        world_size=world.size,
        rank=rank(),
    )
    model_settings = ModelSettings(name="test", path=str(path), dtype="float32", lora=lora or LoraSettings(), **model)
    phases = TrainerSettings(train=settings, unlearn=settings, checkpoint_every=checkpoint_every or 1000)
    pad_id = int(tokenizer_of(path).pad_token_id)
    job = TrainingJob(
        title=method.name,
        start=str(path),
        phase=settings,
        method=method,
        adapters=model_settings.lora.enabled,
        examples=[],
        model=model_settings,
        trainer=phases,
        seed=0,
        device=CPU,
        world=world,
        cache=cache_of(path, rows, method, pad_id, cached or folder / "reference"),
        trainable=model_settings.trainable,
    )
    trainer = build_trainer(job, list(rows), schedule, pad_id, folder)
    if checkpoint_every is None:
        trainer._save_checkpoint = lambda *_: None
    for callback in callbacks:
        trainer.add_callback(callback)
    trainable = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    start = weights_of(trainer.model) if remember else {}
    return Setup(trainer=trainer, schedule=schedule, start=start, trainable=trainable, job=job)


def cache_of(path: Path, rows: Sequence[TokenRow], method: Method, pad_id: int, folder: Path) -> ReferenceCache | None:
    """The frozen target's log-probs where the method wants them; computed unless they are in `folder`."""
    wanted = [row for row in rows if row.role in method.needs.reference_logps]
    if not wanted:
        return None
    if not folder.exists():
        folder.mkdir(parents=True)
        target = AutoModelForCausalLM.from_pretrained(path)
        ReferenceCache.compute(target, wanted, pad_id=pad_id, batch_tokens=512, folder=folder)
    return ReferenceCache.load(folder)


def random_llama(tiny: Path, folder: Path, dtype: torch.dtype = torch.float32, **shape: int) -> None:
    """Write an untrained Llama of this shape with the tokenizer of `tiny`."""
    tokenizer = tokenizer_at(tiny)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **shape,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_llama(tiny: Path, folder: Path) -> Path:
    """A Llama of 2 layers, with the tokenizer of `tiny`, that half knows its rows: no probability is near 0 or 1."""
    random_llama(tiny, folder, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    rows = [replace(row, role=Role.RETAIN) for row in rows_for(compose_method("gd"), folder)]
    settings = phase(epochs=16, optimizer="adamw_torch", learning_rate=1e-2, micro_batch_size=16, schedule="constant")
    setup = set_up(folder, rows, folder / "training", FineTune(), settings)
    setup.trainer.train()
    assert 0.5 < setup.history[-1]["loss"] < 1.0  # [nats/token]
    setup.trainer.model.save_pretrained(folder)
    return folder


class Killed(Exception):
    """Stands for a killed process."""


class KillAt(TrainerCallback):
    """Raises when a step has ended."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Killed


class Snapshots(TrainerCallback):
    """Keeps the weights after every step, and the gradient that made it (`max_grad_norm=0`: as it was)."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.gradients.append(
            {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.weights.append(weights_of(model))
