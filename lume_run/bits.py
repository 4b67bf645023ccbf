"""What bitsandbytes can do where: quantised bases under adapters, optimizer states of 8 bits or in paged memory.

Its kernels run on GPUs and, slowly, on CPUs; paged memory is a GPU's alone, and ZeRO-3 cannot cut what is quantised.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from lume_run.common.devices import device_of
from lume_run.common.errors import LumeError

PLAIN = "adamw_torch_fused"
INSTALL = "pip install 'lume-run[quantize]'"


def bits_conflicts(parts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(where, what, remedy) of settings that take bitsandbytes and cannot have it; groups that are None are skipped."""
    model, trainer, launch = parts["model"], parts["trainer"], parts["launch"]
    installed = importlib.util.find_spec("bitsandbytes") is not None
    mode = launch.name if launch is not None else ""
    if model is not None and model.quantize != "none":
        if not model.lora.enabled:
            what = "only the frozen base under adapters can have fewer bits; weights that train cannot"
            yield "model.quantize", what, "add model.lora=true, or model.quantize=none"
        if not installed:
            yield "model.quantize", f"{model.quantize} needs bitsandbytes", f"{INSTALL}, or model.quantize=none"
        if mode.startswith("zero3"):
            yield "model.quantize", "ZeRO-3 cannot share out quantised weights", "launch=ddp or zero2"
    for name in ("train", "unlearn") if trainer is not None else ():
        where, optimizer = f"trainer.{name}.optimizer", getattr(trainer, name).optimizer
        if not optimizer.startswith("paged_") and "bnb" not in optimizer:
            continue
        if not installed:
            yield where, f"{optimizer} needs bitsandbytes", f"{INSTALL}, or {PLAIN}"
        elif optimizer.startswith("paged_") and launch is not None and not _has_gpu(launch.device):
            yield where, f"{optimizer} pages states between a GPU and the host, and there is no GPU", PLAIN
        if mode == "zero3_offload":
            yield (
                where,
                f"{optimizer} steps on a GPU, and launch=zero3_offload on the host",
                f"{PLAIN}, or launch=zero3",
            )


def _has_gpu(name: str) -> bool:
    try:
        return device_of(name).type == "cuda"
    except (LumeError, RuntimeError):  # an unusable launch.device is told of elsewhere
        return True
