"""Expected answers as drafts of what a model will write: greedy texts that agree with them cost no steps.

One forward runs a prompt with its draft behind it. The draft's tokens that the model would have chosen itself are the
text, up to the first it would not; from there on it goes token by token. So the text is what it is without a draft
(Yang et al. 2023, arXiv 2304.04487; the greedy case of speculative decoding, Leviathan et al. 2023, arXiv 2211.17192).
A model that has memorised its answers writes them in one pass; one that has forgotten them wastes the draft. Which it
is differs by split, so that a few rows of each are tried first.
Shapes: n rows, K draft tokens of all rows and one more of each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from lume_run.models.rows.packed import Packing
from lume_run.models.rows.tokenise import TokenRow

TRIED = 4  # rows of a source whose drafts are run before it is known what they are worth
WORTH = 0.5  # share of draft tokens that must be right: one costs about half a step of one row on a CPU


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may follow a prompt; drafts of one `source` are alike in how often they are right."""

    tokens: tuple[int, ...] = ()
    source: str = ""

    def within(self, limit: int) -> Draft:
        """As much of it as leaves one of `limit` tokens to be chosen."""
        return replace(self, tokens=self.tokens[: limit - 1])


@dataclass(slots=True, kw_only=True)
class Row:
    """A prompt, how far it may be continued, and what came so far; `number` tells it from others.

    `draft` may follow the prompt, and is shorter than the limit.
    """

    number: int
    prompt: Sequence[int]
    limit: int
    draft: Draft = Draft()
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of its prompt and its text; all but the last take a column."""
        return len(self.prompt) + len(self.tokens)

    def is_over(self, stops: frozenset[int]) -> bool:
        """Whether its text has ended."""
        return self.tokens[-1] in stops or len(self.tokens) >= self.limit


@dataclass(slots=True)
class HitCount:
    """How many tokens of a source's drafts were run, and how many of them were right."""

    rows: int = 0
    run: int = 0
    right: int = 0

    @property
    def is_worth_it(self) -> bool:
        """Whether drafts of this source save more than they cost, as far as is known."""
        return self.right >= WORTH * self.run


@dataclass(slots=True)
class Drafts:
    """What is known of the drafts of each source."""

    counts: dict[str, HitCount] = field(default_factory=dict)

    def next_rows(self, waiting: Sequence[Row], places: int) -> list[Row]:
        """The rows that join next, at most so many: the first that waits, and while a source is not known those to be
        tried. They lose drafts that are not worth it."""
        tried = list(self._to_try(waiting))
        rows = [waiting[0], *(row for row in tried if row is not waiting[0])] if tried else waiting
        for row in (chosen := list(rows[:places])):
            if not self.count_of(row).is_worth_it:
                row.draft = Draft()
        return chosen

    def _to_try(self, waiting: Sequence[Row]) -> Iterator[Row]:
        left: dict[str, int] = {}
        for row in waiting:
            room = left.setdefault(row.draft.source, TRIED - self.count_of(row).rows)
            if row.draft.tokens and room > 0:
                left[row.draft.source] = room - 1
                yield row

    def count_of(self, row: Row) -> HitCount:
        """What is known of a row's source."""
        return self.counts.setdefault(row.draft.source, HitCount())

    def note(self, row: Row) -> None:
        """Count a row whose draft was run."""
        count = self.count_of(row)
        count.rows += 1
        count.run += len(row.draft.tokens)
        count.right += sum(token == drafted for token, drafted in zip(row.tokens, row.draft.tokens, strict=False))


def predictors(packing: Packing, rows: Sequence[TokenRow]) -> Tensor:
    """Tokens (K,) whose logits say what follows a prompt, and each token of its draft, row after row."""
    parts = torch.split(packing.predictors, [row.labels for row in rows])
    return torch.cat([part for pair in zip(parts, torch.split(packing.ends, 1), strict=True) for part in pair])


def agreed_tokens(rows: Sequence[TokenRow], chosen: Sequence[int], stops: Collection[int]) -> list[list[int]]:
    """The text of each row so far: its draft up to the first token that is not the one chosen there, and that one.

    `chosen` (K,) are the model's tokens at `predictors`. A stop token ends the text.
    """
    ends = accumulate(row.labels + 1 for row in rows)
    return [
        _agreed(row.ids[row.label_start :], chosen[end - row.labels - 1 : end], stops)
        for row, end in zip(rows, ends, strict=True)
    ]


def _agreed(draft: Sequence[int], chosen: Sequence[int], stops: Collection[int]) -> list[int]:
    tokens: list[int] = []
    for number, token in enumerate(chosen):
        tokens.append(token)
        if token in stops or number == len(draft) or token != draft[number]:
            break
    return tokens
