"""A command line as Hydra reads it: its flags, its overrides and the folders of configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NoReturn

from lume_run.common.errors import ConfigError, Problem
from lume_run.config.overrides import conf_dir

UNUSABLE = {  # flags of Hydra that make no sense for a command with its own configuration
    "config_path": ("--config-path", "lume-run has its own configuration", "--config-dir=FOLDER adds one of yours"),
    "config_name": ("--config-name", "lume-run has its own configuration", "experiment=NAME takes a recipe of yours"),
    "experimental_rerun": ("--experimental-rerun", "it would unpickle a file", "python -m lume_run RUN_FOLDER"),
}
EXCLUSIVE_FLAGS = (
    "run",
    "multirun",
    "cfg",
    "info",
    "shell_completion",
)  # by their names in Hydra's parser
SHORT_FORMS = {"model.lora": "enabled", "model.chat": "use"}  # group: its setting that one word stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """What was typed: `flags` with their values, `overrides`, and the folders that options are looked for in."""

    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    folders: tuple[Path, ...]  # ours, then the user's own
    sweeping: bool
    asks_hydra: bool  # shows a config or what Hydra knows, and runs nothing
    needs_plugins: bool  # may sweep, as a file of the user's own can ask for too, or shows the plugins

    @property
    def arguments(self) -> list[str]:
        """In the order in which Hydra takes them."""
        return [*self.flags, *self.overrides]


def read_command(arguments: Sequence[str]) -> CommandLine:
    """The parts of a command line; raises ConfigError for flags that are unknown, incomplete or of no use here."""
    given, unknown, problems = _parse(arguments)
    problems += [Problem(where=flag, what="no flag of lume-run", remedy="lume-run --help") for flag in unknown]
    for name, (flag, what, remedy) in UNUSABLE.items():
        if given is not None and getattr(given, name) not in (None, "config"):
            problems.append(Problem(where=f"{flag} {getattr(given, name)}", what=what, remedy=remedy))
    if given is not None and given.package and not given.cfg:
        problems.append(Problem(where="--package", what="it shows a part of --cfg", remedy="add --cfg job"))
    modes = [name for name in EXCLUSIVE_FLAGS if given is not None and getattr(given, name)]
    if len(modes) > 1:
        flags_given = " and ".join("--" + name.replace("_", "-") for name in modes)
        problems.append(Problem(where=flags_given, what="they exclude each other", remedy="give one of them"))
    folder = given.config_dir if given is not None else None
    if folder is not None and not Path(folder).is_dir():
        what, remedy = f"{folder or 'nothing'} is no folder", "name a folder with YAML files in folders of our groups"
        problems.append(Problem(where=f"--config-dir {folder}", what=what, remedy=remedy))
    if problems:
        raise ConfigError(problems)
    left = list(given.overrides)
    flags = tuple(argument for argument in arguments if not (left and left[0] == argument and left.pop(0)))
    overrides = tuple(spell_out(override, given.overrides) for override in given.overrides)
    sweeping = bool(given.multirun) or "hydra.mode=MULTIRUN" in given.overrides
    asks = any((given.cfg, given.info, given.hydra_help, given.shell_completion))
    return CommandLine(
        flags=flags,
        overrides=overrides,
        folders=(conf_dir(), *([Path(folder)] if folder is not None else [])),
        sweeping=sweeping,
        asks_hydra=asks,
        needs_plugins=sweeping or folder is not None or bool(given.info),
    )


def spell_out(override: str, others: Sequence[str]) -> str:
    """An override with the setting that a short form stands for, where others name settings of the same group.

    Hydra would put the one word in the place of the group, and not find them.
    """
    group, equals, value = override.partition("=")
    setting = SHORT_FORMS.get(group)
    is_word = bool(equals) and value.strip()[:1] not in ("{", "$", "")
    beside = any(other.startswith(f"{group}.") for other in others)
    return f"{group}.{setting}={value}" if setting and is_word and beside else override


def named_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders of a command line that need not be right, without Hydra: ours, then the user's own."""
    folders = [conf_dir()]
    for flag, value in pairwise([*chain.from_iterable(argument.split("=", 1) for argument in arguments), ""]):
        if flag in ("--config-dir", "-cd") and Path(value).is_dir():
            folders.append(Path(value))
    return folders


def _parse(arguments: Sequence[str]) -> tuple[Any, list[str], list[Problem]]:
    """(what Hydra's parser makes of them, flags that it does not know, problems); None where it makes nothing."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.allow_abbrev = False

    def refuse(message: str) -> NoReturn:
        flag, colon, what = message.removeprefix("argument ").partition(": ")
        where = flag.partition("/")[0] if colon else "command line"
        raise ConfigError([Problem(where=where, what=what or message, remedy="lume-run --hydra-help")])

    parser.error = refuse  # type: ignore[method-assign]
    dashes = [argument for argument in arguments if argument == "--"]
    try:
        given, unknown = parser.parse_known_intermixed_args([entry for entry in arguments if entry != "--"])
    except ConfigError as error:
        return None, dashes, list(error.problems)
    return given, [*dashes, *unknown], []
