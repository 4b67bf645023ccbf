"""Registers our sweepers and our launcher for SLURM with Hydra.

Hydra takes plugins from the package `hydra_plugins` only, which it searches as files. Ours are classes of this package
that also have a name in that one, so that they are there wherever `lume_run` is, an editable checkout included.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

ROOT, NAME = "hydra_plugins", "lume_run"


def prefer_own_launchers() -> None:
    """Have our YAML of a launcher stand for that of the launcher's package."""
    Plugins.instance()  # fills the store
    ConfigStore.instance().repo.get("hydra", {}).get("launcher", {}).pop("joblib.yaml", None)  # or Hydra warns of two


def register() -> None:
    """Make our sweepers and our launcher known to this process; only sweeps need them."""
    from lume_run.sweeps.compare.sweeper import Compare
    from lume_run.sweeps.grid import Grid
    from lume_run.sweeps.search import Search
    from lume_run.sweeps.slurm_array import SlurmArray

    plugins = Plugins.instance()
    prefer_own_launchers()
    try:
        root = importlib.import_module(ROOT)
    except ImportError:  # no other plugin is installed
        root = sys.modules[ROOT] = ModuleType(ROOT)
    module = sys.modules[f"{ROOT}.{NAME}"] = ModuleType(f"{ROOT}.{NAME}", __doc__)
    setattr(root, NAME, module)
    for plugin in (Grid, Search, Compare, SlurmArray):
        plugin.__module__ = module.__name__
        setattr(module, plugin.__name__, plugin)
        plugins.register(plugin)
