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
from lume_run.common.logits import likeliest, log_total, rows_at_once, to_float32
from lume_run.common.records import Example
from lume_run.evaluation.inference.loaded_model import LoadedModel, batch_of, decode, host_batch
from lume_run.methods.base import require
from lume_run.models.forward import forward, label_logps, last_logits, predictor_logits
from lume_run.models.rows.packed import send
from lume_run.models.rows.tokenise import TokenRow, pair_ids

NO_GRADIENT = (
    "Gradients need all layers' weights on devices at once, and some of this model's are in host memory or on disk; "
    "leave them out (evaluator.suites.mia.gradient=false) or take more or larger devices."
)


@torch.inference_mode()
def choice_logps(loaded: LoadedModel, rows: Sequence[TokenRow], examples: Sequence[Example]) -> list[tuple[float, ...]]:
    """Log-probabilities [nats] of each option's first token right after the prompt; none where all begin alike."""
    logps = to_float32(last_logits(loaded.network, batch_of(rows, loaded))).log_softmax(-1).cpu()
    answers: list[tuple[float, ...]] = []
    for of_row, example in zip(logps, examples, strict=True):
        options = [first_token(example, option, loaded) for option in example.choices]
        answers.append(tuple(of_row[options].tolist()) if len(set(options)) > 1 else ())
    return answers


def first_token(example: Example, option: str, loaded: LoadedModel) -> int:
    """The first token of an option after a space, or as the assistant's turn; a bare space left out."""
    if example.chat is None or example.begun:  # what has begun goes on
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
def score_rows(
    loaded: LoadedModel, rows: Sequence[TokenRow], *, moments: Sequence[bool] | None = None
) -> list[AnswerScores]:
    """One forward over a batch of rows, with the moments of those that are marked (None: of all).

    A row has no numbers where the model gives none that are finite.
    """
    parts, predictors = predictor_logits(loaded.network, host_batch(rows, loaded), loaded.device)
    counts = torch.tensor([row.labels for row in rows])
    marked = torch.tensor([True] * len(rows) if moments is None else moments).repeat_interleave(counts)
    targets = torch.tensor([token for row in rows for token in row.ids[row.label_start :]], dtype=torch.long)
    fields = [torch.split(field, counts.tolist()) for field in token_numbers(parts, predictors, targets, marked)]
    ends = {loaded.tokenizer.eos_token_id, *loaded.turn_ends}
    return [
        answer_scores(
            *(field[number] for field in fields),
            closed=bool(row.ids) and row.ids[-1] in ends,
            moments=moments is None or moments[number],
        )
        for number, row in enumerate(rows)
    ]


class TokenNumbers(NamedTuple):
    """Of L label tokens: log p [nats], whether it was the likeliest, mean and variance of log p there."""

    logps: Tensor
    hits: Tensor
    means: Tensor
    variances: Tensor


def token_numbers(parts: Sequence[Tensor], predictors: Tensor, targets: Tensor, marked: Tensor) -> TokenNumbers:
    """Of targets (L,), each predicted by number `predictors` (L,) of logits (U, V) that come in parts.

    On the CPU, as these numbers are, and the device is waited for once; moments are 0 where `marked` (L,) is false.
    Logits are widened a few at a time.
    """
    order = predictors.argsort(stable=True)  # labels by what predicts them
    chunks: list[Tensor] = []  # (4, labels) each
    begin = 0
    for logits in (chunk for part in parts for chunk in torch.split(part, rows_at_once(part))):
        here = order[slice(*torch.searchsorted(predictors[order], torch.tensor([begin, begin + len(logits)])).tolist())]
        wide, rows = to_float32(logits), predictors[here] - begin
        total = log_total(wide)
        row, target = send(rows, wide.device), send(targets[here], wide.device)
        of_targets = wide[row, target] - total[row]
        moments = total.new_zeros(2, len(logits))
        if len(marked_rows := torch.unique(rows[marked[here]])):
            asked = send(marked_rows, wide.device)
            moments[:, asked] = torch.stack(moments_of(wide[asked] - total[asked, None]))
        hits = likeliest(logits)[row] == target
        chunks.append(torch.stack((of_targets, hits.to(total.dtype), *moments[:, row])))
        begin += len(logits)
    logps, hits, means, variances = torch.cat(chunks, dim=1).cpu()[:, order.argsort()]
    return TokenNumbers(logps, hits.bool(), means, variances)


def answer_scores(
    logps: Tensor, hits: Tensor, means: Tensor, variances: Tensor, *, closed: bool, moments: bool
) -> AnswerScores:
    """What `Response` holds of one answer, from the numbers of its tokens (L,)."""
    total = float(logps.double().sum())
    if not math.isfinite(total):
        return AnswerScores(logp_sum=None, tokens=len(logps), closed=closed)
    return AnswerScores(
        logp_sum=total,
        tokens=len(logps),
        closed=closed,
        logps=round_numbers(logps),
        hits=tuple(hits.tolist()),
        means=round_numbers(means) if moments else (),
        variances=round_numbers(variances) if moments else (),
    )


def moments_of(logps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [nats] and variance [nats^2] of log p under p itself, (L,) each, of distributions (L, V)."""
    p = logps.exp()
    means = torch.linalg.vecdot(p, logps)
    return means, torch.linalg.vecdot(p, (logps - means[:, None]).square_())


def round_numbers(values: Tensor) -> tuple[float, ...]:
    """Numbers as the records keep them, to six decimals."""
    return tuple(round(value, 6) for value in values.double().tolist())


def norm_of(gradient: Tensor) -> Tensor:
    """The 2-norm, in float32 at least: in bfloat16 it would have three digits, and documents would be tied."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=wide)
    return norm


def gradient_norms(loaded: LoadedModel, rows: Sequence[TokenRow]) -> list[float | None]:
    """Mean over weight tensors of the 2-norm of the gradient of the mean label loss [nats], one row at a time.

    The gradient-norm membership attack, as open-unlearning has it but without dropout. None where it is not finite.
    A gradient is given up as soon as its norm is known, so that there is never one as large as the model. RunError
    where layers are neither on a GPU nor whole in host memory.
    """
    weights = [weight for weight in loaded.network.parameters() if weight.requires_grad]
    if any(weight.device.type == "meta" for weight in weights):
        raise RunError(NO_GRADIENT)
    norms: list[Tensor] = []  # read when all of a row are there

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
            mean = sum(torch.stack([norm.to(loaded.device) for norm in norms]).tolist()) / len(norms)
            means.append(mean if math.isfinite(mean) else None)
    finally:
        for hook in hooks:
            hook.remove()
    return means
