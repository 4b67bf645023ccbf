"""The CPU stands for a device: which tensors would be there, and each time that the host would wait for one of them.

Tensors of the device are the weights, what is sent there (`.to(device)`, `device=...`), and what is computed from them.
The host waits where it reads a value, copies tensors back, or needs a shape that depends on values (boolean indices,
`nonzero`, `unique`), and where it sends a tensor without `non_blocking`.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

VALUE_SHAPES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal"}
READS = {"_local_scalar_dense", "is_nonzero"}
BACK = {Tensor.tolist, Tensor.numpy, Tensor.cpu}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors among nested tuples, lists and dictionaries; torch's own walk takes ten times as long."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


class PretendDevice(TorchFunctionMode):
    """Counts in `waits`: (what it was, where in lume_run or a library)."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.waits: list[tuple[str, str]] = []
        self._storages: dict[int, Any] = {}  # held on to, so that no address is used again
        self._dispatch = _Dispatch(self)
        for weight in weights:
            self.place(weight)

    def place(self, value: Any) -> None:
        """These tensors are on the device."""
        for tensor in tensors_in(value):
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = storage

    def holds(self, value: Any) -> bool:
        """Whether a tensor among these is on the device."""
        return any(tensor.untyped_storage()._cdata in self._storages for tensor in tensors_in(value))

    def _on_host(self, tensor: Tensor) -> Tensor:
        """A copy that is not on the device."""
        copy = tensor.clone()
        self._storages.pop(copy.untyped_storage()._cdata, None)
        return copy

    def wait(self, what: str) -> None:
        """The host waits."""
        stack = [frame for frame in traceback.extract_stack() if "pretend_device" not in frame.filename]
        ours = [frame for frame in stack if "/lume_run/" in frame.filename] or stack
        frames = {f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in (ours[-1], stack[-1])}
        self.waits.append((what, " < ".join(sorted(frames))))

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in BACK and self.holds(args):
            self.wait(func.__name__)
            result = func(*args, **kwargs)
            return self._on_host(result) if isinstance(result, Tensor) else result
        result = func(*args, **kwargs)
        names_device = any(isinstance(value, (torch.device, str)) for value in (*args[1:], kwargs.get("device")))
        if not isinstance(result, Tensor) or not names_device or self.holds(result):
            return result
        if func is Tensor.to or func is torch.tensor:
            result = result.clone() if func is Tensor.to else result
            if result.numel() and not kwargs.get("non_blocking"):
                self.wait(f"{func.__name__} from the host")
        self.place(result)
        return result

    def __enter__(self) -> PretendDevice:
        super().__enter__()
        self._dispatch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._dispatch.__exit__(*error)
        super().__exit__(*error)


class _Dispatch(TorchDispatchMode):
    """Sees every operation, those within the backward pass too."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        touched = self.device.holds((args, kwargs))
        if touched and waits(name, args, kwargs):
            self.device.wait(name)
        if name == "copy_" and not self.device.holds(args[0]) and self.device.holds(args[1]):
            self.device.wait("copy_ to the host")
            touched = False
        result = func(*args, **kwargs)
        if touched and name not in READS:
            self.device.place(result)
        return result


def waits(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether an operation on tensors of a device waits for it."""
    if name in VALUE_SHAPES | READS:
        return True
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    boolean = any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return boolean and not (name != "index" and args[2].numel() == 1)  # a single value is filled in by the mask


@contextmanager
def pretend(*modules: torch.nn.Module) -> Iterator[PretendDevice]:
    """The device, with the weights of these models on it."""
    weights = [weight for module in modules for weight in (*module.parameters(), *module.buffers())]
    with PretendDevice(weights) as device:
        yield device
