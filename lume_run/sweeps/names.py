"""What a config's run is called and where it lives: the same config always has the same folder.

torch is not imported here, so that shell completion stays quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lume_run.common.errors import ConfigError, LumeError, Problem
from lume_run.common.places import as_given, place_fault
from lume_run.common.text import shorten_value


def run_name(data: dict[str, Any]) -> str:
    """`task-model-method-hash`: the same config always has the same folder, so the same command resumes its run."""
    from lume_run.common.files import content_hash
    from lume_run.config.resolve import run_identity

    def name(group: str) -> str:
        node = data.get(group)
        return str(node.get("name", group)) if isinstance(node, dict) else group

    stages = data.get("stages")
    alone = str(stages[0]) if isinstance(stages, list) and len(stages) == 1 else ""
    named = {"score": [], "evaluate": ["task", "model"], "train": ["task", "model"]}
    groups = named.get(alone, ["task", "model", "method"])
    return "-".join([*([alone] if alone else []), *map(name, groups), content_hash(run_identity(data))[:8]])


def run_folder(data: dict[str, Any]) -> Path:
    """Where this config's run lives unless `hydra.run.dir` or `hydra.sweep.dir` says otherwise."""
    return Path(str(data["output_dir"])) / run_name(data)


def hydra_folder(cfg: DictConfig, *, sweeping: bool) -> Path:
    """Where Hydra puts the run of a composed config that has Hydra's own node, as an absolute path.

    Raises ConfigError where that depends on the job's number: a resumed sweep could not find its runs.
    """
    node = cfg.hydra.sweep if sweeping else cfg.hydra.run
    try:
        return Path(str(node.dir), *([str(node.subdir)] if sweeping else [])).absolute()
    except OmegaConfBaseException as error:
        what = " ".join(str(error).split())
        remedy = "a name that a job has by its config: ${lume_run_name:} or ${hydra.job.override_dirname}"
        where = "hydra.sweep.subdir" if sweeping else "hydra.run.dir"
        raise ConfigError([Problem(where=where, what=what, remedy=remedy)]) from None


def place_problems(cfg: DictConfig, *, sweeping: bool) -> Iterator[Problem]:
    """Folders that a composed config (with Hydra's own node) would write to and cannot."""
    if problems := list(_folder_problems(cfg, sweeping=sweeping)):
        yield from problems
        return
    output = str(cfg.output_dir)
    folder = Path(str(cfg.hydra.sweep.dir)).absolute() if sweeping else hydra_folder(cfg, sweeping=False)
    store = as_given(output).absolute() / "store"
    elsewhere = "hydra.sweep.dir" if sweeping else "hydra.run.dir"
    setting = "output_dir" if folder.is_relative_to(store.parent) else elsewhere
    faults = {place_fault(store): "output_dir", place_fault(folder): setting}  # the same fault of both once
    if sweeping and isinstance(storage := cfg.hydra.sweeper.get("storage"), str):
        faults.setdefault(place_fault(Path(storage).absolute()), "hydra.sweeper.storage")
    for fault, where in faults.items():
        if fault:
            yield Problem(where=where, what=fault, remedy=f"{where}=FOLDER that can be written to")


def _folder_problems(cfg: DictConfig, *, sweeping: bool) -> Iterator[Problem]:
    """Hydra's own folders that are no text, or blank, and names of jobs that lead out of the folder of a sweep."""
    settings = ("sweep.dir", "sweep.subdir") if sweeping else ("run.dir",)
    for setting in settings:
        node, _, key = setting.partition(".")
        given = OmegaConf.to_container(cfg.hydra[node], resolve=False)[key]  # type: ignore[index, call-overload]
        where = f"hydra.{setting}"
        if not isinstance(given, str) or not given.strip():
            what = f"{shorten_value(str(given))!r} is no folder"
            yield Problem(where=where, what=what, remedy=f"{where}=FOLDER, or leave it out: output_dir=FOLDER")
        elif setting == "sweep.subdir" and (".." in Path(given).parts or given.startswith("/")):
            what = f"{shorten_value(given)!r} leads out of hydra.sweep.dir"
            yield Problem(where=where, what=what, remedy="a name within it, or hydra.sweep.dir=FOLDER")


def name_for_hydra(*, _root_: Any) -> str:
    """The resolver behind hydra.run.dir; a config that cannot be resolved is reported by the check, not here."""
    from lume_run.config.resolve import as_data

    try:
        return run_name(as_data(OmegaConf.masked_copy(_root_, [key for key in _root_ if key != "hydra"])))
    except LumeError:
        return "unresolved"
