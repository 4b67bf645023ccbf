"""How Hydra lists configuration files: options of `experiment` stand in folders by family, `_name` files are none.

Hydra composes `experiment=semeval/npo`, but its tab completion lists the files of one folder, and takes each folder for
a group of its own.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType

from lume_run.config.overrides import FAMILIES


class FamilySource(FileConfigSource):
    """A folder of YAML files that are listed as `group_options` lists them."""

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of options, or of groups, at a path."""
        if config_path != FAMILIES:
            return [name for name in super().list(config_path, results_filter) if not name.startswith("_")]
        if results_filter == ObjectType.GROUP:
            return []
        folder = Path(self.path, FAMILIES)
        files = [path for path in folder.rglob("*.yaml") if not path.name.startswith("_")]
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


def register_source() -> None:
    """Have Hydra list its folders with FamilySource.

    Only for tab completion: what a process registers goes with the jobs of joblib, whose processes register Hydra's.
    """
    SourcesRegistry.instance().types[FamilySource.scheme()] = FamilySource
