"""Log-probabilities of given answers, choices among letters, and norms of gradients.

Shapes: B rows, R label positions (padded), L answer tokens of one row, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lume_run.common.errors import RunError
from lume_run.common.logits import to_float32, token_logps
from lume_run.common.records import Example
from lume_run.evaluation.inference.loaded_model import LoadedModel, batch_of, decode, prompt_row
from lume_run.methods.base import require
from lume_run.models.forward import forward, inputs_of, label_logps, row_logits
from lume_run.models.rows.tokenise import TokenRow, pair_ids

NO_GRADIENT = (
    "Gradients need all layers' weights on devices at once, and some of this model's are in host memory or on disk; "
    "leave them out (evaluator.suites.mia.gradient=false) or take more or larger devices."
)


@torch.inference_mode()
def choice_logps(loaded: LoadedModel, examples: Sequence[Example]) -> list[tuple[float, ...]]:
    """Log-probabilities [nats] of each option's first token right after the prompt; none where all begin alike."""
    rows = [prompt_row(example, loaded, new_tokens=1) for example in examples]
    inputs = inputs_of(loaded.network, batch_of(rows, loaded), keep=1)
    logps = to_float32(loaded.network(**inputs).logits[:, -1]).log_softmax(-1).cpu()
    answers: list[tuple[float, ...]] = []
    for number, example in enumerate(examples):
        options = [first_token(example, option, loaded) for option in example.choices]
        answers.append(tuple(float(logps[number, option]) for option in options) if len(set(options)) > 1 else ())
    return answers


def first_token(example: Example, option: str, loaded: LoadedModel) -> int:
    """The first token of an option after a space, or as the assistant's turn; a bare space left out."""
    if example.chat is None:
        ids: Sequence[int] = loaded.tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
    else:
        ids = pair_ids(replace(example, answer=option), loaded.tokenizer)[1]
    return next((token for token in ids if decode([token], loaded).strip()), ids[-1])


class AnswerScores(NamedTuple):
    """An expected answer under teacher forcing, token by token; the fields of `Response`, (L,) for L answer tokens."""

    logp_sum: float | None
    tokens: int
    closed: bool
    logps: tuple[float, ...] = ()
    hits: tuple[bool, ...] = ()
    means: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()


@torch.inference_mode()
def score_rows(loaded: LoadedModel, rows: Sequence[TokenRow], *, moments: bool = True) -> list[AnswerScores]:
    """One forward over a batch of rows; without numbers where the model gives none that are finite."""
    batch = batch_of(rows, loaded)
    logits = row_logits(require(forward(loaded.network, batch).logits), batch)
    ends = {loaded.tokenizer.eos_token_id, *loaded.turn_ends}
    answers = []
    for row, of_row, targets in zip(rows, logits, batch.targets, strict=True):
        targets = targets[len(targets) - row.labels :]
        answers.append(token_scores(of_row, targets, closed=bool(row.ids) and row.ids[-1] in ends, moments=moments))
    return answers


def token_scores(logits: Tensor, targets: Tensor, *, closed: bool, moments: bool = True) -> AnswerScores:
    """What `Response` holds of one answer: `logits` (L, V) that predict `targets` (L,)."""
    wide = to_float32(logits)
    target_logps = token_logps(wide, targets)
    total = float(target_logps.double().sum())
    if not math.isfinite(total):
        return AnswerScores(logp_sum=None, tokens=len(targets), closed=closed)
    means, variances = moments_of(wide.log_softmax(-1)) if moments else ((), ())
    return AnswerScores(
        logp_sum=total,
        tokens=len(targets),
        closed=closed,
        logps=round_numbers(target_logps),
        hits=tuple((wide.argmax(-1) == targets).tolist()),
        means=means,
        variances=variances,
    )


def moments_of(logps: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean [nats] and variance [nats^2] of log p under p itself, of each of (L, V) distributions."""
    p = logps.exp()
    means = (p * logps).sum(-1)
    return round_numbers(means), round_numbers((p * (logps - means[:, None]) ** 2).sum(-1))


def round_numbers(values: Tensor) -> tuple[float, ...]:
    """Numbers as the records keep them, to six decimals."""
    return tuple(round(value, 6) for value in values.double().tolist())


def norm_of(gradient: Tensor) -> float:
    """The 2-norm, in float32 at least: in bfloat16 it would have three digits, and documents would be tied."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return float(torch.linalg.vector_norm(gradient, dtype=wide))


def gradient_norms(loaded: LoadedModel, rows: Sequence[TokenRow]) -> list[float | None]:
    """Mean over weight tensors of the 2-norm of the gradient of the mean label loss [nats], one row at a time.

    The gradient-norm membership attack, as open-unlearning has it but without dropout. None where it is not finite.
    A gradient is given up as soon as its norm is known, so that there is never one as large as the model. RunError
    where layers are neither on a GPU nor whole in host memory.
    """
    weights = [weight for weight in loaded.network.parameters() if weight.requires_grad]
    if any(weight.device.type == "meta" for weight in weights):
        raise RunError(NO_GRADIENT)
    norms: list[float] = []

    def record_norm(weight: Tensor) -> None:
        norms.append(norm_of(require(weight.grad)))
        weight.grad = None

    means: list[float | None] = []
    untyped: list[Any] = list(weights)
    hooks = [weight.register_post_accumulate_grad_hook(record_norm) for weight in untyped]
    try:
        for row in rows:
            norms.clear()
            batch = batch_of([row], loaded)
            with torch.enable_grad():
                logps = label_logps(require(forward(loaded.network, batch).logits), batch)
                loss = -logps[:, logps.shape[1] - row.labels :].mean()
            torch.autograd.backward(loss)
            mean = sum(norms) / len(norms)
            means.append(mean if math.isfinite(mean) else None)
    finally:
        for hook in hooks:
            hook.remove()
    return means
