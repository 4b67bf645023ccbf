"""The embedded default's model: a small OLMo with random weights and a tokenizer trained beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.common.lazy import torch
from lume_run.config.model_settings import ShapeSettings
from lume_run.models.load import TINY_CONTEXT_TOKENS, save_model
from lume_run.models.weights import olmo_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE over these texts; digits stand alone, so that numbers are learned digit by digit."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PADDING)


def build_tiny(shape: ShapeSettings, texts: Iterable[str], seed: int, folder: Path) -> None:
    """Write an untrained OLMo and its freshly trained tokenizer as an ordinary Hugging Face folder."""
    from transformers import OlmoForCausalLM

    tokenizer = train_tokenizer(texts, shape.vocabulary)
    config = olmo_config(
        shape,
        max_position_embeddings=TINY_CONTEXT_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OlmoForCausalLM(config)
    save_model(model, tokenizer, folder)
