"""torch and pandas, imported when something of them is first used.

The import of torch takes two seconds of processor time, which `--cfg`, a mistake, a plan and a finished run can do
without. A module on their way writes `from lume_run.common.lazy import torch` for `import torch`, and uses it in
functions alone: a decorator, a base class or a constant of torch would import it at once.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class LazyModule(ModuleType):
    """Stands for a module, and imports it when it is first asked for a name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what tools ask of every module, such as __file__
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import pandas
    import torch
    import torch.nn.functional as F
    from torch import nn
else:
    pandas, torch, nn, F = map(LazyModule, ("pandas", "torch", "torch.nn", "torch.nn.functional"))

__all__: tuple[str, ...] = ("F", "nn", "pandas", "torch")
