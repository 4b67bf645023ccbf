"""Token rows as one padded batch, and batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lume_run.methods.needs import Totals
from lume_run.models.rows.packed import Packing, pack, send
from lume_run.models.rows.tokenise import TokenRow

NO_TOTALS = Totals()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Padded tensors of one micro-batch.

    `input_ids`, `attention_mask`, `position_ids` (B, T). `role` (B,). `targets`, `mask`, `is_answer` (B, R) are the
    label tokens, which of them count, and which of those belong to the answer. Left-padded rows
    (`keep` > 0) need logits of the last `keep` = R + 1 positions only; right-padded ones
    (`keep` = 0) need all and have R = T - 1. `ref_logps` (B, R) when a cache was given. `packing` says how left-padded
    rows stand end to end, and is made of `rows`.
    """

    keys: tuple[str, ...]
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Tensor
    mask: Tensor
    is_answer: Tensor
    role: Tensor
    totals: Totals
    keep: int
    ref_logps: Tensor | None = None
    rows: tuple[TokenRow, ...] = ()
    packing: Packing | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed."""
        changed: dict[str, Any] = {
            name: value.map(change) if isinstance(value, Packing) else change(value)
            for name in self.__slots__
            if isinstance(value := getattr(self, name), (Tensor, Packing))
        }
        return replace(self, **changed)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self.map(lambda tensor: send(tensor, device))

    def take(self, chosen: Tensor) -> Batch:
        """The rows where `chosen` (B,) is true, as wide as they were."""
        kept: dict[str, Any] = {
            name: value[chosen] for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)
        }
        taken = chosen.tolist()
        packing = None
        if self.packing is not None:
            rows = [row for row, is_taken in zip(self.rows, taken, strict=True) if is_taken]
            width, span = self.input_ids.shape[1], self.targets.shape[1]
            packing = pack(rows, width=width, span=span, shares=self.packing.shares)
            kept["rows"] = tuple(rows)
        names = zip(self.keys, taken, strict=True)
        return replace(self, keys=tuple(key for key, is_taken in names if is_taken), packing=packing, **kept)


def collate(
    rows: Sequence[TokenRow],
    *,
    pad_id: int,
    totals: Totals,
    every_position: bool = False,
    pad_to: int = 0,
    shares: bool = False,
) -> Batch:
    """Pad rows into a batch: on the left for answer positions only, on the right for every position.

    With `shares` a model that takes rows packed is run once on what several begin with."""
    width = max(pad_to, *(len(row.ids) for row in rows))
    span = width - 1 if every_position else max(1, *(row.labels for row in rows))
    width = max(width, span + 1)
    ids = torch.full((len(rows), width), pad_id)
    attention, labelled, answered = (torch.zeros_like(ids, dtype=kind) for kind in (torch.long, torch.bool, torch.bool))
    for number, row in enumerate(rows):
        begin = 0 if every_position else width - len(row.ids)
        end = begin + len(row.ids)
        ids[number, begin:end] = torch.tensor(row.ids, dtype=torch.long)
        attention[number, begin:end] = 1
        labelled[number, begin + row.label_start : end] = True
        answered[number, begin + row.answer_start : end] = True
    # right padding counts on to T - 1, as released every-position losses have it; on the left real tokens begin at 0
    positions = torch.arange(width).repeat(len(rows), 1) if every_position else (attention.cumsum(1) - 1).clamp(min=0)
    return Batch(
        keys=tuple(row.key for row in rows),
        input_ids=ids,
        attention_mask=attention,
        position_ids=positions,
        targets=ids[:, width - span :],
        mask=labelled[:, width - span :],
        is_answer=answered[:, width - span :],
        role=torch.tensor([row.role.value for row in rows]),
        totals=totals,
        keep=0 if every_position else span + 1,
        rows=tuple(rows),
        packing=None if every_position else pack(rows, width=width, span=span, shares=shares),
    )


def length_batches(rows: Sequence[TokenRow], batch_tokens: int) -> list[list[int]]:
    """Row numbers, longest first, in batches of at most `batch_tokens` padded tokens."""
    order = sorted(range(len(rows)), key=lambda number: (-len(rows[number].ids), number))
    batches: list[list[int]] = []
    for number in order:
        width = len(rows[batches[-1][0]].ids) if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= batch_tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches
