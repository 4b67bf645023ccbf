"""One layer's keys and values of rows that are decoded together, allocated once and filled column by column.

Shapes: n rows in as many places, H heads, W columns, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


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
        """Give up the first `columns`; where negative, leave so many free before the others."""
        for states in (self.keys, self.values):
            shift_columns(states[:rows].transpose(1, 2), self.window.filled, columns)


def shift_columns(states: Tensor, filled: int, columns: int) -> None:
    """Move the first `filled` columns of (rows, W, ...) to the left by `columns`, those left of the first away."""
    kept = states[:, max(0, columns) : filled].clone()
    begin = max(0, -columns)
    states[:, begin : begin + kept.shape[1]] = kept
