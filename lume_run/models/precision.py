"""With how many bits a model is held and multiplied: TF32, attention kernels, quantised weights.

What a setting `auto` means on a device is decided here alone.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lume_run.common.devices import dtype_of, keep_freed_memory
from lume_run.common.errors import Problem
from lume_run.common.lazy import nn, torch
from lume_run.config.model_settings import ModelSettings
from lume_run.models.layers import unwrap

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 64  # weights that share a scale in bitsandbytes' 4-bit formats
FLASH = "flash_attention_2"
ATTENTION_FLAGS = {"sdpa": "_supports_sdpa", FLASH: "_supports_flash_attn"}  # as transformers' classes call them


def attention_of(settings: ModelSettings, config: Any, device: torch.device) -> str | None:
    """The attention implementation of a model of this transformers config; None: what the library takes for it.

    `auto` takes FlashAttention-2 for bfloat16 on a GPU where it is installed and the family has it.
    """
    if settings.attention != "auto":
        return settings.attention
    half = device.type == "cuda" and dtype_of(settings.dtype, device) is torch.bfloat16
    flash = half and importlib.util.find_spec("flash_attn") is not None and supports_attention(config, FLASH)
    return FLASH if flash else None


def supports_attention(config: Any, name: str) -> bool:
    """Whether the model class of this transformers config has an attention implementation; yes where unknown."""
    return bool(getattr(_class_of(config), ATTENTION_FLAGS[name], True)) if name in ATTENTION_FLAGS else True


def supports_checkpointing(config: Any) -> bool:
    """Whether the model class of this transformers config can compute its layers anew; yes where unknown."""
    return bool(getattr(_class_of(config), "supports_gradient_checkpointing", True))


def checkpointing_problem(models: str) -> Problem:
    """What to say where the library cannot compute a family's layers anew in the backward pass."""
    what = f"layers of {models} cannot be computed anew in the backward pass"
    remedy = "false, and a smaller trainer.unlearn.micro_batch_tokens where memory is short"
    return Problem(where="model.gradient_checkpointing", what=what, remedy=remedy)


def _class_of(config: Any) -> type | None:
    """The library's causal LM for this transformers config."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: type | None = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return kind


def quantization_config(bits: str, compute: torch.dtype) -> Any:
    """The bitsandbytes settings for transformers: LLM.int8() (arXiv:2208.07339), or QLoRA's doubly quantised
    4-bit NormalFloat (arXiv:2305.14314), multiplied in the compute dtype."""
    from transformers import BitsAndBytesConfig

    if bits == "8bit":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # a line for every multiplication
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def multiply_odd_widths(model: nn.Module) -> None:
    """Have bitsandbytes multiply 4-bit weights whose rows are no whole blocks the plain way.

    Its faster one for CPUs lays weights out in blocks, and fails for the others.
    """
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.in_features % BLOCK:
            module.support_avx512bf16_for_cpu = False


def prepare_device(settings: ModelSettings, device: torch.device, *, sharded: bool) -> None:
    """Allow TF32, or not, for float32 products on GPUs from now on: a process keeps the setting of its last run.

    On a CPU memory that tensors give back is kept, but where it is short: ZeRO-3 has each rank give back what it loads.
    """
    if device.type == "cpu" and not sharded:
        keep_freed_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")


def is_quantised(model: nn.Module) -> bool:
    """Whether a model, or the base of its adapters, has fewer bits than it was trained with."""
    return bool(getattr(unwrap(model), "is_quantized", False))


def float64_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all tensors together, summed in float64: torch's own of float32 on CPUs loses 4e-5 of a million."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
