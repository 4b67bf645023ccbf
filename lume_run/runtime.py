"""What a running process needs around its work: seeds, progress, and a record of what it ran on."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import random
import subprocess
import sys
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from lume_run.errors import RunError

if TYPE_CHECKING:
    import torch

# Of processes that share a stage only the first one talks. Emoji: `file.jsonl:100: ...` would show one.
console = Console(stderr=True, highlight=False, emoji=False, quiet=os.environ.get("RANK", "0") != "0")
NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED", "bad_alloc")
GIB = 2**30  # bytes
SECONDS_BETWEEN_LINES = 20.0  # progress in a log file, where a bar cannot be redrawn
CHATTER = {  # what libraries say of a machine without a GPU as they come in, by logger; all else they log is shown
    "DeepSpeed": "Setting accelerator to CPU",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "hydra-core",
    "rouge-score",
    "numpy",
)


def _tells_else(text: str, record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(text)


for _logger, _text in CHATTER.items():  # their levels would be set anew as they come in
    logging.getLogger(_logger).addFilter(partial(_tells_else, _text))


class Progress:
    """A bar on a terminal, a line now and then in a log file; both with rate and time left."""

    def __init__(self, title: str, total: int, unit: str = "it") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.first = 0
        self.began = self.printed = time.monotonic()
        self.bar: RichProgress | None = None
        self.task: Any = None

    def start(self, done: int = 0) -> None:
        """Begin, or go on, at `done`."""
        self.done = self.first = done
        self.began = self.printed = time.monotonic()
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = RichProgress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, completed=done, note="")

    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.first) / max(1e-9, time.monotonic() - self.began)

    def advance(self, by: int = 1, *, to: int | None = None, note: str = "") -> None:
        """Count `by` more (or set the count), and show `note`."""
        self.done = self.done + by if to is None else to
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=f"{self.rate():.1f} {self.unit}/s  {note}")
        elif time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self._line(note)

    def stop(self) -> None:
        """Finish the bar."""
        if self.bar is not None:
            self.bar.stop()
        else:
            self._line("done" if self.done >= self.total else "stopped early")

    def _line(self, note: str) -> None:
        self.printed = time.monotonic()
        left = (self.total - self.done) / max(1e-9, self.rate())
        console.print(
            f"  {self.title}: {self.done}/{self.total} {self.unit}s, {self.rate():.1f}/s, "
            + (f"{left:.0f} s left  {note}" if note not in ("done", "stopped early") else note)
        )

    def __enter__(self) -> Progress:
        self.start(self.done)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or this machine has no memory left to give; torch has no one class for it."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY))


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


def device_of(name: str) -> torch.device:
    """The device a launch setting names; `auto` takes this process's GPU."""
    import torch

    if name == "auto":
        found = torch.cuda.is_available()
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if found else torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError(f"launch.device={name}, but torch sees no CUDA device; use launch.device=cpu")
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """float32 on CPU, bfloat16 on GPUs that have it, unless the config says otherwise."""
    import torch

    if name == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def vllm_trouble(device: str) -> str:
    """Why vLLM cannot be used on the device a launch setting names; empty where it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    try:
        from vllm.platforms import current_platform

        wanted, built = device_of(device).type, str(current_platform.device_type)
    except (RunError, ImportError, OSError, RuntimeError) as error:
        return f"vllm cannot be used: {str(error).split(chr(10))[0]}"
    finds = f"a {built} device" if built else "no device that it supports"
    return "" if built == wanted else f"the installed vllm finds {finds}, and this run takes a {wanted}"


def git_commit(folder: Path) -> str | None:
    """The checkout's commit, with `+changes` when its tracked files differ; None outside a checkout."""
    try:
        options: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True, "check": True, "timeout": 5}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if dirty else str(commit)


def versions() -> dict[str, str]:
    """Python and the packages that move numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, threads and GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def manifest(command: list[str], config_hash: str, seed: int) -> dict[str, Any]:
    """What is needed to run the same thing again, and to explain why it came out differently."""
    from lume_run import __version__

    return {
        "command": command,
        "config_hash": config_hash,
        "seed": seed,
        "lume_run": __version__,
        "git": git_commit(Path(__file__).parent),
        "versions": versions(),
        "hardware": hardware(),
        "python": sys.executable,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
