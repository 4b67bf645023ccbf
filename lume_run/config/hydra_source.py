"""How Hydra lists and reads configuration files: recipes stand in folders by family, `_name` files are no options.

A file that is none, not UTF-8, too large or too deep is refused by name. Hydra composes `experiment=semeval/npo`, but
its tab completion, globs and messages list the files of one folder, and take each folder for a group of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from lume_run.common.errors import DataError, Problem
from lume_run.config.overrides import FAMILIES, conf_dir
from lume_run.config.yaml_files import REMEDY, read_config_file, read_shipped_file

OPEN_NODES = ("chat.arguments", "model.chat.arguments", "columns.facts", "task.columns.facts")  # by a file's package
HEADER = 512  # characters in which Hydra looks for `# @package`


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


def open_nodes(loaded: ConfigResult) -> ConfigResult:
    """Let a command line write any key into the groups whose keys are the user's; the others keep to what they have."""
    for key in OPEN_NODES:
        node = OmegaConf.select(loaded.config, key, throw_on_missing=False)
        if isinstance(node, DictConfig):
            OmegaConf.set_struct(node, False)
    return loaded


def check_files() -> None:
    """Have Hydra read configuration files only after a look at what they are; raises DataError."""
    Plugins.instance()
    source: Any = SourcesRegistry.instance().types["file"]
    load_config = getattr(source.load_config, "replaces", source.load_config)

    def load_checked(self: Any, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        is_shipped = self.path == str(conf_dir())
        if not (path.exists() or path.is_symlink()):
            return open_nodes(load_config(self, config_path))
        content, text = read_shipped_file(path) if is_shipped else read_config_file(path)
        if content is not None and not isinstance(content, dict):
            raise DataError([Problem(where=str(path), what="is no mapping", remedy=REMEDY)])
        return open_nodes(
            ConfigResult(
                config=OmegaConf.create(content or {}),
                path=f"{self.scheme()}://{self.path}",
                provider=self.provider,
                header=self._get_header_dict(text[:HEADER]),
            )
        )

    load_checked.replaces = load_config  # type: ignore[attr-defined]
    source.load_config = load_checked
