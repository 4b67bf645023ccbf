"""Texts, greedy or sampled, of a batch of prompts.

A sampled text comes from random numbers of its own, so that it is the same in any batch.
Shapes: B rows, V vocabulary.
"""

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
from lume_run.models.rows.tokenise import TokenRow


@torch.inference_mode()
def continuations(
    loaded: LoadedModel, rows: Sequence[TokenRow], *, limit: int, samples: Sequence[str] | None = None
) -> list[list[int]]:
    """Tokens that follow each prompt, the one that ends the text included; at most `limit`.

    Greedy, or sampled at the loaded model's temperature: then `samples` names the random numbers of each row.
    """
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
        cumulated = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        threshold = self.numbers[:, input_ids.shape[1] - self.begin, None].to(scores.device) * cumulated[:, -1:]
        token = (cumulated <= threshold).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)
