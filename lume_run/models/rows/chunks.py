"""A running text in chunks of equally many tokens, as MUSE cuts what it trains on (arXiv:2407.06460)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lume_run.common.errors import ConfigError, Problem
from lume_run.models.rows.tokenise import plain_ids
from lume_run.tasks.documents import byte_chunks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_chunks(text: str, tokenizer: PreTrainedTokenizerBase | None, tokens: int) -> list[str]:
    """The whole text, tokenised once and cut at every so many tokens, of which those that begin every text are a part.

    The last chunk is what is left. Without a tokenizer: of a byte-level one, which adds a token. ConfigError for a
    tokenizer that does not say where in a text its tokens stand.
    """
    if tokenizer is None:
        return byte_chunks(text, tokens - 1)
    if not tokenizer.is_fast:
        what = f"{type(tokenizer).__name__} does not say where in a text its tokens stand, by which texts are cut"
        raise ConfigError([Problem(where="model.tokenizer", what=what, remedy="a folder with a tokenizer.json")])
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    stride = max(1, tokens - len(plain_ids("", tokenizer)))
    cuts = [0, *begins[stride::stride], len(text)]
    return [text[begin:end] for begin, end in pairwise(cuts) if end > begin]
