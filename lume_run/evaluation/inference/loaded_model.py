"""A loaded model with its tokenizer, and questions as the rows of tokens it is run on.

Rows are left-padded with positions counted from the first real token, which makes a batch answer as single rows do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lume_run.common.errors import RunError
from lume_run.common.records import GIVEN_ANSWERS, TEXTS, Example, Question
from lume_run.evaluation.inference.vllm import Engine, unsupported_settings
from lume_run.models.layers import forward_accepts
from lume_run.models.rows.batch import NO_TOTALS, Batch, collate
from lume_run.models.rows.tokenise import TokenRow, encode, fit_chat, plain_ids, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SHOT_TOKENS = 2048  # of a prompt with worked examples, at most
KEYS_AND_VALUES = {"full_attention", "sliding_attention", "chunked_attention"}  # layers that keep nothing else
NO_PROMPT = "The prompt of example '{}' has no tokens; a model needs at least one to continue."


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A loaded model with the sizes it is run at.

    `batch_tokens` counts tokens of the rows, not those generated after them: of packed rows that are scored, what they
    share once; else each row as long as the longest. `temperature` and `seed` are for sampled continuations.
    `turn_ends` are the tokens that end the assistant's turn in the chat template, where rows are put into one.
    `into` is the model from before unlearning, where states are to be put into it.
    """

    model: nn.Module | Engine
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    max_length: int
    batch_tokens: int
    temperature: float = 1.0
    seed: int = 0
    max_total_tokens: int | None = None
    turn_ends: frozenset[int] = frozenset()
    into: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        """The model itself, which an engine would keep to itself."""
        assert isinstance(self.model, nn.Module)
        return self.model

    @property
    def device(self) -> torch.device:
        """Where rows are put: with the first weights that are on a device; layers elsewhere fetch theirs when run."""
        places = (weight.device for weight in self.network.parameters())
        return next((place for place in places if place.type != "meta"), torch.device("cpu"))

    @property
    def pad_id(self) -> int:
        """What rows are padded with."""
        return int(self.tokenizer.pad_token_id)

    def stop_tokens(self) -> list[int]:
        """Token ids that end a generation: the tokenizer's EOS, the model's own and the chat template's."""
        ends = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        return sorted({token for token in [self.tokenizer.eos_token_id, *ends, *self.turn_ends] if token is not None})


def is_decoded_here(model: Any) -> bool:
    """Whether a model's greedy text follows from its logits and a cache of keys and values alone.

    Not so where its generation config changes logits (a repetition penalty, say), or layers keep another state:
    transformers' own loop then generates.
    """
    config = getattr(model, "generation_config", None)
    penalty = getattr(config, "repetition_penalty", None)
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    caches = kinds <= KEYS_AND_VALUES and forward_accepts(model, "past_key_values")  # GPT-1 has no cache
    return not unsupported_settings(config) and penalty in (None, 1.0) and caches


def fit_shots(example: Example, loaded: LoadedModel) -> Example:
    """The example with as many of its worked examples as fit, the first ones: as the official MMLU run does.

    It takes the last of them away until the prompt has at most 2,048 tokens, special ones not counted; here also until
    the model has room for it and one token more.
    """
    if not example.shots:
        return example
    question = example.prompt[example.shots[-1] :]
    prompts = [example.prompt[:end] + question for end in reversed(example.shots)]
    fitting = (replace(example, prompt=text, shots=()) for text in prompts)
    return next((short for short in fitting if _fits(short, loaded)), replace(example, prompt=prompts[-1], shots=()))


def _fits(example: Example, loaded: LoadedModel) -> bool:
    """Whether a prompt with worked examples is short enough for the official run, and for the model."""
    tokens, special = (len(plain_ids(text, loaded.tokenizer)) for text in (example.prompt, ""))
    whole = tokens if example.chat is None else len(prompt_ids(example, loaded.tokenizer))
    return tokens - special <= SHOT_TOKENS and whole < loaded.max_length


def prompt_row(example: Example, loaded: LoadedModel, *, new_tokens: int) -> TokenRow:
    """A prompt as a row without labels, cut on the left where it and `new_tokens` more would not fit.

    Half of the model's length is the prompt's in any case; the continuation is shorter then.
    """
    ids = prompt_ids(example, loaded.tokenizer)
    room = max(1, loaded.max_length - new_tokens, loaded.max_length // 2)
    fitted = ids
    if len(ids) > room and example.chat is not None:
        fitted = prompt_ids(fit_chat(example, loaded.tokenizer, room=room), loaded.tokenizer)
    kept = tuple(fitted[-room:])
    if not kept:
        raise RunError(NO_PROMPT.format(example.id))
    return TokenRow(
        example_id=example.id, ids=kept, answer_start=len(kept), label_start=len(kept), truncated=len(ids) - len(kept)
    )


def token_row(question: Question, loaded: LoadedModel) -> TokenRow:
    """What the model is run on for a question."""
    if question.ask in GIVEN_ANSWERS:
        row = encode(question.example, loaded.tokenizer, max_tokens=loaded.max_length)
        if row.ids and not row.label_start:  # nothing would predict the first label
            raise RunError(NO_PROMPT.format(question.example.id))
        return row
    return prompt_row(question.example, loaded, new_tokens=continuation_limit(question, loaded) or 1)


def continuation_limit(question: Question, loaded: LoadedModel) -> int:
    """Longest continuation [tokens] of any prompt; 0 where there is none."""
    if question.ask not in TEXTS:
        return 0
    limits = (question.limit, loaded.max_new_tokens, loaded.max_total_tokens)
    return min(limit for limit in limits if limit)


def host_batch(rows: Sequence[TokenRow], loaded: LoadedModel) -> Batch:
    """Rows padded on the left, or packed, and what they begin with in common run once; still on the host."""
    return collate(rows, pad_id=loaded.pad_id, totals=NO_TOTALS, shares=True)


def batch_of(rows: Sequence[TokenRow], loaded: LoadedModel) -> Batch:
    """The same where the model is."""
    return host_batch(rows, loaded).to(loaded.device)


def decode(tokens: Sequence[int], loaded: LoadedModel) -> str:
    """Text of generated tokens without special tokens, white space as generated."""
    text: str = loaded.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
