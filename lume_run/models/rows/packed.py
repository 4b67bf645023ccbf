"""Rows end to end, without padding: where each of their tokens and labels is.

In attention, where each stands for itself, rows of like length are a group: B' rows of at most S' tokens.
Shapes: B rows, N tokens in all, T padded tokens, R label positions, L labels in all, M places of all groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lume_run.models.rows.tokenise import TokenRow

PACKED_TYPES = frozenset(  # `model_type` of families
    (
        *("gpt_neox", "llama", "mistral", "mixtral", "olmo", "olmo2", "olmoe", "phi", "phi3", "qwen2", "qwen3"),
        *("qwen3_moe", "gemma", "gemma3_text", "gemma3", "granite", "smollm3"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the tokens of rows are when they are packed.

    `tokens` (N,) their places among the padded ones (B x T), left-padded; `slots` (N,) among the M of the groups,
    right-padded; `sources` (M,) which token each of those is, 0 for padding; `groups` (rows, longest) of each;
    `predictors` (L,) the token that predicts each label, `labels` (L,) its place among B x R.
    """

    groups: tuple[tuple[int, int], ...]
    tokens: Tensor
    slots: Tensor
    sources: Tensor
    predictors: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Packing:
        """The same on another device."""
        names = ("tokens", "slots", "sources", "predictors", "labels")
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, **moved)


def pack(rows: Sequence[TokenRow], *, width: int, span: int) -> Packing | None:
    """Where the tokens of left-padded rows are, `width` wide with `span` label positions; None where a label has
    nothing before it, and where there are no rows."""
    if not rows or any(row.labels and not row.label_start for row in rows):
        return None
    lengths = torch.tensor([len(row.ids) for row in rows])
    labels = torch.tensor([row.labels for row in rows])
    begins = lengths.cumsum(0) - lengths
    within = torch.arange(int(lengths.sum())) - begins.repeat_interleave(lengths)  # place of a token in its row
    number = torch.arange(len(rows)).repeat_interleave(lengths)
    groups, firsts = groups_of(lengths.tolist())
    slots = torch.tensor(firsts)[number] + within
    sources = torch.zeros(sum(members * longest for members, longest in groups), dtype=torch.long)
    sources[slots] = torch.arange(len(slots))
    counted = torch.arange(int(labels.sum())) - (labels.cumsum(0) - labels).repeat_interleave(labels)
    first_predictor, first_label = begins + lengths - labels - 1, torch.arange(len(rows)) * span + span - labels
    return Packing(
        groups=groups,
        tokens=number * width + (width - lengths)[number] + within,
        slots=slots,
        sources=sources,
        predictors=first_predictor.repeat_interleave(labels) + counted,
        labels=first_label.repeat_interleave(labels) + counted,
    )


def groups_of(lengths: Sequence[int]) -> tuple[tuple[tuple[int, int], ...], list[int]]:
    """((rows, longest) of each group, the first of each row's places): lengths of as many binary digits go together."""
    digits = sorted({length.bit_length() for length in lengths})
    groups: list[tuple[int, int]] = []
    firsts = [0] * len(lengths)
    place = 0
    for size in digits:
        members = [number for number, length in enumerate(lengths) if length.bit_length() == size]
        longest = max(lengths[number] for number in members)
        for number in members:
            firsts[number] = place
            place += longest
        groups.append((len(members), longest))
    return tuple(groups), firsts
