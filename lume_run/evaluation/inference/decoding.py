"""Token by token for many prompts at once: a row whose text has ended leaves, and a waiting one takes its place.

Rows share one cache of keys and values, allocated once: n live rows, their last tokens in the same column. A row that
joins is put with its last token there; when columns run out, those that no live row uses are given up.
Shapes: n live rows, H heads, W columns, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from lume_run.launch.preemption import stop_if_requested
from lume_run.models.forward import packed_inputs
from lume_run.models.layers import forward_accepts
from lume_run.models.rows.attention import packs
from lume_run.models.rows.batch import NO_TOTALS, Batch, collate
from lume_run.models.rows.packed import send
from lume_run.models.rows.tokenise import TokenRow

SPARE_COLUMNS = 128  # beyond what the longest row may need, so that columns are given up rarely
REFILL_SHARE = 4  # rows join when a quarter of the places is free: a forward for one row costs almost that of many

Choose = Callable[[Tensor, Sequence["Row"]], list[int]]  # logits (n, V) of these rows -> their next tokens


@dataclass(slots=True, kw_only=True)
class Row:
    """A prompt, how far it may be continued, and what came so far; `number` tells it from others."""

    number: int
    prompt: Sequence[int]
    limit: int
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Columns that it takes."""
        return len(self.prompt) + len(self.tokens)


@dataclass(slots=True)
class Window:
    """The columns that are filled; the same for all layers."""

    filled: int = 0


class KeyValueLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, (places, H, W, D), of which the first n places and `filled` columns are used."""

    is_sliding = False

    def __init__(self, places: int, columns: int, window: Window) -> None:
        super().__init__()
        self.places, self.columns, self.window = places, columns, window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate them, of the type and on the device of the first ones."""
        self.keys, self.values = (
            states.new_zeros(self.places, states.shape[1], self.columns, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write behind the filled columns; all columns up to there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, begin = len(key_states), self.window.filled
        end = begin + key_states.shape[2]
        self.keys[:rows, :, begin:end] = key_states
        self.values[:rows, :, begin:end] = value_states
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns that a query may look at, where they begin)."""
        return self.window.filled + query_length, 0

    def get_seq_length(self) -> int:
        """Filled columns."""
        return self.window.filled

    def get_max_length(self) -> int:
        """No maximum: columns are given up in time."""
        return -1

    def move(self, source: int, place: int) -> None:
        """The row of one place into another."""
        for states in (self.keys, self.values):
            states[place] = states[source]

    def shift(self, rows: int, columns: int) -> None:
        """Give up the first `columns`."""
        end = self.window.filled
        for states in (self.keys, self.values):
            states[:rows, :, : end - columns] = states[:rows, :, columns:end].clone()


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
        self.takes_positions = forward_accepts(model, "position_ids")
        self.keeps_last = {"logits_to_keep": 1} if forward_accepts(model, "logits_to_keep") else {}

    def run(self, waiting: deque[Row], choose: Choose, stops: frozenset[int]) -> Iterator[list[Row]]:
        """Rows as their texts end; those that wait must stand longest first."""
        while waiting or self.rows:
            stop_if_requested("answering questions")
            if (waiting and self.places - len(self.rows) >= -(-self.places // REFILL_SHARE)) or not self.rows:
                joining = [waiting.popleft() for _ in range(min(len(waiting), self.places - len(self.rows)))]
                self._append(self._prefill(joining), joining, choose)
            else:
                self._append(self._step(), self.rows, choose)
            if ended := self._leave(stops):
                yield ended

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

    def _prefill(self, joining: list[Row]) -> Tensor:
        """Run the prompts of rows that join, and put their keys and values beside those of the live rows."""
        rows = [
            TokenRow(example_id="", ids=tuple(row.prompt), answer_start=len(row.prompt), label_start=len(row.prompt))
            for row in joining
        ]
        host = collate(rows, pad_id=self.pad_id, totals=NO_TOTALS, shares=True)
        batch = host.to(self.device)
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        if (packing := batch.packing) is not None and packs(self.model):
            inputs = packed_inputs(batch, packing, keep=packing.ends)
            logits = self._forward(inputs.pop("input_ids"), cache, **inputs)[0]
            self._join(joining, host, cache, packed=True)
        else:
            told = self._of_padded(batch.attention_mask, batch.position_ids)
            logits = self._forward(batch.input_ids, cache, **told)[:, -1]
            self._join(joining, host, cache, packed=False)
        return logits

    def _join(self, joining: list[Row], host: Batch, cache: Cache, *, packed: bool) -> None:
        """Put keys and values of prompts into free places, their last tokens in the last column."""
        live, width = len(self.rows), host.attention_mask.shape[1]
        if not live:
            self.window.filled = width
        end = self.window.filled
        self.rows += joining
        self.mask[live : live + len(joining), :end] = 0
        self.mask[live : live + len(joining), end - width : end] = send(host.attention_mask, self.device)
        places = host.attention_mask.nonzero(as_tuple=True)  # of the host: the device is not waited for
        row, column = (send(place, self.device) for place in places)
        token = None
        if packed and host.packing is not None:
            token = send(host.packing.copies[places[0] * width + places[1]], self.device)
        if not self.cache.layers:
            self.cache.layers = [KeyValueLayer(self.places, self.columns, self.window) for _ in cache.layers]
        for layer, joined in zip(self.cache.layers, cache.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(joined.keys, joined.values)
            for ours, theirs in ((layer.keys, joined.keys), (layer.values, joined.values)):
                states = theirs.transpose(1, 2)  # (B, T, H, D), or (1, N, H, D) of packed tokens
                states = states[row, column] if token is None else states[0, token.to(states.device)]
                ours[live + row.to(ours.device), :, end - width + column.to(ours.device)] = states

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
            if row.tokens[-1] not in stops and len(row.tokens) < row.limit:
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
        live, end = len(self.rows), self.window.filled
        for layer in self.cache.layers:
            layer.shift(live, unused)
        self.mask[:live, :needed] = self.mask[:live, unused:end].clone()
        self.window.filled = needed
