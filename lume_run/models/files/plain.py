"""What is wrong with a model's folder that its files tell alone, without a library of models (seconds to import)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lume_run.common.text_files import file_fault
from lume_run.models.hub import ADAPTER_CONFIG

FILE_TYPES = (".json", ".safetensors", ".model", ".txt", ".bin", ".jinja")
LFS_POINTER = b"version https://git-lfs"
COPY_AGAIN = "copy or download the folder again; config.json and the weights must be of one model"


def plain_faults(folder: Path) -> Iterator[tuple[str, str]]:
    """(what is wrong, what to do), the first kind that is met: unreadable files, no config, two models in one."""
    for faults in (_pointer_faults, _json_faults, _mixture_faults):
        if seen := tuple(faults(folder)):
            yield from seen
            return


def _pointer_faults(folder: Path) -> Iterator[tuple[str, str]]:
    """Files that stand for others, and what is no file: to read a pipe would wait for ever."""
    for file in sorted(folder.glob("*")):
        if file.suffix in FILE_TYPES and (fault := file_fault(file)):
            yield f"{file} {fault}", "copy or download the folder again"
        elif file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(LFS_POINTER):
            yield f"{file} is a pointer of Git LFS, not the file itself", "git lfs pull in that folder"


def _json_faults(folder: Path) -> Iterator[tuple[str, str]]:
    """No config of a model nor of an adapter, or one that is no JSON object."""
    files = [file for file in (folder / "config.json", folder / ADAPTER_CONFIG) if file.exists()]
    if not files:
        yield f"{folder} is not a usable model folder: it holds no config.json", COPY_AGAIN
    for file in files:
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested too deeply
            yield f"{file} cannot be read: {error}", COPY_AGAIN
        else:
            if not isinstance(value, dict):
                yield f"{file} cannot be read: no JSON object but {type(value).__name__}", COPY_AGAIN


def _mixture_faults(folder: Path) -> Iterator[tuple[str, str]]:
    """A whole model with an adapter beside it: transformers would load the adapter over the model that it names."""
    if (folder / ADAPTER_CONFIG).is_file() and (folder / "config.json").exists():
        remedy = (
            f"move {ADAPTER_CONFIG} and its weights into a folder of their own, or remove them where they are merged"
        )
        yield f"{folder} holds both a whole model and an adapter ({ADAPTER_CONFIG})", remedy
