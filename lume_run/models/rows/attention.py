"""Attention within rows that stand end to end: everything else in a layer runs on their real tokens alone.

Each row stands for itself again here, padded on the right to its group's longest, where causal attention needs no
mask. Families in which this was seen to give the padded path's numbers are listed; all others are padded throughout.
Shapes: N tokens in all, B' rows of at most S' tokens of a group, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lume_run.models.layers import unwrap
from lume_run.models.rows.packed import PACKED_TYPES, Packing

PACKED = "lume_run_packed"  # of the attention implementation, as transformers looks it up
LAYERS = {"full_attention", "sliding_attention"}


def packs(model: nn.Module) -> bool:
    """Whether a model takes packed rows: a family of the list, with torch's attention. It is made to look for it."""
    config: Any = unwrap(model).config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    known = config.model_type in PACKED_TYPES and kinds <= LAYERS
    if not known or text._attn_implementation not in ("sdpa", PACKED):
        return False
    text._attn_implementation = PACKED
    return True


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention (1, N, H, D) within each row of queries (1, H, N, D); torch's own where rows are not packed."""
    if packing is None:
        assert attention_mask is None or (attention_mask.ndim == 4 and attention_mask.shape[-1] == key.shape[2])
        common = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **common, **options
        )
        return attended
    outputs = []
    for queries, keys, values in zip(*(_apart(states, packing) for states in (query, key, value)), strict=True):
        mask = window_mask(queries, sliding_window)
        output = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))  # (B' S', H, D)
    return torch.cat(outputs).index_select(0, packing.slots)[None], None


def _apart(states: Tensor, packing: Packing) -> Iterator[Tensor]:
    """States (1, H, N, D) of packed tokens as those of each group's right-padded rows, (B', H, S', D)."""
    chosen = states[0].transpose(0, 1).index_select(0, packing.sources)
    parts = torch.split(chosen, [rows * longest for rows, longest in packing.groups])
    for (rows, longest), part in zip(packing.groups, parts, strict=True):
        yield part.view(rows, longest, *part.shape[1:]).transpose(1, 2)


def window_mask(queries: Tensor, window: int | None) -> Tensor | None:
    """Which tokens a token of queries (B', H, S', D) sees, (S', S'), where that is less than all before it."""
    length = queries.shape[2]
    if window is None or window >= length:
        return None
    place = torch.arange(length, device=queries.device)
    return (place[:, None] >= place) & (place[:, None] - place < window)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
