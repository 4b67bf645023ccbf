"""Reading inside a model over given answers: each layer's own prediction, and states that are put into another model.

Both take rows under teacher forcing, packed where the model takes them so. Shapes: B rows, T padded tokens, N tokens
packed, L answer tokens of the batch, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.common.errors import RunError
from lume_run.common.logits import log_total, rows_at_once, to_float32
from lume_run.common.records import Example
from lume_run.evaluation.inference.loaded_model import LoadedModel, decode
from lume_run.evaluation.inference.logprobs import round_numbers
from lume_run.models.forward import predictor_logits
from lume_run.models.layers import layers_passed_by, outputs_of_layers, replaced_output, unwrap
from lume_run.models.rows.batch import NO_TOTALS, Batch, collate
from lume_run.models.rows.tokenise import TokenRow

OTHER_SHAPE = (
    "States of {there} cannot be put into the model from before unlearning, which has {here}: it must be the one that "
    "was unlearned\n  -> leave out evaluator=uds, or name that model"
)


@torch.inference_mode()
def lens_rows(loaded: LoadedModel, rows: Sequence[TokenRow]) -> list[dict[str, Any]]:
    """Of each row by layer the mean log p [nats] of its answer tokens and their mean reciprocal rank."""
    batch = whole_batch(rows, loaded)
    with outputs_of_layers(loaded.network) as outputs:
        last = predictor_logits(loaded.network, batch)
    targets, logps, ranks = targets_of(rows), [], []
    for state in outputs.states[:-1]:
        with layers_passed_by(loaded.network, state, entries=outputs.entries):
            of_layer = target_numbers(*predictor_logits(loaded.network, batch), targets, ranked=True)
        logps.append(of_layer[0])
        ranks.append(1 / of_layer[1])
    of_model = target_numbers(*last, targets, ranked=True)
    logps, ranks = [*logps, of_model[0]], [*ranks, 1 / of_model[1]]
    counts = [row.labels for row in rows]
    answers = zip(row_means(logps, counts), row_means(ranks, counts), strict=True)
    return [
        {"layer_logps": of_row, "layer_ranks": ranked, "tokens": count} if of_row else {"tokens": count}
        for (of_row, ranked), count in zip(answers, counts, strict=True)
    ]


@torch.inference_mode()
def patched_rows(loaded: LoadedModel, rows: Sequence[TokenRow], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Of each row the log p [nats] of the fact's tokens in the model `loaded.into`, and by layer their mean log p there
    with this model's states in place of its own where they are predicted."""
    into = loaded.into
    assert into is not None
    require_same_shape(loaded.network, into)
    batch, targets = whole_batch(rows, loaded), targets_of(rows)
    is_fact = torch.cat([fact_tokens(row, example, loaded) for row, example in zip(rows, examples, strict=True)])
    with outputs_of_layers(loaded.network) as outputs:
        predictor_logits(loaded.network, batch)
    packed = outputs.states[0].shape[:2] != batch.input_ids.shape
    places = predictor_places(batch, packed=packed).cpu()[is_fact]
    whole = target_numbers(*predictor_logits(into, batch), targets)[0][is_fact]
    by_layer = []
    for layer, states in enumerate(outputs.states):
        with replaced_output(into, layer, partial(with_states, states=states, places=places)):
            by_layer.append(target_numbers(*predictor_logits(into, batch), targets)[0][is_fact])
    counts = [int(part.sum()) for part in torch.split(is_fact, [row.labels for row in rows])]
    sums = [float(part.double().sum()) for part in torch.split(whole, counts)]
    return [
        {"layer_logps": patched, "logp_sum": total, "tokens": count}
        if patched and math.isfinite(total)
        else {"tokens": count}
        for patched, total, count in zip(row_means(by_layer, counts), sums, counts, strict=True)
    ]


def whole_batch(rows: Sequence[TokenRow], loaded: LoadedModel) -> Batch:
    """A batch in which every row has its own tokens: states of a row are changed without touching another."""
    return collate(rows, pad_id=loaded.pad_id, totals=NO_TOTALS).to(loaded.device)


