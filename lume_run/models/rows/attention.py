"""Attention within rows that stand end to end: everything else in a layer runs on their real tokens alone.

Each row stands for itself again here, padded on the right to its group's longest, where causal attention needs no
mask. Where rows share what they begin with, each segment of them does, with the keys and values of its context beside
its own. Families in which this was seen to give the padded path's numbers are listed; all others are padded throughout.
Shapes: N tokens in all, G segments of a group of at most S tokens behind at most C of context, H heads, D their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lume_run.models.layers import unwrap
from lume_run.models.rows.packed import PACKED_TYPES, Group, Packing

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
    queries = _apart(query, packing.sources, [group.queries for group in packing.groups])
    keys, values = (_apart(states, packing.keys, [group.keys for group in packing.groups]) for states in (key, value))
    contexts = torch.split(packing.contexts, [group.segments for group in packing.groups])
    outputs = []
    for group, context, *states in zip(packing.groups, contexts, queries, keys, values, strict=True):
        mask = segment_mask(group, context, sliding_window)
        output = scaled_dot_product_attention(
            states[0],
            states[1],
            states[2],
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))  # (G S, H, D)
    return torch.cat(outputs).index_select(0, packing.slots)[None], None


def _apart(states: Tensor, chosen: Tensor, shapes: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """States (1, H, N, D) of packed tokens as those of each group's segments, (G, H, places, D) by `shapes`."""
    parts = torch.split(states[0].transpose(0, 1).index_select(0, chosen), [rows * wide for rows, wide in shapes])
    for (rows, wide), part in zip(shapes, parts, strict=True):
        yield part.view(rows, wide, *part.shape[1:]).transpose(1, 2)


def segment_mask(group: Group, context: Tensor, window: int | None) -> Tensor | None:
    """Which keys a query of a group sees: (G, 1, S, S + C), or (S, S) where there is no context; `context` (G,) tokens.

    Its segment up to itself, and the context; of both what is less than `window` tokens before it. None where that is
    what causal attention sees.
    """
    length = group.longest
    if not group.context and (window is None or window >= length):
        return None
    place = torch.arange(length, device=context.device)
    before = place[:, None] - place  # how many tokens a key of the segment is before a query, (S, S)
    within = before >= 0 if window is None else (before >= 0) & (before < window)
    if not group.context:
        return within
    of_context = torch.arange(group.context, device=context.device)
    behind = (of_context < context[:, None])[:, None, None].expand(-1, 1, length, -1)
    if window is not None:
        behind = behind & ((context[:, None] + place)[:, None, :, None] - of_context < window)
    return torch.cat((within.expand(group.segments, 1, -1, -1), behind), dim=-1)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
