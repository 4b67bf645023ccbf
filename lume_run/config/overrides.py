"""A command line before Hydra runs it: where configs are looked for, and what is wrong with each override.

Hydra stops at the first bad override; here each is judged alone, so that all come in one message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lume_run.common.errors import Problem, ProblemsError
from lume_run.common.text_files import file_fault
from lume_run.config.suggest import key_paths, renamed_key_problem, suggest_key, suggest_nearest
from lume_run.config.yaml_files import YAML_BYTES

FAMILIES = "experiment"  # the group whose options stand in folders by family: experiment=semeval/npo
MERGEABLE = ("attack", "evaluator")  # groups that take several options: their attacks or suites stand side by side
HYDRA_GROUPS = ("hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/hydra_logging", "hydra/output")
COMPOSING = "raised while composing"  # in what Hydra says of a file that does not go with the others
FILE_REMEDY = "mend that file: keys that are there, groups of settings as mappings, lists as lists"
OVERRIDE_REMEDY = """write it as path=value; a value with special characters needs quotes inside quotes: 'path="~/x"'"""


def conf_dir() -> Path:
    """The configuration folder: inside the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def group_options(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """{group: {option: its one-line description}} from the first comment line of each YAML file.

    A folder inside a group is a group of its own, except in `experiment`, whose options stand in folders by family.
    """
    groups: dict[str, dict[str, str]] = {}
    for folder in folders:
        options = _own_options() if folder == conf_dir() else _folder_options(folder)
        for group, option, comment in options:
            groups.setdefault(group, {})[option] = comment
    return groups


@cache
def _own_options() -> tuple[tuple[str, str, str], ...]:
    return tuple(_folder_options(conf_dir()))


def _folder_options(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(group, option, description) of every YAML file that is an option."""
    for path in sorted(folder.rglob("*.yaml")):
        group, option = path.parent.relative_to(folder).as_posix(), path.stem
        if group == "." or group.startswith("hydra") or option.startswith("_"):  # _name: shared values only
            continue
        if group.startswith(f"{FAMILIES}/"):
            group, option = FAMILIES, f"{group.removeprefix(f'{FAMILIES}/')}/{option}"
        if file_fault(path, limit=YAML_BYTES):
            continue
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        lines = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
        comments = [line for line in lines if not line.startswith("@package")]
        yield group, option, next(iter(comments), "")


def shadow_problems(folders: Sequence[Path]) -> Iterator[Problem]:
    """Files of a user's own under the name of another file of ours, which Hydra would read in their place."""
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")) if folder != conf_dir() else ():
            ours = conf_dir() / path.relative_to(folder)
            in_group = path.parent != folder and ours.is_file() and not file_fault(path, limit=YAML_BYTES)
            if in_group and path.read_bytes() != ours.read_bytes():
                what = "has the name of a file of lume-run, which is read in its place"
                yield Problem(where=str(path), what=what, remedy="another name, such as my_" + path.name)


def choice_problems(overrides: Sequence[str], folders: Sequence[Path]) -> Iterator[Problem]:
    """Choices that Hydra takes and that are no options: files elsewhere, shared values, several for a group."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        odd = value.startswith(("[", "/", "~", "_")) or ".." in value or "/_" in value
        if "." in key or not odd or key not in (groups := group_options(folders)):
            continue
        several = value.startswith("[")
        names = value.strip("[] ")
        if several and key in MERGEABLE and names and ".." not in value:
            continue
        what = f"'{value}' is none of its options" if not several or not names else "takes one option, not a list"
        remedy = "" if several else suggest_nearest(value, groups[key])
        yield Problem(where=key, what=what, remedy=remedy or f"{key}=..., one of {', '.join(groups[key])}")


def override_problems(overrides: Sequence[str], folders: Sequence[Path]) -> tuple[list[Problem], list[str]]:
    """(problems, the overrides that compose): every bad override, judged alone and explained."""
    problems: list[Problem] = []
    good: list[str] = []
    for override in overrides:
        if _is_unknown_key(override, folders, good):
            problems.append(explain_override_error(override, "", folders, good))
            continue
        try:
            _, error = try_composing([*good, override], folders)
        except ProblemsError as refusal:  # of a file that it chooses
            problems += refusal.problems
            continue
        if error is None:
            good.append(override)
        else:
            problems.append(explain_override_error(override, error, folders, good))
    return problems, good


def _is_unknown_key(override: str, folders: Sequence[Path], beside: Sequence[str]) -> bool:
    """Whether a plain override names a key that the config of the others does not have; cheaper than to compose it."""
    key, equals, _ = override.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]\w*(\.\w+)*", key) or key.startswith("hydra"):
        return False
    chosen = tuple(other for other in beside if not other.startswith("hydra/"))
    return key not in key_paths(_plain_config(chosen, *folders, hydra=False)) and key not in group_options(folders)


def compose(overrides: Sequence[str], folders: Sequence[Path], *, whole: bool = False) -> Any:
    """The composed config (sweeps are not expanded); `whole`: with Hydra's own node."""
    import hydra

    extra = (
        [f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in folders[1:])}]"]
        if folders[1:]
        else []
    )
    with hydra.initialize_config_dir(str(folders[0]), version_base="1.3"):
        return hydra.compose("config", overrides=[*overrides, *extra], return_hydra_config=whole)


