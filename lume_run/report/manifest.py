"""The manifest of a run: its command, its seed, and the software and hardware that it ran on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from lume_run.common.devices import may_have_gpu

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


def git_commit(folder: Path) -> str | None:
    """The checkout's commit, with `+changes` when its tracked files differ; None outside a checkout."""
    try:
        options: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True, "check": True, "timeout": 5}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if dirty else str(commit)


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that change numbers."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Processor, threads and GPUs: by torch, unless to import it for this alone would take seconds to find no GPU."""
    threads, gpus = default_threads(), []
    if may_have_gpu():
        import torch

        threads = torch.get_num_threads()
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "system": platform.platform(), "threads": threads, "gpus": gpus}


def default_threads() -> int:
    """The threads that torch computes with: OMP_NUM_THREADS, else one a core."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    cores = psutil.cpu_count(logical=False) or 1
    return min(cores, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else cores


def earlier_hardware(folder: Path) -> dict[str, Any] | None:
    """The hardware that a finished run in `folder` ran on, None where there is none."""
    if not (folder / "report.json").exists():
        return None
    try:
        recorded = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["hardware"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return recorded if isinstance(recorded, dict) else None


def run_manifest(
    command: list[str], config_hash: str, seed: int, hardware_used: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What it takes to repeat a run, and to explain why the results differ; `hardware_used`: None asks this machine."""
    from lume_run import __version__

    return {
        "command": command,
        "config_hash": config_hash,
        "seed": seed,
        "lume_run": __version__,
        "git": git_commit(Path(__file__).parent),
        "versions": package_versions(),
        "hardware": hardware_used or hardware(),
        "python": sys.executable,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
