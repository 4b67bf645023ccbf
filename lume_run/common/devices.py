"""Devices, number formats, memory and seeds of this process, and its rank among others."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.common.errors import RunError

if TYPE_CHECKING:
    import torch

OUT_OF_MEMORY_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "ALLOC_FAILED",
    "bad_alloc",
)
GIB = 2**30  # bytes
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}  # of a number
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's numbers of its allocator's options


class PeakMemory:
    """Peak memory [bytes] of a block of work: the device's allocations on a GPU, this process's resident set on a CPU.

    `peak` is None where a CPU's mark cannot be reset (anything but Linux): an older peak would be reported.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak: int | None = None

    def __enter__(self) -> PeakMemory:
        import torch

        self._reset = True
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: resets VmHWM
            except OSError:
                self._reset = False
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = self.so_far()

    def so_far(self) -> int | None:
        """The peak since the block began."""
        import torch

        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if not self._reset:
            return None
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n")
        kilobytes = [line.split()[1] for line in status if line.startswith("VmHWM:")]
        return int(kilobytes[0]) * 1024 if kilobytes else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or this machine has no memory left; torch has no one class for it."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES))


@cache
def keep_freed_memory() -> bool:
    """Have the allocator keep what tensors on a CPU give back; whether it does so from now on (glibc alone can).

    By default every large tensor is fetched from the system and returned to it, which fills each of its pages with
    zeros first: of a training step on a CPU 6 to 15 percent.
    """
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(set_option(option, value) for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rank() -> int:
    """The number of this process among those that share a stage, 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes share a stage."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def may_have_gpu() -> bool:
    """False where no driver of a GPU is installed; torch, which takes seconds to import, need not be asked there."""
    if "torch" in sys.modules or sys.platform not in ("linux", "darwin"):
        return True
    try:
        return sys.platform == "linux" and (Path("/dev/kfd").exists() or bool(ctypes.CDLL("libcuda.so.1")))
    except OSError:
        return False


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    if not may_have_gpu():
        return False
    import torch

    return torch.cuda.is_available()


def device_type_of(name: str) -> str:
    """`cpu` or `cuda`: the kind of device that a launch setting names. RunError where it is not here."""
    return "cpu" if name == "cpu" or (name == "auto" and not has_gpu()) else device_of(name).type


def device_of(name: str) -> torch.device:
    """The device a launch setting names; `auto` takes this process's GPU."""
    if name.startswith("cuda") and not has_gpu():  # told without torch where there cannot be one
        raise RunError(f"launch.device={name}, but torch sees no CUDA device; use launch.device=cpu")
    import torch

    if name == "auto":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if has_gpu() else torch.device("cpu")
    return torch.device(name)


def dtype_name_of(name: str, device_type: str) -> str:
    """float32 on CPU, bfloat16 on GPUs that have it, unless the config says otherwise."""
    if name != "auto":
        return name
    if device_type != "cuda":
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The number format that `dtype_name_of` names, as torch has it."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype_name_of(name, device.type)]
