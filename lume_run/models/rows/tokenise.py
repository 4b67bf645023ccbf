"""From examples to token rows: the only place that joins, masks, truncates and pads.

Three promises hold everywhere because they are made here:
* the prompt of a training row has exactly the tokens that generation will see (rows too long for
  the model excepted: those lose their oldest words, and the caller says so);
* the answer ends in EOS, or as the chat template ends a turn, which is a label and is attended to even where pad
  equals EOS (attention masks come from lengths, never from comparing ids with the pad id);
* the first answer token is always a label: where joint tokenisation would merge it with the
  prompt's last token, the answer is tokenised on its own.
A task with a `separator` of its own gives up the first and the third: its rows are what released codes make of them.

Shapes: B rows, T tokens, R label positions (padded).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lume_run.common.records import Example, Kind, continuation
from lume_run.methods.needs import Role
from lume_run.models.rows.chat import chat_prompt, continued_texts
from lume_run.models.rows.special_text import continuation_ids, mask_special, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHOLE_TEXTS = (Kind.DOCUMENT, Kind.CHUNK)  # trained on and scored from their first token


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One tokenised example. Labels are `ids[label_start:]`, the answer is `ids[answer_start:]`.

    The two differ where prompts are labelled too. `truncated` counts tokens that did not fit. `variant` numbers the
    rows that one example has in one role.
    """

    example_id: str
    ids: tuple[int, ...]
    answer_start: int
    label_start: int
    role: Role = Role.RETAIN
    truncated: int = 0
    variant: int = 0

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
        """Tells rows of one example apart by their role, and their number in it."""
        return f"{self.role.name.lower()} {self.example_id}" + (f" #{self.variant}" if self.variant else "")


def prompt_ids(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of what generation sees: the prompt behind the tokenizer's own first tokens, or in its chat template.

    It never ends in EOS, also where a tokenizer closes every text.
    """
    if example.chat is not None:
        return text_ids(chat_prompt(example, tokenizer), tokenizer, add_special_tokens=example.starts_twice)
    return plain_ids(_begun_prompt(example), tokenizer, template=example.template)


def _begun_prompt(example: Example) -> str:
    """The prompt in plain text, with what the answer begins with already."""
    return example.prompt + (continuation(example, example.begun) if example.begun else "")


def plain_ids(text: str, tokenizer: PreTrainedTokenizerBase, *, template: str = "") -> list[int]:
    """Token ids of a text that is to be continued; special tokens are those that `template` spells."""
    return text_ids(mask_special(text, tokenizer, template=template), tokenizer, add_special_tokens=True)


def chunk_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a stretch of another text, behind the tokenizer's own first tokens."""
    return plain_ids("", tokenizer) + continuation_ids(mask_special(text, tokenizer), tokenizer)


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
    `labels=input_ids`, as in the SemEval membership attack). So does a CHUNK, whose text begins anywhere in another.
    Otherwise labels are the answer and EOS, and with `label_prompt` the prompt as well.
    """
    if example.kind in WHOLE_TEXTS:
        ids = (chunk_ids if example.kind is Kind.CHUNK else plain_ids)(example.answer, tokenizer)
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
    prompt, answer = pair_ids(example, tokenizer)
    overflow = max(0, len(prompt) + len(answer) - max_tokens)
    if overflow and example.chat is not None:
        prompt, answer = pair_ids(fit_chat(example, tokenizer, room=max_tokens - len(answer)), tokenizer)
    cut = min(max(0, len(prompt) + len(answer) - max_tokens), max(0, len(prompt) - 1))  # oldest words first
    prompt, answer = prompt[cut:], answer[: max_tokens - (len(prompt) - cut)]
    return TokenRow(
        example_id=example.id,
        ids=tuple(prompt + answer),
        answer_start=len(prompt),
        label_start=min(1, len(prompt)) if label_prompt else len(prompt),
        role=role,
        truncated=overflow,
    )


def fit_chat(example: Example, tokenizer: PreTrainedTokenizerBase, *, room: int) -> Example:
    """A chat whose prompt has at most `room` tokens, where the user's oldest words are what is too much.

    The frame of the template stays whole; where it alone is too long, the row is cut like any other.
    """
    for _ in range(4):  # each cut changes how what is left is tokenised
        surplus = len(prompt_ids(example, tokenizer)) - room
        words = text_ids(mask_special(example.prompt, tokenizer), tokenizer, add_special_tokens=False)
        if example.chat is None or not 0 < surplus < len(words):
            break
        shorter = tokenizer.decode(words[surplus:], skip_special_tokens=True).lstrip()
        example = replace(example, prompt=shorter)
    return example


def pair_ids(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of (the prompt and what of the answer has begun, the answer after it with the token that ends it)."""
    if example.chat is not None:
        prompt, answer = continued_texts(example, tokenizer)
        return split_ids(prompt, answer, tokenizer, add_special_tokens=example.starts_twice)
    if example.begun:
        example = replace(example, prompt=_begun_prompt(example), begun="")
    prompt, answer = (
        mask_special(text, tokenizer, template=template)
        for text, template in ((example.prompt, example.template), (continuation(example), ""))
    )
    start, rest = split_ids(prompt, answer, tokenizer, add_special_tokens=True, merges=example.separator is not None)
    return start, rest if tokenizer.eos_token_id is None else [*rest, int(tokenizer.eos_token_id)]


def has_room(example: Example, tokenizer: PreTrainedTokenizerBase | None, max_tokens: int) -> bool:
    """Whether a row and its end have at most `max_tokens` tokens, half of them in the prompt at most.

    Where there is no tokenizer yet: of a byte-level one, whose tokens are bytes at least, and which adds two.
    """
    if tokenizer is None:
        prompt, answer = (len(text.encode()) + 1 for text in (example.prompt, continuation(example)))
    else:
        prompt, answer = map(len, pair_ids(example, tokenizer))
    return prompt <= max_tokens // 2 and prompt + answer <= max_tokens


def split_ids(
    prompt: str, answer: str, tokenizer: PreTrainedTokenizerBase, *, add_special_tokens: bool, merges: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids of two masked texts on end; the first has the tokens that it has alone, as generation sees it.

    Where the boundary falls into a token, the answer is tokenised alone; with `merges` the two are tokenised as one
    text and cut behind as many tokens as the prompt has alone.
    """
    start = text_ids(prompt, tokenizer, add_special_tokens=add_special_tokens)
    together = text_ids(prompt + answer, tokenizer, add_special_tokens=add_special_tokens)
    if merges or together[: len(start)] == start:
        return together[: len(start)], together[len(start) :]
    return start, continuation_ids(answer, tokenizer)
