"""From examples to token rows: the only place that joins, masks, truncates and pads.

Three promises hold everywhere because they are made here:
* the prompt of a training row has exactly the tokens that generation will see (rows too long for
  the model excepted: those lose their oldest words, and the caller says so);
* the answer ends in EOS, which is a label and is attended to even where pad equals EOS
  (attention masks come from lengths, never from comparing ids with the pad id);
* the first answer token is always a label: where joint tokenisation would merge it with the
  prompt's last token, the answer is tokenised on its own.

Shapes: B rows, T tokens, R label positions (padded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lume_run.common.records import Example, Kind, with_separator
from lume_run.methods.base import Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One tokenised example. Labels are `ids[label_start:]`, the answer is `ids[answer_start:]`.

    The two differ where prompts are labelled too. `truncated` counts tokens that did not fit.
    """

    example_id: str
    ids: tuple[int, ...]
    answer_start: int
    label_start: int
    role: Role = Role.RETAIN
    truncated: int = 0

    @property
    def labels(self) -> int:
        """Number of label tokens."""
        return len(self.ids) - self.label_start

    @property
    def answers(self) -> int:
        """Number of answer tokens."""
        return len(self.ids) - self.answer_start

    @property
    def key(self) -> str:
        """Tells rows of one example apart by their role."""
        return f"{self.role.name.lower()} {self.example_id}"


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt with the tokenizer's own special tokens, never ending in EOS."""
    ids: list[int] = list(tokenizer(prompt)["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id and ids[-1] != tokenizer.bos_token_id:
        ids.pop()  # some tokenizers close every text; the answer comes after the prompt here
    return ids


def encode(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    label_prompt: bool = False,
    role: Role = Role.RETAIN,
) -> TokenRow:
    """Tokenise one example into at most `max_tokens` ids.

    A DOCUMENT row labels every token but the first and has no EOS (the Hugging Face loss on
    `labels=input_ids`, as in the SemEval membership attack). Otherwise labels are the answer and
    EOS, and with `label_prompt` the prompt as well.
    """
    if example.kind is Kind.DOCUMENT:
        ids = prompt_ids(example.answer, tokenizer)
        kept = tuple(ids[:max_tokens])
        start = min(1, len(kept))
        return TokenRow(
            example_id=example.id,
            ids=kept,
            answer_start=start,
            label_start=start,
            role=role,
            truncated=len(ids) - len(kept),
        )
    prompt = prompt_ids(example.prompt, tokenizer)
    answer = answer_ids(example.prompt, example.answer, prompt, tokenizer)
    overflow = max(0, len(prompt) + len(answer) - max_tokens)
    cut = min(overflow, max(0, len(prompt) - 1))  # a prompt loses its oldest words first
    prompt, answer = prompt[cut:], answer[: max_tokens - (len(prompt) - cut)]
    return TokenRow(
        example_id=example.id,
        ids=tuple(prompt + answer),
        answer_start=len(prompt),
        label_start=min(1, len(prompt)) if label_prompt else len(prompt),
        role=role,
        truncated=overflow,
    )


def answer_ids(prompt: str, answer: str, prompt_tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of the answer after this prompt, closed by EOS."""
    tail = with_separator(prompt, answer)
    together = prompt_ids(prompt + tail, tokenizer)
    if together[: len(prompt_tokens)] == prompt_tokens:
        ids = together[len(prompt_tokens) :]
    else:  # the boundary merged: keep the prompt as generation sees it
        ids = continuation_ids(tail, tokenizer)
    return ids if tokenizer.eos_token_id is None else [*ids, int(tokenizer.eos_token_id)]


def continuation_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of `text` in the middle of a text: SentencePiece tokenizers put a space before a text's first word."""
    anchor: list[int] = list(tokenizer("\n", add_special_tokens=False)["input_ids"])
    anchored: list[int] = list(tokenizer("\n" + text, add_special_tokens=False)["input_ids"])
    if anchor and anchored[: len(anchor)] == anchor:
        return anchored[len(anchor) :]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
