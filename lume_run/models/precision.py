"""With how many bits a model is held and multiplied: TF32, attention kernels, quantised weights.

What a setting `auto` means on a device is decided here alone.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from torch import nn

from lume_run.common.devices import dtype_of
from lume_run.config.model_settings import ModelSettings
from lume_run.models.layers import unwrap


def attention_of(settings: ModelSettings, device: torch.device) -> str:
    """The attention implementation: `auto` takes FlashAttention-2 for bfloat16 on a GPU where it is installed."""
    if settings.attention != "auto":
        return settings.attention
    half = device.type == "cuda" and dtype_of(settings.dtype, device) is torch.bfloat16
    return "flash_attention_2" if half and importlib.util.find_spec("flash_attn") is not None else "sdpa"


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


def set_matmul_precision(settings: ModelSettings, device: torch.device) -> None:
    """Allow TF32, or not, for float32 products on GPUs from now on: a process keeps the setting of its last run."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")


def is_quantised(model: nn.Module) -> bool:
    """Whether a model, or the base of its adapters, has fewer bits than it was trained with."""
    return bool(getattr(unwrap(model), "is_quantized", False))
