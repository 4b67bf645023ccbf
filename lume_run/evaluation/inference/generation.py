"""Continued, greedy or sampled, that follow prompts.

A sampled text comes from random numbers of its own, so that it is the same beside any others.
Shapes: B rows, n live rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lume_run.common.console import console
from lume_run.common.devices import is_out_of_memory
from lume_run.common.logits import likeliest
from lume_run.common.seeds import stable_digest
from lume_run.evaluation.inference.drafts import Draft, Row
from lume_run.evaluation.inference.loaded_model import LoadedModel, batch_of, is_decoded_here
from lume_run.evaluation.inference.requests import BATCH_ROWS
from lume_run.evaluation.inference.vllm import Engine
from lume_run.launch.preemption import stop_if_requested
from lume_run.models.rows.batch import length_batches
from lume_run.models.rows.packed import send
from lume_run.models.rows.tokenise import TokenRow

if TYPE_CHECKING:
    from lume_run.evaluation.inference.decoding import Choose


class Continued(NamedTuple):
    """Tokens by the number of their row, the one that ends a text included, and the forward passes since the last."""

    tokens: dict[int, list[int]]
    passes: int


def continuations(
    loaded: LoadedModel, rows: Sequence[TokenRow], *, limit: int, samples: Sequence[str] | None = None
) -> list[list[int]]:
    """Tokens that follow each prompt, at most `limit`, as `continue_rows` gives them."""
    tokens: dict[int, list[int]] = {}
    for texts in continue_rows(loaded, rows, [limit] * len(rows), samples):
        tokens |= texts.tokens
    return [tokens[number] for number in range(len(rows))]


def continue_rows(
    loaded: LoadedModel,
    rows: Sequence[TokenRow],
    limits: Sequence[int],
    samples: Sequence[str] | None = None,
    drafts: Sequence[Draft] = (),
) -> Iterator[Continued]:
    """The texts that follow prompts, each of at most so many tokens, as they end.

    Greedy, sooner where one of `drafts` (one for each row) agrees with it, or sampled at the loaded model's
    temperature: then `samples` names the random numbers of each row.
    """
    nothing = {number: list[int]() for number, limit in enumerate(limits) if limit < 1}
    if nothing:
        yield Continued(nothing, 0)
    asked = sorted((n for n in range(len(rows)) if n not in nothing), key=lambda n: -len(rows[n].ids))
    if isinstance(loaded.model, Engine) or not is_decoded_here(loaded.model):
        for batch in length_batches([rows[n] for n in asked], loaded.batch_tokens):
            stop_if_requested("answering questions")
            numbers = [asked[place] for place in batch]
            names = None if samples is None else [samples[n] for n in numbers]
            limit = max(limits[n] for n in numbers)
            texts = generate_in_parts(loaded, [rows[n] for n in numbers], limit=limit, samples=names)
            tokens = {n: text[: limits[n]] for n, text in zip(numbers, texts, strict=True)}
            yield Continued(tokens, max(map(len, texts)))
        return
    choose: Choose = choose_greedily if samples is None else Sampler(loaded, samples, max(limits, default=0))
    waiting = [Row(number=n, prompt=rows[n].ids, limit=limits[n]) for n in asked]
    for row in waiting if drafts and samples is None else ():
        row.draft = drafts[row.number].within(row.limit)
    for group in groups_of_like_length(waiting, loaded.batch_tokens):
        yield from decode_group(loaded, group, choose)


def groups_of_like_length(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows, longest first, in groups that share a cache: a new one where prompts are half as long as the first."""
    group: list[Row] = []
    for row in rows:
        if group and 2 * len(row.prompt) < len(group[0].prompt) and len(group) >= places_for(group[0], batch_tokens):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def places_for(longest: Row, batch_tokens: int) -> int:
    """How many prompts as long as this one the token budget allows at once."""
    return min(BATCH_ROWS, max(1, batch_tokens // max(1, len(longest.prompt))))


@torch.inference_mode()
def decode_group(loaded: LoadedModel, group: Sequence[Row], choose: Choose) -> Iterator[Continued]:
    """Decode rows of like length; where memory has no room for as many at once, what is left with half of them."""
    from lume_run.evaluation.inference.decoding import Decoder

    places = min(len(group), places_for(group[0], loaded.batch_tokens))
    stops, left = frozenset(loaded.stop_tokens()), {row.number: row for row in group}
    while left:
        decoder = Decoder(
            loaded.network,
            places=places,
            columns=max(len(row.prompt) + row.limit for row in left.values()),
            pad_id=loaded.pad_id,
            device=loaded.device,
        )
        try:
            passes = 0
            for ended in decoder.run(list(left.values()), choose, stops):
                for row in ended:
                    del left[row.number]
                yield Continued({row.number: row.tokens for row in ended}, decoder.passes - passes)
                passes = decoder.passes
        except (RuntimeError, MemoryError) as error:
            if places == 1 or not is_out_of_memory(error):
                raise
            places //= 2
        if left:
            del decoder
            torch.cuda.empty_cache()
            console.print(f"  [yellow]no room in memory for so many rows at once: {places} are decoded at a time[/]")
            for row in left.values():
                row.tokens.clear()


def choose_greedily(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The most probable next token of each row."""
    tokens: list[int] = likeliest(logits).tolist()
    return tokens


class Sampler:
    """Next tokens of rows by their own random numbers (inverse transform sampling)."""

    def __init__(self, loaded: LoadedModel, samples: Sequence[str], limit: int) -> None:
        self.numbers = uniform_numbers(samples, limit, loaded.seed)
        self.temperature = loaded.temperature

    def __call__(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """The token at which the cumulated probability passes the row's number for this step."""
        drawn = torch.stack([self.numbers[row.number, len(row.tokens)] for row in rows])
        tokens: list[int] = sample_tokens(logits, drawn, self.temperature)[:, 0].tolist()
        return tokens


def sample_tokens(logits: Tensor, numbers: Tensor, temperature: float) -> Tensor:
    """Tokens (n, 1) where the cumulated probability of `logits` (n, V) passes `numbers` (n,)."""
    cumulated = (logits.double() / temperature).softmax(-1).cumsum(-1)
    threshold = send(numbers, logits.device)[:, None] * cumulated[:, -1:]
    return (cumulated <= threshold).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)


def generate_in_parts(
    loaded: LoadedModel, rows: Sequence[TokenRow], *, limit: int, samples: Sequence[str] | None
) -> list[list[int]]:
    """`generate_batch`, in halves where memory has no room for the whole batch."""
    try:
        return generate_batch(loaded, rows, limit=limit, samples=samples)
    except (RuntimeError, MemoryError) as error:
        if len(rows) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # not in the handler: there the error still holds on to the batch
    parts = (slice(0, len(rows) // 2), slice(len(rows) // 2, None))
    halves = [generate_in_parts(loaded, rows[at], limit=limit, samples=samples and samples[at]) for at in parts]
    return [text for half in halves for text in half]


@torch.inference_mode()
def generate_batch(
    loaded: LoadedModel, rows: Sequence[TokenRow], *, limit: int, samples: Sequence[str] | None
) -> list[list[int]]:
    """The same by an engine, or by transformers' own loop."""
    from transformers import GenerationConfig, LogitsProcessorList

    stops = loaded.stop_tokens()
    if isinstance(loaded.model, Engine):
        seeds = None if samples is None else [seed_of(name, loaded.seed) for name in samples]
        prompts = [row.ids for row in rows]
        return loaded.model.continue_prompts(
            prompts, limit=limit, stops=stops, seeds=seeds, temperature=loaded.temperature
        )
    batch = batch_of(rows, loaded)
    config = GenerationConfig(  # what it leaves open, such as a repetition penalty, is as the model's config says
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=stops,
    )
    begin = batch.input_ids.shape[1]
    processors = LogitsProcessorList()
    if samples is not None:
        numbers = uniform_numbers(samples, limit, loaded.seed)
        processors.append(SamplingProcessor(numbers=numbers, begin=begin, temperature=loaded.temperature))
    model: Any = loaded.network
    tokens = model.generate(  # it counts positions from the mask itself
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        generation_config=config,
        logits_processor=processors,
    )
    return [_until_stop(ids, stops) for ids in tokens[:, begin:].tolist()]


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """The tokens up to the first stop token, which is included."""
    end = next((position + 1 for position, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def uniform_numbers(samples: Sequence[str], limit: int, seed: int) -> Tensor:
    """Random numbers in [0, 1), (B, limit) float64; a row's depend on its name and the seed alone."""
    digests = (stable_digest(seed, name) for name in samples)
    return torch.from_numpy(np.stack([np.random.default_rng(list(digest)).random(limit) for digest in digests]))


def seed_of(sample: str, seed: int) -> int:
    """The same as a seed of 63 bits, for an engine that samples by itself."""
    return int.from_bytes(stable_digest(seed, sample)[:8], "big") >> 1  # a signed number in the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingProcessor:
    """A logits processor that makes greedy search sample: it leaves the token where the cumulated probability passes
    the row's random number (inverse transform sampling).

    `numbers` (B, limit), `begin` [tokens] is the width of the prompts.
    """

    numbers: Tensor
    begin: int
    temperature: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) in which only the sampled token is possible."""
        token = sample_tokens(scores, self.numbers[:, input_ids.shape[1] - self.begin], self.temperature)
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)
