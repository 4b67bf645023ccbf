"""Running text in chunks of equally many tokens: the tokens of the whole text, cut."""

from __future__ import annotations

import pytest
from helpers.shared import SHARED
from transformers import AutoTokenizer

from lume_run.common.errors import ConfigError
from lume_run.common.records import Example, Kind, Split
from lume_run.models.rows.chunks import token_chunks
from lume_run.models.rows.tokenise import encode

LLAMA = SHARED / "models" / "stories15M"
TEXT = "It rained in Oslo.\n\nNobody minded: naïve as they were, they danced \u2028 all day, 1,234 of them.\n" * 9


def chunk(text: str) -> Example:
    return Example(
        id="c", raw_id="c", document="c", split=Split.FORGET, subtask="raw", kind=Kind.CHUNK, prompt="", answer=text
    )


@pytest.mark.skipif(not LLAMA.is_dir(), reason=f"there is no model at {LLAMA}")
@pytest.mark.parametrize("tokens", [7, 32])
def test_chunks_have_the_tokens_that_cutting_the_whole_text_gives(tokens):
    """As muse_bench cuts: BOS and the next `tokens` - 1 tokens; the first chunk begins as any text in another does."""
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    chunks = token_chunks(TEXT, tokenizer, tokens)
    assert "".join(chunks) == TEXT
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    cut = [(tokenizer.bos_token_id, *ids[at : at + tokens - 1]) for at in range(0, len(ids), tokens - 1)]
    rows = [encode(chunk(text), tokenizer, max_tokens=10**6) for text in chunks]
    assert [row.ids for row in rows[1:]] == cut[1:]
    assert tokenizer.decode(rows[0].ids[1:]).strip() == tokenizer.decode(cut[0][1:]).strip()
    assert {(row.label_start, row.answer_start) for row in rows} == {(1, 1)}
    assert all(row.ids[-1] != tokenizer.eos_token_id for row in rows)


def test_without_a_tokenizer_bytes_are_counted():
    chunks = token_chunks("naïve " * 5, None, 5)
    assert "".join(chunks) == "naïve " * 5
    assert {len(text.encode()) for text in chunks[:-1]} <= {3, 4}


def test_a_tokenizer_that_does_not_know_places():
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match=r"Slow does not say where"):
        token_chunks(TEXT, Slow(), 8)  # type: ignore[arg-type]
