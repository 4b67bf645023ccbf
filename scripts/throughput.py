"""Tokens per second, model FLOP utilisation and peak memory of unlearning with NPO and a retain term.

    python scripts/throughput.py [--shape tiny 1b 7b] [--steps 8] [--warm-up 2] [--prompt 192] [--answer 64]
                                 [--folder outputs/throughput] [override ...]

Nothing is downloaded: weights are random, rows are random tokens, all as long as each other, and the cached reference
log-probs are zeros, none of which changes what a step costs. The trainer is the one that runs have. Without --shape: 1b
(all weights) and 7b (LoRA) on a GPU, tiny in both ways on a CPU. Overrides are those of lume-run, such as
trainer.unlearn.micro_batch_size=8 or model.quantize=4bit.

Model FLOPs of a step count each product that the loss needs once, as PaLM's utilisation does (arXiv:2204.02311,
appendix B); what gradient checkpointing computes again is not counted. Forward, a token takes 2 for each weight of the
decoder's linear layers and 4 x layers x width x row length for attention, a predicted position 2 x width x
vocabulary. Backward is twice that, and once under LoRA, whose frozen weights have no gradient; adapters are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lume_run.common.devices import GIB, PeakMemory, device_of, dtype_of
from lume_run.config.overrides import compose, conf_dir
from lume_run.methods.base import Role
from lume_run.models.rows.tokenise import TokenRow
from lume_run.models.tiny import olmo_config
from lume_run.pipeline.checks import require_settings
from lume_run.pipeline.memory.estimate import Estimator
from lume_run.pipeline.memory.launch_mode import estimator_of
from lume_run.pipeline.memory.sizes import Lengths
from lume_run.pipeline.run import Run
from lume_run.training.build import build_trainer
from lume_run.training.callbacks import Clock
from lume_run.training.job import TrainingJob
from lume_run.training.reference import ReferenceCache
from lume_run.training.schedule import Schedule, build_schedule

# Dense bf16 FLOPs a second, from NVIDIA's data sheets of the H100, H200 and A100 (which print H100's and H200's with
# sparsity, twice that); the first name that is part of the device's counts.
PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
MOST_TOKENS = 4096  # of the models' context


@dataclass(frozen=True, kw_only=True)
class TrainingSpeed:
    """One training: medians over its steps after the warm-up; peak memory is above what was held before."""

    tokens: int
    flops: float
    seconds: float
    peak: int | None
    losses: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def utilisation(self, device: torch.device) -> float | None:
        """Share of the device's peak; None where that is not in the table."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        peak = next((value for part, value in PEAKS.items() if part in name), None)
        return self.flops / self.seconds / peak if peak else None


def step_flops(estimator: Estimator, rows: int, lengths: Lengths) -> float:
    """Model FLOPs of an optimizer step over so many rows, as the module's docstring counts them."""
    sizes = estimator.sizes
    token = 2 * sizes.linear + 4 * sizes.layers * sizes.hidden * lengths.tokens
    forward = rows * (lengths.tokens * token + lengths.labels * 2 * sizes.hidden * sizes.vocabulary)
    return float(forward * (2 if sizes.adapters else 3))


def random_model(run: Run, folder: Path) -> None:
    """Write a model of the run's shape with random weights, in the dtype it is loaded in."""
    from transformers import AutoModelForCausalLM

    shape = run.settings.model.shape
    assert shape is not None  # all three groups have one
    config = olmo_config(shape, max_position_embeddings=MOST_TOKENS, eos_token_id=0, pad_token_id=1)
    with run.device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype_of(run.settings.model.dtype, run.device))
    model.save_pretrained(folder, safe_serialization=True)


