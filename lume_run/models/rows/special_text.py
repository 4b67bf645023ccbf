"""Text that spells a special token: in a user's row it is text like any other, in a template it is the token.

A row's texts are masked before they meet a template: whatever spells a special token becomes a mark. Where the whole
is tokenised, a mark becomes the tokens of its letters, never the token itself. Nearly all texts hold no mark and are
tokenised in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_MARK = re.compile("\ue000([\ue100-\uf8ff])\ue001")  # of private use, not seen in texts
FIRST_MARK = 0xE100


@lru_cache(maxsize=8)
def special_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What spells a special token of this tokenizer, the longest first."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*added, *map(str, tokenizer.all_special_tokens)}, key=lambda text: (-len(text), text)))


@lru_cache(maxsize=8)
def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, special_texts(tokenizer))) or "(?!)")


def mask_special(text: str, tokenizer: PreTrainedTokenizerBase, *, template: str = "") -> str:
    """`text` with a mark for everything that spells a special token, what `template` spells excepted.

    A text that holds a mark already loses the mark's frame: its letters stand for nothing.
    """

    def mark(match: re.Match[str]) -> str:
        number = special_texts(tokenizer).index(match[0])
        return match[0] if match[0] in template else f"\ue000{chr(FIRST_MARK + number)}\ue001"

    return _pattern(tokenizer).sub(mark, SPECIAL_MARK.sub(lambda framed: framed[1], text))


def find_special(text: str, tokenizer: PreTrainedTokenizerBase) -> re.Match[str] | None:
    """The first special token that a text spells."""
    return _pattern(tokenizer).search(text)


def find_last(text: str, part: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Where `part` begins for the last time outside the special tokens that `text` spells; -1 where it does not."""
    spans = [match.span() for match in _pattern(tokenizer).finditer(text)]
    place = text.rfind(part)
    while place >= 0 and any(place < end and start < place + len(part) for start, end in spans):
        place = text.rfind(part, 0, place + len(part) - 1)
    return place


@lru_cache(maxsize=8)
def closes_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts EOS behind every text, as T5's do; one that is BOS as well may be the first token."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase, *, add_special_tokens: bool) -> list[int]:
    """Token ids of a masked text from its beginning; with `add_special_tokens` behind those that begin every text."""
    first, *rest = SPECIAL_MARK.split(text)
    ids = list(tokenizer(first, add_special_tokens=add_special_tokens)["input_ids"])
    if add_special_tokens and closes_texts(tokenizer):
        ids.pop()  # this text is not over
    return ids + _marked_ids(rest, tokenizer)


def continuation_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a masked text in the middle of another."""
    first, *rest = SPECIAL_MARK.split(text)
    return _piece_ids(first, tokenizer) + _marked_ids(rest, tokenizer)


def _marked_ids(parts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of letters of marks and the texts behind them, in turn."""
    ids = []
    for mark, piece in zip(parts[::2], parts[1::2], strict=True):
        ids += _piece_ids(special_texts(tokenizer)[ord(mark) - FIRST_MARK], tokenizer, split_special_tokens=True)
        ids += _piece_ids(piece, tokenizer)
    return ids


def _piece_ids(text: str, tokenizer: PreTrainedTokenizerBase, *, split_special_tokens: bool = False) -> list[int]:
    """Token ids of a text behind a line break: SentencePiece tokenizers put a space before a text's first word.

    With `split_special_tokens` what spells a special token gives the tokens of its letters.
    """

    def ids_of(part: str) -> list[int]:
        encoded = tokenizer(part, add_special_tokens=False, split_special_tokens=split_special_tokens)
        return list(encoded["input_ids"])

    if not text:
        return []
    anchor, anchored = ids_of("\n"), ids_of("\n" + text)
    if anchor and anchored[: len(anchor)] == anchor:
        return anchored[len(anchor) :]
    return ids_of(text)
