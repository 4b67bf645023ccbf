"""The weights in the safetensors files of a folder: their names, and values with which no model was saved."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.common.lazy import nn, torch
from lume_run.models.files.faults import explain_loading

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FLOATS = ("torch.float32", "torch.bfloat16", "torch.float16", "torch.float64")
READ_BYTES = 2**30  # of a folder, before its model loads


def stored_names(folder: Path) -> dict[str, set[str]]:
    """By file, the names of the weights that the safetensors files of a folder hold."""
    from safetensors import safe_open

    with explain_loading(str(folder)):
        return {
            file.name: set(safe_open(file, "pt").keys())  # type: ignore[no-untyped-call]
            for file in sorted(folder.glob("*.safetensors"))
        }


def integer_fault(folder: Path, model: nn.Module) -> str:
    """Weights of a model that are stored as whole numbers, and would be taken for the weights themselves; else ""."""
    from safetensors import safe_open

    floating = {name for name, weight in model.named_parameters() if weight.is_floating_point()}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in sorted(floating.intersection(weights.keys())):
                if not (kind := weights.get_slice(name).get_dtype()).startswith(("F", "BF")):
                    return f"{name} is stored as {kind}, and config.json says of no quantisation"
    return ""


def value_fault(weights: Iterable[tuple[str, Tensor]], tables: Container[str] | None = None) -> str:
    """The first weight with values that are no finite numbers, or with zeros that no training leaves; else "".

    Zeros, unless `tables` is None: in a whole matrix of those names (embedding and head), or in half of all matrices.
    Weights of other types than floats are taken as they are, as are those that are elsewhere (on the meta device).
    """
    matrices, zeros = 0, []
    for name, weight in weights:
        if str(weight.dtype) not in FLOATS or weight.is_meta or not weight.numel():
            continue
        low, high = torch.stack(torch.aminmax(weight.detach())).tolist()
        if not (isfinite(low) and isfinite(high)):
            return f"{name} holds values that are no finite numbers"
        matrices += weight.ndim > 1
        zeros += [name] if weight.ndim > 1 and low == high == 0 else []
    if tables is None or not zeros:
        return ""
    if table := next((name for name in zeros if name in tables), ""):
        return f"{table} holds only zeros"
    half = 2 * len(zeros) >= matrices
    return f"{len(zeros)} of {matrices} matrices hold only zeros, first {zeros[0]}" if half else ""


def table_names(model: PreTrainedModel) -> set[str]:
    """Names of the weights of embedding and head."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = [getattr(module, "weight", None) for module in modules]
    return {name for name, weight in model.named_parameters() if any(weight is table for table in tables)}


def stored_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights in the safetensors files of a folder, by name, one after another; none of files of some size.

    The values of those are looked at as the model loads.
    """
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if sum(file.stat().st_size for file in files) > READ_BYTES:
        return
    for file in files:
        with safe_open(file, "pt") as weights:
            yield from ((name, weights.get_tensor(name)) for name in weights.keys())  # noqa: SIM118 - no dict