def explain_override_error(override: str, error: str, folders: Sequence[Path], beside: Sequence[str] = ()) -> Problem:
    """What is wrong with an override that Hydra refuses, and the nearest thing that would work; `beside`: good ones."""
    key, _, value = override.lstrip("+~").partition("=")
    if "=" not in override and not override.startswith("~"):
        return Problem(where=override, what="neither a flag nor an override", remedy=OVERRIDE_REMEDY)
    if error.startswith("Ambiguous value"):
        return Problem(where=key, what=f"several values: {value}", remedy="add -m to sweep over them, or write [a,b]")
    groups = group_options(folders)
    remedy = FILE_REMEDY if COMPOSING in error else OVERRIDE_REMEDY
    return (
        _option_problem(key, value, error, groups)
        or _key_problem(override, folders, [*groups], [other for other in beside if other != override])
        or Problem(where=override, what=_hydra_reason(error), remedy=remedy)
    )


def _hydra_reason(error: str) -> str:
    """What a message of Hydra says, without where it looked; of an error that it wraps the reason."""
    lines = [line.strip() for line in error.strip().split("\n") if line.strip()] or ["Hydra gives no reason"]
    wrapped = lines[0].endswith(":") or COMPOSING in lines[0]
    return " ".join(lines[: 2 if wrapped else 1])


def _option_problem(key: str, value: str, error: str, groups: Mapping[str, Mapping[str, str]]) -> Problem | None:
    """An option that its group does not have, or a group where it cannot be chosen."""
    if key in groups and value not in groups[key]:
        return Problem(where=key, what=f"there is no {key} '{value}'", remedy=suggest_nearest(value, groups[key]))
    if key.startswith(f"{FAMILIES}/"):
        remedy = f"{FAMILIES}={key.removeprefix(f'{FAMILIES}/')}/{value}"
        return Problem(where=key, what=f"a family of recipes, which are options of {FAMILIES}", remedy=remedy)
    if key.startswith("hydra/") and "Available options" in error:
        listed = error.partition("Available options")[2].partition("Config search path")[0].split("\n")[1:]
        options = [line.strip() for line in listed if line.strip()]
        return Problem(where=key, what=f"there is no {key} '{value}'", remedy=suggest_nearest(value, options))
    if key in groups and "No match in the defaults list" in error:
        parent, _, leaf = key.rpartition("/")
        remedy = f"drop it, or choose a {parent} that has one"
        return Problem(where=key, what=f"the chosen {parent} has no {leaf} part", remedy=remedy)
    return None


def _key_problem(
    override: str, folders: Sequence[Path], groups: Sequence[str], beside: Sequence[str]
) -> Problem | None:
    """A key that the config composed from the other overrides does not have."""
    key = override.lstrip("+~").partition("=")[0]
    hydra = key.startswith("hydra.")
    data = _plain_config(
        tuple(other for other in beside if hydra or not other.startswith("hydra/")), *folders, hydra=hydra
    )
    known = [*groups, *key_paths(data), *(HYDRA_GROUPS if key.startswith("hydra/") else ())]
    if key in known:
        return None
    if renamed := renamed_key_problem(key, override):
        return renamed
    if not key or "=" not in override:
        return None
    top_level = f"top level: {', '.join(map(str, data))}; lume-run --cfg job shows all"
    return Problem(where=key, what="unknown key", remedy=suggest_key(key, known) or top_level)


@cache
def _plain_config(overrides: tuple[str, ...], *folders: Path, hydra: bool) -> Any:
    """A composed config as plain data, composed once for all mistakes of a command."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose(overrides, folders, whole=hydra), resolve=False)


def sweep_choices(override: str) -> list[str]:
    """The single choices of a swept override; a range or glob is left to Hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return [override]
    if not parsed.is_sweep_override():
        return [override]
    if not parsed.is_choice_sweep() or isinstance(parsed.value(), Glob):
        return []
    key = override.partition("=")[0]
    return [f"{key}={choice}" for choice in parsed.sweep_string_iterator()]


def try_composing(overrides: Sequence[str], folders: Sequence[Path], *, whole: bool = False) -> tuple[Any, str | None]:
    """(the config, None), or (None, why Hydra does not accept them all together); DataError for an unreadable file."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return compose(overrides, folders, whole=whole), None
    except ProblemsError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: model=null
        return None, str(error)
    except (YAMLError, OSError) as error:  # a user's own file
        return None, " ".join(str(error).split())
    except RecursionError:
        return None, "it leads back to itself, in the defaults of a file, or is nested too deeply"
