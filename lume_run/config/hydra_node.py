"""What a recipe may set of Hydra's own node: where runs go, how a sweep is made; nothing that runs code.

Hydra imports the classes of callbacks and logging, puts variables into the environment, and SLURM runs lines of shell:
such settings count only where the command that is typed now gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf

from lume_run.common.errors import Problem
from lume_run.config.overrides import compose

OF_A_RECIPE = ("run", "sweep", "sweeper", "launcher", "verbose", "job.name", "job.config")
OF_HYDRA = (
    "runtime",
    "overrides",
    "job.override_dirname",
    "job.config_name",
    "mode",
    "searchpath",
)  # it sets them itself
RUN_CODE = ("launcher.setup", "launcher.python", "launcher.srun_args", "launcher.additional_parameters")
CLASSES = (  # packages of launchers and sweepers
    "hydra_plugins.lume_run.",
    "hydra_plugins.hydra_joblib_launcher.",
    "hydra_plugins.hydra_submitit_launcher.",
    "hydra._internal.core_plugins.",
)


def hydra_node_problems(config: Any, overrides: Sequence[str], folders: Sequence[Path]) -> Iterator[Problem]:
    """What a composed config (with Hydra's node) holds there that neither lume-run nor the command line put there."""
    subdir = config.hydra.output_subdir
    if subdir is not None and Path(str(subdir)).name != str(subdir):
        what = f"{subdir} leads out of the run's folder"
        yield Problem(where="hydra.output_subdir", what=what, remedy="a plain name, such as .hydra")
    if not folders[1:]:
        return
    typed = [override for override in overrides if override.lstrip("+~").startswith("hydra")]
    keys = [override.lstrip("+~").partition("=")[0].removeprefix("hydra") for override in typed]
    set_by_key = [key.removeprefix(".") for key in keys if key.startswith(".")]
    set_by_choice = [key.removeprefix("/") for key in keys if key.startswith("/")]  # hydra/launcher=mine
    expected, chosen = (leaves(_compose_known(typed, where).hydra) for where in (folders[:1], folders))
    for path, value in _unexpected(config.hydra, expected):
        if _is_below(path, set_by_key):
            continue
        if _is_below(path, RUN_CODE) and path.partition(".")[0] in set_by_choice and chosen.get(path, ...) == value:
            continue
        yield _refusal(path, value)


def job_node_problems(config: Any, sweep: Any) -> Iterator[Problem]:
    """What the config of a job (with Hydra's node) holds there that the checked one of its sweep does not.

    Recipes that a glob chooses are composed for the first time with their jobs.
    """
    for path, value in _unexpected(config.hydra, leaves(sweep.hydra)):
        yield _refusal(path, value)


def _unexpected(node: Any, expected: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings of Hydra's node, other than expected, that neither Hydra nor a recipe may set."""
    settings: dict[str, Any] = leaves(node)
    for path, value in settings.items():
        if expected.get(path, ...) != value and not _is_below(path, OF_HYDRA) and not _is_allowed(path, value):
            yield path, value


def _refusal(path: str, value: object) -> Problem:
    what = "a recipe sets it, and it can run code: only a command that is typed can"
    remedy = f"take it out of the recipe or, if you trust it, add 'hydra.{path}={value}' to the command"
    return Problem(where=f"hydra.{path}", what=what, remedy=remedy)


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """The values of a config by dotted path, interpolations as they are written; empty groups and lists count."""
    data: Any = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    if not isinstance(data, Mapping) or not data:
        return {path: data}
    return {
        key: value
        for name, below in data.items()
        for key, value in leaves(below, f"{path}.{name}" if path else str(name)).items()
    }


def _compose_known(overrides: Sequence[str], folders: Sequence[Path]) -> Any:
    """The config of those overrides that lume-run's own configuration takes."""
    known: list[str] = []
    for override in overrides:
        try:
            compose([*known, override], folders, whole=True)
        except (HydraException, ValueError):  # an option of the user's own
            continue
        known.append(override)
    return compose(known, folders, whole=True)


def _is_below(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(prefix + ".") for prefix in prefixes)


def _is_allowed(path: str, value: Any) -> bool:
    """Whether a recipe may set it, and to that."""
    if path.rpartition(".")[2] == "_target_":
        return str(value).startswith(CLASSES)
    if _is_below(path, RUN_CODE):
        return not value
    return _is_below(path, OF_A_RECIPE)