def random_rows(count: int, vocabulary: int, lengths: Lengths) -> list[TokenRow]:
    """So many forget rows and as many retain rows."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, vocabulary, (2 * count, lengths.tokens), generator=generator).tolist()
    start = lengths.tokens - lengths.labels
    return [
        TokenRow(
            example_id=str(at),
            ids=tuple(row),
            answer_start=start,
            label_start=start,
            role=Role.FORGET if at < count else Role.RETAIN,
        )
        for at, row in enumerate(ids)
    ]


def measure_training(run: Run, folder: Path, estimator: Estimator, *, steps: int, warm_up: int) -> TrainingSpeed:
    """Train a model of this run's shape for `warm_up` and then `steps` optimizer steps."""
    phase = replace(run.settings.trainer.unlearn, epochs=1, schedule="constant", warmup=0.0)
    rows = random_rows(phase.batch_size * (steps + warm_up), estimator.sizes.vocabulary, estimator.lengths)
    schedule: Schedule = build_schedule(
        rows, batch_size=phase.batch_size, micro_batch_size=phase.micro_batch_size, epochs=1, seed=0
    )
    cache = ReferenceCache({row.key: torch.zeros(row.labels) for row in rows})
    job = TrainingJob(
        title="throughput",
        start=str(folder / "model"),
        phase=phase,
        method=run.settings.method,
        adapters=run.settings.model.lora.enabled,
        examples=[],
        model=run.settings.model,
        trainer=run.settings.trainer,
        seed=run.settings.seed,
        device=run.device,
        world=run.world,
        cache=cache,
    )
    clock = Clock()
    with PeakMemory(run.device) as before:
        pass
    with PeakMemory(run.device) as memory:
        trainer = build_trainer(job, rows, schedule, 1, folder / "checkpoints")
        trainer.add_callback(clock)
        trainer.train()
    peak = memory.peak - before.peak if memory.peak is not None and before.peak is not None else None
    return TrainingSpeed(
        tokens=2 * phase.batch_size * estimator.lengths.tokens,
        flops=step_flops(estimator, 2 * phase.batch_size, estimator.lengths),
        seconds=sorted(clock.seconds[warm_up:])[steps // 2],
        peak=peak,
        losses=tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
    )


def case_lines(
    shape: str, lora: bool, folder: Path, lengths: Lengths, overrides: Sequence[str], steps: int, warm_up: int
) -> list[str]:
    """Measure one model, in a process of its own lest memory of another one counts; the lines to print."""
    chosen = [f"model={shape}", "method=npo_gd", f"model.lora.enabled={str(lora).lower()}", "launch=single"]
    chosen += ["model.path=null", "model.is_target=false", "model.base=null", f"output_dir={folder}"]
    (folder / "model").mkdir()
    settings, _ = require_settings(compose([*chosen, "trainer.checkpoint_every=1000000", *overrides], [conf_dir()]))
    settings = replace(settings, model=replace(settings.model, path=str(folder / "model")))  # made on the next lines
    run = Run(settings, folder)
    random_model(run, folder / "model")
    estimator = estimator_of(run)
    assert estimator is not None  # the config was just written
    estimator = replace(estimator, lengths=lengths)
    speed = measure_training(run, folder, estimator, steps=steps, warm_up=warm_up)
    phase, used = settings.trainer.unlearn, speed.utilisation(run.device)
    expected, peak = estimator.total(run.world) / GIB, speed.peak
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "CPU"
    dtype = str(dtype_of(settings.model.dtype, run.device)).removeprefix("torch.")
    mfu = f"{used:.1%}" if used is not None else "unknown: peak not in the table"
    held = f"{peak / GIB:.2f} GiB" if peak is not None else "unknown"
    return [
        f"{shape} {'LoRA' if lora else 'full'} on {device}, {dtype}: {estimator.sizes.parameters / 1e6:,.1f} M weights",
        f"  {phase.batch_size} + {phase.batch_size} rows of {lengths.tokens} tokens a step, "
        f"{phase.micro_batch_size} in a forward, gradient checkpointing {settings.model.gradient_checkpointing}",
        f"  {speed.seconds:.3f} s a step, {speed.rate:,.0f} tokens/s, "
        f"{speed.flops / speed.seconds / 1e12:.3g} TFLOP/s, model FLOP utilisation {mfu}",
        f"  peak memory {held}, estimated {expected:.2f} GiB",
        f"  loss {speed.losses[0]:.4g} at the first step, {speed.losses[-1]:.4g} at the last",
    ]


def main() -> None:
    """Measure the cases one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="*", choices=["tiny", "1b", "7b"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=192)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("outputs/throughput"))
    known, overrides = parser.parse_known_args()
    lengths = Lengths(tokens=known.prompt + known.answer, labels=known.answer)
    known.folder.mkdir(parents=True, exist_ok=True)
    gpu = device_of("auto").type == "cuda"
    for shape in known.shape or (["1b", "7b"] if gpu else ["tiny"]):
        for lora in {"tiny": (False, True), "1b": (False,), "7b": (True,)}[shape]:
            with TemporaryDirectory(dir=known.folder) as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
                arguments = (shape, lora, Path(folder), lengths, overrides, known.steps, known.warm_up)
                lines = pool.submit(case_lines, *arguments).result()
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
