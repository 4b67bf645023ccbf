"""Token by token for many prompts at once: a row whose text has ended leaves, and a waiting one takes its place.

Rows share one cache of keys and values, allocated once: n live rows, their last tokens in the same column. A row that
joins is put with its last token there, behind as much of its draft as is right (`drafts.py`); when columns run out,
those that no live row uses are given up.
Shapes: n live rows, H heads, W columns, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from lume_run.evaluation.inference.drafts import Draft, Drafts, Row, agreed_tokens, predictors
from lume_run.evaluation.inference.key_values import KeyValueLayer, Window, shift_columns
from lume_run.launch.preemption import stop_if_requested
from lume_run.models.forward import packed_inputs
from lume_run.models.layers import forward_accepts, unwrap
from lume_run.models.rows.attention import packs
from lume_run.models.rows.batch import NO_TOTALS, Batch, collate
from lume_run.models.rows.packed import ranges, send
from lume_run.models.rows.tokenise import TokenRow

SPARE_COLUMNS = 128  # beyond what the longest row may need, so that columns are given up rarely
LOGITS_AT_ONCE = 2**27  # numbers at most, of rows that join with drafts: half a gigabyte in float32
REFILL_SHARE = 4  # rows join when a quarter of the places is free: a forward for one row costs almost that of many

Choose = Callable[[Tensor, Sequence["Row"]], list[int]]  # logits (n, V) of these rows -> their next tokens


def token_row_of(row: Row) -> TokenRow:
    """A prompt with its draft as labels."""
    begin = len(row.prompt)
    return TokenRow(example_id="", ids=(*row.prompt, *row.draft.tokens), answer_start=begin, label_start=begin)


class Decoder:
    """Live rows of one model. Not for models that keep a state besides keys and values."""

    def __init__(self, model: nn.Module, *, places: int, columns: int, pad_id: int, device: torch.device) -> None:
        self.model: Any = model
        self.places, self.pad_id, self.device = places, pad_id, device
        self.columns = columns + SPARE_COLUMNS
        self.rows: list[Row] = []
        self.passes = 0
        self.window = Window()
        self.cache = Cache(layers=[])
        self.mask = torch.zeros(places, self.columns, dtype=torch.long, device=device)
        self.drafts = Drafts()
        self.vocabulary: int = unwrap(self.model).config.get_text_config().vocab_size
        self.packs = packs(model)
        self.takes_positions = forward_accepts(model, "position_ids")
        self.keeps_last = {"logits_to_keep": 1} if forward_accepts(model, "logits_to_keep") else {}

    def run(self, waiting: Sequence[Row], choose: Choose, stops: frozenset[int]) -> Iterator[list[Row]]:
        """Rows as their texts end; those that wait must stand longest first."""
        waiting = list(waiting)
        for row in () if self.packs else waiting:
            row.draft = Draft()
        while waiting or self.rows:
            stop_if_requested("answering questions")
            free = self.places - len(self.rows)
            if (waiting and free >= -(-self.places // REFILL_SHARE)) or not self.rows:
                joining = self._within_logits(self.drafts.next_rows(waiting, free))
                numbers = {row.number for row in joining}
                waiting = [row for row in waiting if row.number not in numbers]
                ended = self._take_in(joining, choose, stops)
            else:
                self._append(self._step(), self.rows, choose)
                ended = self._leave(stops)
            if ended:
                yield ended

    def _within_logits(self, rows: list[Row]) -> list[Row]:
        """The first of these rows, as many as have logits for their drafts in memory at once; one at least."""
        room = LOGITS_AT_ONCE // self.vocabulary
        needed = accumulate(len(row.draft.tokens) + 1 for row in rows)
        return rows[: max(1, sum(count <= room for count in needed))]

    def _append(self, logits: Tensor, rows: Sequence[Row], choose: Choose) -> None:
        for row, token in zip(rows, choose(logits, rows), strict=True):
            row.tokens.append(token)

    def _forward(self, ids: Tensor, cache: Cache, **inputs: Any) -> Tensor:
        """Logits (rows, positions, V) of the last position, or of those that `inputs` keep."""
        self.passes += 1
        inputs = {**self.keeps_last, **inputs, "use_cache": True, "past_key_values": cache}
        logits: Tensor = self.model(input_ids=ids, **inputs).logits
        return logits

    def _of_padded(self, mask: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """What a forward is told of rows that are padded."""
        return {"attention_mask": mask, **({"position_ids": positions} if self.takes_positions else {})}

    def _take_in(self, joining: Sequence[Row], choose: Choose, stops: frozenset[int]) -> list[Row]:
        """Run the prompts of rows that join, with their drafts where rows are packed; the rows that ended with them."""
        rows = [token_row_of(row) for row in joining]
        host = collate(rows, pad_id=self.pad_id, totals=NO_TOTALS, shares=True)
        batch = host.to(self.device)
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        if self.packs and host.packing is not None and batch.packing is not None:
            inputs = packed_inputs(batch, batch.packing, keep=send(predictors(host.packing, rows), self.device))
            logits = self._forward(inputs.pop("input_ids"), cache, **inputs)[0]
        else:
            told = self._of_padded(batch.attention_mask, batch.position_ids)
            logits = self._forward(batch.input_ids, cache, **told)[:, -1]
        chosen = choose(
            logits, [joined for joined, row in zip(joining, rows, strict=True) for _ in range(row.labels + 1)]
        )
        for row, tokens in zip(joining, agreed_tokens(rows, chosen, stops), strict=True):
            row.tokens += tokens
            self.drafts.note(row)
        staying = [number for number, row in enumerate(joining) if not row.is_over(stops)]
        if staying:
            self._join([joining[number] for number in staying], staying, host, cache)
        return [row for row in joining if row.is_over(stops)]

    def _join(self, joining: Sequence[Row], numbers: Sequence[int], host: Batch, cache: Cache) -> None:
        """Put keys and values of prompts and texts into free places, their last ones in the last column.

        `numbers` are those of the rows in the batch, which may hold more of them.
        """
        live, kept = len(self.rows), torch.tensor([row.length - 1 for row in joining])
        self._make_room(int(kept.max()))
        end, width = self.window.filled, host.attention_mask.shape[1]
        first = torch.tensor([width - len(host.rows[number].ids) for number in numbers])
        within = ranges(first, kept)  # of the batch, as it is padded
        row = torch.tensor(numbers).repeat_interleave(kept)
        packed = self.packs and host.packing is not None
        token = host.packing.copies[row * width + within] if packed and host.packing is not None else None
        places = (torch.arange(live, live + len(joining)).repeat_interleave(kept), ranges(end - kept, kept))
        self.rows += joining
        self.mask[live : live + len(joining), :end] = 0
        self.mask[tuple(send(place, self.device) for place in places)] = 1
        if not self.cache.layers:
            self.cache.layers = [KeyValueLayer(self.places, self.columns, self.window) for _ in cache.layers]
        for layer, joined in zip(self.cache.layers, cache.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(joined.keys, joined.values)
            for ours, theirs in ((layer.keys, joined.keys), (layer.values, joined.values)):
                states = theirs.transpose(1, 2)  # (B, T, H, D), or (1, N, H, D) of packed tokens
                source = (row, within) if token is None else (torch.zeros_like(token), token)
                place, column = (send(index, ours.device) for index in places)
                ours[place, :, column] = states[tuple(send(index, states.device) for index in source)]

    def _make_room(self, columns: int) -> None:
        """So many filled columns at least: live rows are moved to the right."""
        live, lacking = len(self.rows), columns - self.window.filled
        if not live:
            self.window.filled = columns
        elif lacking > 0:
            self._shift(live, -lacking)

    def _shift(self, live: int, columns: int) -> None:
        for layer in self.cache.layers:
            layer.shift(live, columns)
        shift_columns(self.mask[:live], self.window.filled, columns)
        self.mask[:live, : max(0, -columns)] = 0
        self.window.filled -= columns

    def _step(self) -> Tensor:
        """Run the last token of every live row."""
        self._give_up_columns()
        live, column = len(self.rows), self.window.filled
        numbers = torch.tensor([[row.tokens[-1] for row in self.rows], [row.length - 1 for row in self.rows]])
        ids, positions = send(numbers, self.device)[:, :, None]
        self.mask[:live, column] = 1
        told = self._of_padded(self.mask[:live, : column + 1], positions)
        logits = self._forward(ids, self.cache, **told)[:, -1]
        self.window.filled = column + 1
        return logits

    def _leave(self, stops: frozenset[int]) -> list[Row]:
        """Take out the rows whose text has ended; the last live ones move into their places."""
        ended = []
        for place in reversed(range(len(self.rows))):
            row = self.rows[place]
            if not row.is_over(stops):
                continue
            ended.append(row)
            last = self.rows.pop()
            if place < len(self.rows):
                self.rows[place] = last
                self.mask[place] = self.mask[len(self.rows)]
                for layer in self.cache.layers:
                    layer.move(len(self.rows), place)
        return ended

    def _give_up_columns(self) -> None:
        """Shift the live rows to the left where a good part of the columns is empty in all of them, or none is left."""
        needed = max(row.length - 1 for row in self.rows)  # the last token has no column yet
        unused = self.window.filled - needed
        if self.window.filled < self.columns and unused < max(SPARE_COLUMNS, needed):
            return
        self._shift(len(self.rows), unused)
