"""How Hydra lists, reads and composes configuration files: recipes stand in folders by family, `_name` is no option.

A file that is none, not UTF-8, too large or too deep is refused by name. Hydra composes `experiment=semeval/npo`, but
its tab completion, globs and messages list the files of one folder, and take each folder for a group of its own. And it
composes all files anew for each job of a sweep, of which most differ in settings alone.
"""

from __future__ import annotations

import copy
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, _utils, base
from omegaconf.grammar_parser import parse

from lume_run.common.errors import DataError, Problem
from lume_run.config.overrides import FAMILIES, conf_dir
from lume_run.config.yaml_files import REMEDY, read_config_file, read_shipped_file

T = TypeVar("T")
OPEN_NODES = ("chat.arguments", "model.chat.arguments", "columns.facts", "task.columns.facts")  # by a file's package
ORIGIN = "lume_run_origin"  # of a repository: what `_origin` returns, looked up once a config
SEARCH_PATH = "hydra.searchpath"
HEADER = 512  # characters in which Hydra looks for `# @package`
_origins: dict[tuple[Any, ...], int] = {}  # numbered as they are met
PACKAGE = re.compile(r"(_global_|_group_|_name_|\w[\w-]*)([.]\w[\w-]*)*")


def list_families() -> None:
    """Have Hydra list options of `experiment` by family, and no shared values.

    A method is replaced, not the class: joblib's processes get this one's registry, and refuse another class.
    """
    Plugins.instance()  # fills the registry
    source: Any = SourcesRegistry.instance().types["file"]
    list_folder = source.list
    if list_folder.__module__ == __name__:
        return

    def list_options(self: Any, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path != FAMILIES:
            return [name for name in list_folder(self, config_path, results_filter) if not name.startswith("_")]
        if results_filter == ObjectType.GROUP:
            return []
        folder = Path(self.path, FAMILIES)
        files = [path for path in folder.rglob("*.yaml") if not path.name.startswith("_")]
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)

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
    load_config = source.load_config
    if load_config.__module__ == __name__:
        return

    def load_checked(self: Any, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        is_shipped = self.path == str(conf_dir())
        if not (path.exists() or path.is_symlink()):
            return open_nodes(load_config(self, config_path))
        content, text = read_shipped_file(path) if is_shipped else read_config_file(path)
        if content is not None and not isinstance(content, dict):
            raise DataError([Problem(where=str(path), what="is no mapping", remedy=REMEDY)])
        header = self._get_header_dict(text[:HEADER])
        if not PACKAGE.fullmatch(package := header.get("package") or "_group_"):
            what = f"'# @package {package}' names no place among the settings"
            raise DataError([Problem(where=str(path), what=what, remedy="# @package _global_, for keys of all groups")])
        source = {"path": f"{self.scheme()}://{self.path}", "provider": self.provider, "header": header}
        return open_nodes(ConfigResult(config=OmegaConf.create(content or {}), **source))

    source.load_config = load_checked


def remember_choices() -> None:
    """Have Hydra compose each choice of our options once a process, as long as no file is edited.

    Settings of a command line are applied to a copy. With files of the user's own everything is composed anew.
    """
    Plugins.instance()  # fills the store
    loader: Any = config_loader_impl
    list_defaults: Callable[..., DefaultsList] = loader.create_defaults_list
    compose_all: Callable[..., DictConfig] = ConfigLoaderImpl._compose_config_from_defaults_list
    if compose_all.__module__ == __name__:
        return
    lists: dict[Any, DefaultsList] = {}
    configs = Copies()

    def list_once(
        repo: IConfigRepository, config_name: str | None, overrides_list: list[Override], **flags: bool
    ) -> DefaultsList:
        origin = _origin(repo)
        setattr(repo, ORIGIN, origin)
        if origin is None:
            return list_defaults(repo=repo, config_name=config_name, overrides_list=overrides_list, **flags)
        choices, settings = _by_effect(overrides_list, repo)
        key = (origin, config_name, *(override.input_line for override in choices), *flags.items())
        if key not in lists:
            lists[key] = list_defaults(repo=repo, config_name=config_name, overrides_list=choices, **flags)
        return replace(lists[key], config_overrides=settings)

    def compose_once(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        compose: Callable[[], DictConfig] = partial(compose_all, self, defaults=defaults, repo=repo)
        return configs.copy_of((getattr(repo, ORIGIN), *map(astuple, defaults)), compose)

    loader.create_defaults_list = list_once
    ConfigLoaderImpl._compose_config_from_defaults_list = compose_once  # type: ignore[method-assign]
    _remember_files()
    _share_sources()
    for module in (base, _utils):  # OmegaConf parses an interpolation whenever it merges or resolves a config
        module.parse = lru_cache(maxsize=4096)(parse)  # type: ignore[attr-defined]


class Copies:
    """What was made once for a key, as pickles: who changes a copy changes no other."""

    def __init__(self) -> None:
        self.pickles: dict[tuple[Any, ...], bytes] = {}

    def copy_of(self, key: tuple[Any, ...], build: Callable[[], T]) -> T:
        """What `build` returns, or a copy of what it returned; new where the origin, first in the key, is None."""
        if key[0] is None:
            return build()
        if key not in self.pickles:
            self.pickles[key] = pickle.dumps(build())
        result: T = pickle.loads(self.pickles[key])
        return result


def _remember_files() -> None:
    """Have Hydra read each file of a choice once a process, and put it in its place among the settings once."""
    load_file: Callable[..., ConfigResult | None] = CachingConfigRepository.load_config
    place_file: Callable[..., ConfigResult] = ConfigLoaderImpl._load_single_config
    map_choices: Callable[..., DictConfig] = defaults_list._create_interpolation_map
    files, places = Copies(), Copies()

    def load_once(self: CachingConfigRepository, config_path: str) -> ConfigResult | None:
        return files.copy_of((getattr(self, ORIGIN, None), config_path), partial(load_file, self, config_path))

    def place_once(self: ConfigLoaderImpl, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        key = (getattr(repo, ORIGIN), default.config_path, default.package, default.primary)
        return places.copy_of(key, partial(place_file, self, default, repo))

    def map_if_named(overrides: Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        named = any(default.is_interpolation() for default in defaults)
        return map_choices(overrides, defaults, self_added) if named else OmegaConf.create()

    CachingConfigRepository.load_config = load_once  # type: ignore[method-assign]
    ConfigLoaderImpl._load_single_config = place_once  # type: ignore[method-assign]
    defaults_list._create_interpolation_map = map_if_named  # type: ignore[assignment]


def _share_sources() -> None:
    """Have Hydra copy no source of files for each config, nor read the main file for folders that it does not name."""
    look_for_folders: Callable[..., None] = ConfigLoaderImpl._process_config_searchpath

    def share(self: CachingConfigRepository, delegate: ConfigRepository) -> None:
        self.delegate = copy.copy(delegate)  # other folders give it another list of sources
        self.cache = {}

    def look_if_named(
        self: ConfigLoaderImpl, config_name: str | None, parsed_overrides: list[Override], repo: CachingConfigRepository
    ) -> None:
        named = any(override.get_key_element() == SEARCH_PATH for override in parsed_overrides)
        if named or _names_folders(config_name, repo):
            look_for_folders(self, config_name, parsed_overrides, repo)

    CachingConfigRepository.__init__ = share  # type: ignore[method-assign, assignment]
    ConfigLoaderImpl._process_config_searchpath = look_if_named  # type: ignore[method-assign]


def _names_folders(config_name: str | None, repo: IConfigRepository) -> bool:
    """Whether a main file may name folders to look for options in; ours without such a list names none."""
    path = conf_dir() / f"{config_name}.yaml"
    is_shipped = any(source.path == str(conf_dir()) for source in repo.get_sources()) and path.is_file()
    node = (read_shipped_file(path)[0] or {}).get("hydra") if is_shipped else None
    return not isinstance(node, dict) or "searchpath" in node


def _by_effect(overrides: Sequence[Override], repo: IConfigRepository) -> tuple[list[Override], list[Override]]:
    """(overrides that choose options, those that set values): as Hydra tells them apart; it leaves sweeps out."""
    single = [override for override in overrides if not override.is_sweep_override()]
    chosen = [
        repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict) for override in single
    ]
    pairs = list(zip(single, chosen, strict=True))
    return [override for override, chooses in pairs if chooses], [
        override for override, chooses in pairs if not chooses
    ]


def _origin(repo: IConfigRepository) -> int | None:
    """A number of what configs are composed from, our files and what plugins registered; None with other files."""
    sources, folder = repo.get_sources(), str(conf_dir())
    if any(source.scheme() == "file" and source.path != folder for source in sources):
        return None
    files = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)  # noqa: PTH118
    versions = tuple((path, os.stat(path).st_mtime_ns) for path in files)  # noqa: PTH116  a third of Path's time
    read: Any = SourcesRegistry.instance().types["file"]
    places = tuple((source.provider, source.path) for source in sources)
    origin = (places, versions, id(read.load_config), tuple(_registered(ConfigStore.instance().repo)))
    return _origins.setdefault(origin, len(_origins))


def _registered(node: Mapping[str, Any]) -> Iterator[int]:
    """Which configs are in Hydra's store."""
    for below in node.values():
        if isinstance(below, Mapping):
            yield from _registered(below)
        else:
            yield id(below)
