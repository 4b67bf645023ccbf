"""Two models that answer as one, their logits joined at each token.

Shapes: L positions asked for, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from lume_run.models.layers import forward_accepts
from lume_run.models.rows.attention import packs


class JoinedModel(nn.Module):
    """A model whose logits (..., L, V) are lowered where a reinforced one, of the same shape, has higher ones.

    z = z_target - alpha ReLU(z_reinforced - z_target): what fine-tuning on the documents to forget makes likelier
    becomes less likely (Eldan and Russinovich, arXiv:2310.02238, equation 1; the WHP of MUSE, arXiv:2407.06460).
    """

    def __init__(self, target: nn.Module, reinforced: nn.Module, alpha: float) -> None:
        super().__init__()
        self.target: Any = target
        self.reinforced: Any = reinforced
        self.alpha = alpha
        self.config = self.target.config
        self.generation_config = getattr(target, "generation_config", None)
        packs(reinforced)  # both read rows as the first does
        optional = ("attention_mask", "position_ids", "logits_to_keep")
        self.accepted = [name for name in optional if forward_accepts(target, name)]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
        **inputs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of both models joined; one cache holds the layers of the first and behind them those of the second."""
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "logits_to_keep": logits_to_keep}
        inputs |= {name: given[name] for name in self.accepted}
        models = (self.target, self.reinforced)
        if past_key_values is None:
            target, reinforced = (model(input_ids=input_ids, use_cache=use_cache, **inputs).logits for model in models)
        else:
            halves = halves_of(past_key_values)
            target, reinforced = (
                model(input_ids=input_ids, use_cache=use_cache, past_key_values=half, **inputs).logits
                for model, half in zip(models, halves, strict=True)
            )
            past_key_values.layers = [*halves[0].layers, *halves[1].layers]
        joined = join_logits(target, reinforced.to(target.device), self.alpha)
        return CausalLMOutputWithPast(logits=joined, past_key_values=past_key_values)


def join_logits(target: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Logits (..., V) of the target, lowered by `alpha` times how far those of the reinforced model are above them."""
    return torch.sub(target, torch.relu(reinforced - target), alpha=alpha)


def halves_of(cache: Cache) -> tuple[Cache, Cache]:
    """The layers of the first model, and those of the second."""
    if not cache.layers:
        return Cache(layer_class_to_replicate=DynamicLayer), Cache(layer_class_to_replicate=DynamicLayer)
    half = len(cache.layers) // 2
    return Cache(layers=cache.layers[:half]), Cache(layers=cache.layers[half:])
