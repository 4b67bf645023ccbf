"""Whether work grows as its rows do: CPU seconds of a step, of texts and of scores at 1, 2 and 4 times the rows.

    python scripts/growth.py [--rows 24] [--repeats 3] [--times 1 2 4] [override ...]

The model is tiny and random; rows are random tokens as long as LUME's, the same lengths at every size, and none of them
begin alike. A step is one of NPO with a retain term over so many forget and as many retain rows; texts and scores are
of all these rows. Of each the least of `--repeats` is taken. The exit code is 1 where a row costs over 10 % more at
some size than at the smallest. Overrides are those of lume-run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from speed.answering import NoTokenizer, generate, score
from speed.shapes import Case, lume_rows
from transformers import TrainerCallback

from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.methods.needs import Role
from lume_run.models.load import context_limit, load_model
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.build import build_trainer
from lume_run.training.job import TrainingJob
from lume_run.training.micro_batches import DEFAULT_TOKENS
from lume_run.training.reference import ReferenceCache
from lume_run.training.schedule import build_schedule

TOLERANCE = 0.10  # by which a row may cost more at a larger size
PAD_ID = 1


@dataclass
class CpuClock(TrainerCallback):  # type: ignore[misc]
    """CPU seconds of this process in each step."""

    began: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The first micro-batch is about to run."""
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimizer has stepped."""
        self.seconds.append(time.process_time() - self.began)


def rows_of(case: Case, count: int, times: int) -> list[TokenRow]:
    """So many forget and retain rows, `times` over: the same lengths with other tokens."""
    data = case.run.data
    period = len(data.forget) * len(data.retain)  # rows so far apart are as long
    return [
        row
        for role in (Role.FORGET, Role.RETAIN)
        for copy in range(times)
        for row in lume_rows(case.run, count, role, first=copy * period)
    ]


def step_seconds(case: Case, rows: Sequence[TokenRow], repeats: int) -> float:
    """CPU seconds of an optimizer step over all the rows, without the first one."""
    run, settings = case.run, case.run.settings
    forget = sum(row.role is Role.FORGET for row in rows)
    phase = replace(settings.trainer.unlearn, batch_size=forget, epochs=1 + repeats, schedule="constant", warmup=0.0)
    tokens = phase.micro_batch_tokens
    schedule = build_schedule(
        rows,
        batch_size=forget,
        micro_batch_tokens=DEFAULT_TOKENS if tokens == "auto" else tokens,
        micro_batch_size=phase.micro_batch_size,
        epochs=phase.epochs,
        seed=0,
    )
    job = TrainingJob(
        title="growth",
        start=str(case.folder / "model"),
        phase=phase,
        method=settings.method,
        adapters=False,
        examples=[],
        model=settings.model,
        trainer=settings.trainer,
        seed=settings.seed,
        device=run.device,
        world=run.world,
        cache=ReferenceCache({row.key: torch.zeros(row.labels) for row in rows}),
    )
    clock = CpuClock()
    trainer = build_trainer(job, list(rows), schedule, PAD_ID, case.folder / "checkpoints")
    trainer.add_callback(clock)
    trainer.train()
    return min(clock.seconds[1:])


def least_seconds(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the quickest of several calls."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def loaded_model(case: Case) -> LoadedModel:
    """The model as evaluations load it."""
    settings = case.run.settings
    model = load_model(str(case.folder / "model"), settings.model, case.run.device).eval()
    return LoadedModel(
        model=model,
        tokenizer=NoTokenizer(),  # type: ignore[arg-type]
        max_new_tokens=settings.evaluator.max_new_tokens,
        max_length=context_limit(model.config, settings.model),
        batch_tokens=settings.evaluator.batch_tokens,
    )


def measurements(case: Case, count: int, times: int, repeats: int) -> dict[str, float]:
    """CPU seconds of each kind of work at one size."""
    rows = rows_of(case, count, times)
    loaded = loaded_model(case)
    return {
        "a step": step_seconds(case, rows, repeats),
        "texts": least_seconds(lambda: generate(loaded, rows), repeats),
        "scores": least_seconds(lambda: score(loaded, rows), repeats),
    }


def dearer(seconds: Sequence[float], times: Sequence[int]) -> list[float]:
    """How much more a row costs at each size than at the first: 0.1 is 10 %."""
    return [value / (size * seconds[0] / times[0]) - 1 for value, size in zip(seconds, times, strict=True)]


def main() -> int:
    """Print the table; 1 where something grows faster than its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24, help="forget rows, and as many retain rows, at the first size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4])
    options, overrides = parser.parse_known_args()
    with TemporaryDirectory() as folder:
        case = Case(shape="tiny", lora=False, folder=Path(folder), overrides=["launch.device=cpu", *overrides])
        case.write_model()
        sizes = [measurements(case, options.rows, times, options.repeats) for times in options.times]
    print(
        "| CPU s | "
        + " | ".join(f"{2 * options.rows * times} rows" for times in options.times)
        + " | a row, at the last |"
    )
    print("| --- |" + " ---: |" * (len(sizes) + 1))
    worst = 0.0
    for name in sizes[0]:
        seconds = [size[name] for size in sizes]
        more = dearer(seconds, options.times)
        worst = max(worst, *more)
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in seconds) + f" | {more[-1]:+.1%} |")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
