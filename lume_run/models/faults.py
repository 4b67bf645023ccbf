"""What is wrong with the files of a model, in words: what the libraries raise, and weights that do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lume_run.common.devices import is_out_of_memory
from lume_run.common.errors import LumeError, RunError

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
REASON_LETTERS = 300  # of what a library says


@contextmanager
def explain_loading(path: str, part: str = "model folder") -> Iterator[None]:
    """Turn what the libraries raise about the files of a model, whatever it is, into a RunError that names it."""
    try:
        yield
    except LumeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise unavailable_model_error(path, error, part) from error


def unavailable_model_error(path: str, error: Exception, part: str = "model folder") -> RunError:
    """The error for a model (or another part of its folder) that could not be loaded, with what to do about it."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    reason = " ".join(lines[:2])[:REASON_LETTERS]
    if len(reason.split()) < 2:  # a name alone, as of a key
        reason = f"{type(error).__name__} {reason}"
    if Path(path).exists():
        return RunError(
            f"The model '{path}' is not a usable {part}: {reason}\n"
            "  - copy or download it again: config.json, weights as safetensors and the tokenizer's files, all whole"
        )
    return RunError(
        f"The model '{path}' is neither a folder here nor reachable on the hub: {reason}\n"
        "  - a gated or private id: set HF_TOKEN and accept its licence on the model's page\n"
        "  - already downloaded elsewhere: point HF_HOME at that cache\n"
        "  - no internet here: copy the folder over and give model.path=FOLDER (and task.data_dir=FOLDER for the data)"
    )


def weight_fault(report: Mapping[str, Any]) -> str:
    """What the library reports of weights that do not fit the config, the first of each kind named; "" if all do."""
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted(report["mismatched_keys"], key=str)
    faults = []
    if missing:
        faults.append(f"{weights_are(missing)} missing and would be random, first {missing[0]}")
    if unexpected:
        faults.append(
            f"{weights_are(unexpected)} in the files and not in the model of the config, first {unexpected[0]}"
        )
    if mismatched:
        name, there, here = mismatched[0]
        faults.append(f"{weights_are(mismatched)} of another shape, first {name}: {tuple(there)}, not {tuple(here)}")
    return "; ".join(faults)


def value_fault(model: nn.Module) -> str:
    """The first weight that holds what is no number, or is infinite; "" where there is none.

    Weights of other types than floats are taken as they are, as are those that are elsewhere (on the meta device).
    """
    for name, weight in model.named_parameters():
        if weight.dtype in FLOATS and not weight.is_meta and not torch.isfinite(weight).all():
            return f"{name} holds values that are no finite numbers"
    return ""


def weights_are(names: Sequence[object]) -> str:
    """The beginning of a sentence about so many weights."""
    return "1 weight is" if len(names) == 1 else f"{len(names)} weights are"


def stored_names(folder: Path) -> dict[str, set[str]]:
    """By file, the names of the weights that the safetensors files of a folder hold."""
    from safetensors import safe_open

    with explain_loading(str(folder)):
        return {
            file.name: set(safe_open(file, "pt").keys())  # type: ignore[no-untyped-call]
            for file in sorted(folder.glob("*.safetensors"))
        }
