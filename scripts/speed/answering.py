"""Answering LUME's prompts and scoring its rows: tokens a second, and what a whole evaluation takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from lume_run.common.devices import GIB, PeakMemory
from lume_run.evaluation.inference.generation import continue_rows
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.evaluation.inference.logprobs import score_rows
from lume_run.methods.needs import Role
from lume_run.models.load import context_limit, load_model
from lume_run.models.rows.batch import length_batches
from lume_run.models.rows.tokenise import TokenRow
from speed.limit import now
from speed.shapes import Case, lume_rows, peaks_of, share_of

Result = TypeVar("Result")


class NoTokenizer:
    """Of a random model: nothing is read or written as text."""

    eos_token_id, pad_token_id = 0, 1


def timed(work: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """(seconds, result) of one call."""
    began = now(device)
    result = work()
    return now(device) - began, result


def generate(loaded: LoadedModel, rows: list[TokenRow]) -> tuple[int, int]:
    """(generated tokens, token steps) of prompts, each continued for as many tokens as its answer has."""
    prompts = [
        TokenRow(
            example_id=row.example_id,
            ids=row.ids[: row.answer_start],
            answer_start=row.answer_start,
            label_start=row.answer_start,
        )
        for row in rows
    ]
    texts = list(continue_rows(loaded, prompts, [row.labels for row in rows]))
    return sum(len(text) for part in texts for text in part.tokens.values()), sum(part.passes for part in texts)


def score(loaded: LoadedModel, rows: list[TokenRow]) -> int:
    """Real tokens of rows whose answers are scored."""
    for group in length_batches(rows, loaded.batch_tokens):
        score_rows(loaded, [rows[number] for number in group], moments=[False] * len(group))
    return sum(len(row.ids) for row in rows)


@dataclass(frozen=True, kw_only=True)
class AnsweringSpeed:
    """Prompts that were answered, and rows that were scored."""

    rows: list[TokenRow]
    tokens: int
    passes: int
    generating: float
    real: int
    scoring: float
    peak: int | None
    weights: int

    @property
    def seconds_per_prompt(self) -> float:
        """Answering and scoring."""
        return (self.generating + self.scoring) / len(self.rows)


def measure_answering(case: Case, prompts: int) -> AnsweringSpeed:
    """Generate for so many prompts, half of them forget rows, and score the same rows."""
    run, evaluator = case.run, case.run.settings.evaluator
    with PeakMemory(run.device) as memory:
        model = load_model(str(case.folder / "model"), run.settings.model, run.device).eval()
        loaded = LoadedModel(
            model=model,
            tokenizer=NoTokenizer(),  # type: ignore[arg-type]
            max_new_tokens=evaluator.max_new_tokens,
            max_length=context_limit(model.config, run.settings.model),
            batch_tokens=evaluator.batch_tokens,
        )
        rows = [row for role in (Role.FORGET, Role.RETAIN) for row in lume_rows(run, prompts // 2, role)]
        generate(loaded, rows[:4])  # warms up
        score(loaded, rows[:4])
        generating, (tokens, passes) = timed(lambda: generate(loaded, rows), run.device)
        scoring, real = timed(lambda: score(loaded, rows), run.device)
    return AnsweringSpeed(
        rows=rows,
        tokens=tokens,
        passes=passes,
        generating=generating,
        real=real,
        scoring=scoring,
        peak=memory.peak,
        weights=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
    )


def answering_lines(case: Case, prompts: int) -> list[str]:
    """The lines to print."""
    speed, run, peaks = measure_answering(case, prompts), case.run, peaks_of(case.run.device)
    whole = len(run.data.forget) + len(run.data.retain)
    held = f"{speed.peak / GIB:.2f} GiB" if speed.peak is not None else "unknown"
    read = share_of(speed.passes * speed.weights / speed.generating, peaks[1] if peaks else None)
    asked, rate = sum(row.answer_start for row in speed.rows), speed.tokens / speed.generating
    return [
        f"{case.title}: evaluation of {len(speed.rows)} prompts, {asked:,} tokens",
        f"  {speed.tokens:,} tokens generated in {speed.generating:.2f} s: {rate:,.0f} a second",
        f"  {speed.passes} token steps; reading the weights for them takes this share of the memory's rate: {read}",
        f"  {speed.real:,} tokens scored in {speed.scoring:.2f} s: {speed.real / speed.scoring:,.0f} a second",
        f"  peak memory {held}; the {whole:,} prompts of this task, generated and scored: "
        f"about {speed.seconds_per_prompt * whole / 60:.1f} minutes",
    ]
