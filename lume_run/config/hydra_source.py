"""How Hydra lists configuration files: options of `experiment` stand in folders by family, `_name` files are none.

Hydra composes `experiment=semeval/npo`, but its tab completion, globs and messages list the files of one folder, and
take each folder for a group of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins

from lume_run.config.overrides import FAMILIES


def list_families() -> None:
    """Have Hydra list options of `experiment` by family, and no shared values.

    A method is replaced, not the class: joblib's processes get this one's registry, and refuse another class.
    """
    Plugins.instance()  # fills the registry
    source: Any = SourcesRegistry.instance().types["file"]
    list_folder = getattr(source.list, "replaces", source.list)

    def list_options(self: Any, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path != FAMILIES:
            return [name for name in list_folder(self, config_path, results_filter) if not name.startswith("_")]
        if results_filter == ObjectType.GROUP:
            return []
        folder = Path(self.path, FAMILIES)
        files = [path for path in folder.rglob("*.yaml") if not path.name.startswith("_")]
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)

    list_options.replaces = list_folder  # type: ignore[attr-defined]
    source.list = list_options
