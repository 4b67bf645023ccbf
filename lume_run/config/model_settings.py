"""What the model group is configured by: which model, its adapters, its chat template, its shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from lume_run.common.errors import Problem
from lume_run.config.fields import setting
from lume_run.config.resolve import value_at


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters (peft). `model.lora=true` takes these defaults."""

    enabled: bool = setting(False, help="train adapters instead of all weights")
    rank: int = setting(8, low=1, help="rank of the update")
    alpha: float = setting(32.0, low=0, open_low=True, help="scale numerator: the update is scaled by alpha/rank")
    dropout: float = setting(0.0, low=0, high=0.99, help="dropout on the adapter's input")
    save: bool = setting(False, help="also save the unlearned adapter alone, beside the merged model")
    target_modules: str | list[str] = setting("all-linear", help="peft's target_modules: all-linear, or module names")


def rank_problems(lora: LoraSettings, width: int | None) -> list[Problem]:
    """A rank above the width of the model (None: unknown), and so above any rank of its weights."""
    if not lora.enabled or width is None or lora.rank <= width:
        return []
    what = f"{lora.rank} is more than the model's width, {width}, and so than any rank of its weights"
    return [Problem(where="model.lora.rank", what=what, remedy="8 to 64 are usual")]


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """The tokenizer's chat template. `model.chat=never` is short for `model.chat.use=never`."""

    use: Literal["auto", "never", "always"] = setting(
        "auto",
        help="auto: for a task's questions where the tokenizer has a template, never for LUME and benchmarks; "
        "always: for theirs too",
    )
    system: str | None = setting(None, help="system prompt; a chat of the task that brings one keeps its own")
    arguments: dict[str, bool | int | float | str] = setting(
        factory=dict, help="what the template asks for, such as {date_string: 10 Apr 2025, enable_thinking: false}"
    )

    def __post_init__(self) -> None:
        endless = [name for name, value in self.arguments.items() if isinstance(value, float) and not isfinite(value)]
        if endless:
            raise ValueError(f"the argument {endless[0]} is no finite number")


@dataclass(frozen=True, kw_only=True)
class ShapeSettings:
    """OLMo dimensions: what `tiny` is built with, and what the plan estimates memory from when no config is at hand."""

    hidden_size: int = setting(low=8, high=10**5, help="width of the residual stream")
    layers: int = setting(low=1, high=1000, help="decoder layers")
    heads: int = setting(low=1, high=10**4, help="attention heads")
    intermediate_size: int = setting(low=8, high=10**6, help="width of the SwiGLU layer")
    vocabulary: int = setting(low=260, high=10**7, help="tokens; for tiny the size of the tokenizer to train")
    tie_embeddings: bool = setting(False, help="share input embedding and vocabulary head")
    key_value_heads: int | None = setting(None, low=1, help="heads of keys and values; null: as many as of attention")
    head_dim: int | None = setting(None, low=2, high=10**5, help="width of a head; null: hidden_size / heads")

    def __post_init__(self) -> None:
        if (self.head_dim or 2) % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, and positions rotate its values in pairs")
        if self.heads % (self.key_value_heads or 1):
            raise ValueError(f"{self.key_value_heads} key_value_heads are not shared evenly by {self.heads} heads")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model is the base or the target."""

    name: str = setting(help="name in run folders and tables")
    path: str | None = setting(None, help="Hugging Face id or folder; null builds the model from `shape`")
    revision: str | None = setting(None, help="branch, tag or commit of the hub id in path; null: main")
    base: str | None = setting(None, help="id or folder of the model before it saw the documents, for `retrained`")
    tokenizer: str | None = setting(None, help="id or folder of the tokenizer, when not beside the model")
    is_target: bool = setting(False, help="the model already memorised the documents: skip `train`")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", help="auto: bfloat16 on GPUs that have it")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = setting(
        "auto", help="attention implementation; auto: flash_attention_2 for bfloat16 on GPUs where installed, else sdpa"
    )
    tf32: bool = setting(False, help="on GPUs, multiply float32 matrices with 10 bits of mantissa (TF32)")
    quantize: Literal["none", "8bit", "4bit"] = setting(
        "none",
        help="bits (bitsandbytes) of the frozen base while LoRA adapters are trained, which are merged unquantised, or "
        "of a model that is evaluated alone",
    )
    max_length: int | None = setting(None, low=8, help="longest row [tokens]; null: the model's own limit")
    gradient_checkpointing: Literal["auto"] | bool = setting(
        "auto", help="recompute activations in the backward pass; auto: where memory is short by the estimate"
    )
    trainable: list[str] | None = setting(
        None, help="unlearn these weights only, by shell patterns of their names such as '*.layers.1.mlp.*'; null: all"
    )
    trust_remote_code: bool = setting(False, help="run code that comes with the model (only if you trust it)")
    mmlu_gate: float | None = setting(
        None, low=0, high=1, help="lowest MMLU accuracy that passes; null: 75 % of the target's own"
    )
    chat: ChatSettings = setting(factory=ChatSettings, help="the tokenizer's chat template, see Chat")
    shape: ShapeSettings | None = setting(None, help="dimensions, see Shape")
    lora: LoraSettings = setting(factory=LoraSettings, help="adapters, see Lora; `true` for its defaults")


def lora_problems(model: ModelSettings | None) -> list[Problem]:
    """Adapter settings that nothing reads: a rank without adapters would look like a result of that rank.

    And a rank that the model which is built here cannot have; of a folder `model_folder_problems` tells.
    """
    if model is None:
        return []
    if model.lora.enabled:
        width = model.shape.hidden_size if model.shape is not None and model.path is None else None
        return rank_problems(model.lora, width)
    unread = [
        field.name for field in dataclasses.fields(LoraSettings) if getattr(model.lora, field.name) != field.default
    ]
    what, remedy = "has no effect while adapters are off", "add model.lora.enabled=true"
    return [Problem(where=f"model.lora.{name}", what=what, remedy=remedy) for name in unread]


def shape_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Dimensions that no model has: what attention heads share evenly, in pairs that rotate."""
    width, heads = (value_at(data, f"model.shape.{name}") for name in ("hidden_size", "heads"))
    derived = value_at(data, "model.shape.head_dim") is None
    if derived and isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % (2 * heads):
        what = f"{heads} heads cannot share a hidden_size of {width} in even parts"
        yield Problem(where="model.shape.heads", what=what, remedy=f"a hidden_size that {2 * heads} divides")
    if value_at(data, "model.trainable") == []:
        yield Problem(where="model.trainable", what="no weight would be trained", remedy="null trains all of them")
