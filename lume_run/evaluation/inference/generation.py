"""Texts, greedy or sampled, of a batch of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lume_run.common.seeds import stable_digest
from lume_run.evaluation.inference.loaded_model import LoadedModel, batch_of
from lume_run.evaluation.inference.vllm import Engine
from lume_run.models.tokenise import TokenRow


@torch.inference_mode()
def continuations(
    runner: LoadedModel, rows: Sequence[TokenRow], *, limit: int, draws: Sequence[str] | None = None
) -> list[list[int]]:
    """Tokens that follow each prompt, the one that ends the text included; at most `limit`.

    Greedy, or drawn from the model at the runner's temperature: then `draws` names the random numbers of each row.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    stops = runner.stops()
    if isinstance(runner.model, Engine):
        seeds = None if draws is None else [seed_of(name, runner.seed) for name in draws]
        prompts = [row.ids for row in rows]
        return runner.model.continue_prompts(
            prompts, limit=limit, stops=stops, seeds=seeds, temperature=runner.temperature
        )
    batch = batch_of(rows, runner)
    config = GenerationConfig(  # what it leaves open, such as a repetition penalty, is as the model's own one says
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        pad_token_id=runner.tokenizer.pad_token_id,
        eos_token_id=stops,
    )
    begin = batch.input_ids.shape[1]
    sampled = (
        []
        if draws is None
        else [SamplingProcessor(uniform_numbers(draws, limit, runner.seed), begin, runner.temperature)]
    )
    model: Any = runner.network
    tokens = model.generate(  # it counts positions from the mask itself
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        generation_config=config,
        logits_processor=LogitsProcessorList(sampled),
    )
    found = []
    for ids in tokens[:, begin:].tolist():
        end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
        found.append(ids[:end])
    return found


def uniform_numbers(draws: Sequence[str], limit: int, seed: int) -> Tensor:
    """Random numbers in [0, 1), (B, limit) float64; a row's depend on its name and the seed alone."""
    digests = (digest_of(name, seed) for name in draws)
    return torch.from_numpy(np.stack([np.random.default_rng(list(digest)).random(limit) for digest in digests]))


def digest_of(draw: str, seed: int) -> bytes:
    """What a row's random numbers come from."""
    return stable_digest(seed, draw)


def seed_of(draw: str, seed: int) -> int:
    """The same as a seed of 63 bits, for an engine that draws by itself."""
    return int.from_bytes(digest_of(draw, seed)[:8], "big") >> 1  # a signed number in the engine


@dataclass(frozen=True)
class SamplingProcessor:
    """A logits processor that makes greedy search sample: it leaves the token where the cumulated probability passes
    the row's random number (inverse transform sampling).

    `numbers` (B, limit), `begin` [tokens] is the width of the prompts.
    """

    numbers: Tensor
    begin: int
    temperature: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) in which only the drawn token is possible."""
        cumulated = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        at = self.numbers[:, input_ids.shape[1] - self.begin, None].to(scores.device) * cumulated[:, -1:]
        drawn = (cumulated <= at).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)