def targets_of(rows: Sequence[TokenRow]) -> Tensor:
    """The answer tokens of all rows, (L,)."""
    return torch.tensor([token for row in rows for token in row.ids[row.label_start :]], dtype=torch.long)


def predictor_places(batch: Batch, *, packed: bool) -> Tensor:
    """Where the tokens that predict each answer token stand among those that the layers see, flattened: (L,)."""
    if packed:
        assert batch.packing is not None
        return batch.packing.predictors
    width = batch.input_ids.shape[1]
    ends = torch.arange(1, len(batch.rows) + 1) * width
    places = [torch.arange(int(end) - row.labels - 1, int(end) - 1) for end, row in zip(ends, batch.rows, strict=True)]
    return torch.cat(places).to(batch.input_ids.device)


def with_states(output: Tensor, states: Tensor, places: Tensor) -> Tensor:
    """A layer's output with these states at these places of the flattened tokens."""
    flat, other = output.flatten(0, 1), states.flatten(0, 1).to(output)
    here = places.to(output.device)
    return flat.index_copy(0, here, other.index_select(0, here)).view_as(output)


def target_numbers(
    parts: Sequence[Tensor], predictors: Tensor, targets: Tensor, *, ranked: bool = False
) -> tuple[Tensor, Tensor]:
    """(log p [nats], rank from 1 on; zeros unless `ranked`) of targets (L,), on the CPU.

    Each is predicted by number `predictors` (L,) of logits (U, V) that come in parts, an equal logit before it or not.
    """
    logits = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    chunks = list(_target_chunks(logits, predictors.to(logits.device), targets.to(logits.device), ranked=ranked))
    logps, ranks = zip(*chunks, strict=True)
    return torch.cat(logps).cpu(), torch.cat(ranks).cpu()


def _target_chunks(
    logits: Tensor, predictors: Tensor, targets: Tensor, *, ranked: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    size = rows_at_once(logits)
    for begin in range(0, max(1, len(targets)), size):
        wide = to_float32(logits[predictors[begin : begin + size]])
        here = targets[begin : begin + size, None]
        of_targets = wide.gather(-1, here)
        logps = of_targets[:, 0] - log_total(wide)
        ranks = (wide > of_targets).sum(-1) + 1 if ranked else torch.zeros_like(logps)
        yield logps, ranks.to(logps.dtype)


def row_means(by_layer: Sequence[Tensor], counts: Sequence[int]) -> list[tuple[float, ...]]:
    """By row the mean over its tokens at each layer; () for a row with a number that is not finite, or no tokens."""
    means = [[part.double().mean() for part in torch.split(numbers, list(counts))] for numbers in by_layer]
    rows = [torch.stack(list(of_row)) for of_row in zip(*means, strict=True)]
    return [round_numbers(row) if bool(row.isfinite().all()) else () for row in rows]


def fact_tokens(row: TokenRow, example: Example, loaded: LoadedModel) -> Tensor:
    """Which answer tokens of a row tell its fact (labels,): those of `example.fact` where that stands in the answer,
    else all but the one that ends it."""
    ids = list(row.ids[row.label_start :])
    told = [True] * len(ids)
    if len(ids) > 1 and ids[-1] in {loaded.tokenizer.eos_token_id, *loaded.turn_ends}:
        told[-1] = False
    ends = [len(decode(ids[: number + 1], loaded)) for number in range(len(ids))] if example.fact else []
    begin = decode(ids, loaded).find(example.fact) if example.fact else -1
    if begin >= 0:
        end = begin + len(example.fact)
        starts = [0, *ends[:-1]]
        inside = [start < end and stop > begin for start, stop in zip(starts, ends, strict=True)]
        told = inside if any(inside) else told
    return torch.tensor(told, dtype=torch.bool)


def require_same_shape(source: nn.Module, into: nn.Module) -> None:
    """RunError where the states of one model do not fit into the other."""
    there, here = map(shape_text, (source, into))
    if there != here:
        raise RunError(OTHER_SHAPE.format(there=there, here=here))


def shape_text(model: nn.Module) -> str:
    """A model's layers, width and vocabulary in words."""
    config = unwrap(model).config.get_text_config()
    return f"{config.num_hidden_layers} layers of {config.hidden_size} numbers and {config.vocab_size} tokens"
