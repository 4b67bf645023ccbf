"""Whether a run is logged at all, and what is sent at its start: its config, and how W&B files it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lume_run.common.errors import Problem
from lume_run.common.files import content_hash
from lume_run.common.secrets import secret_in
from lume_run.common.text import shorten_value
from lume_run.config.settings import LoggerSettings, Settings
from lume_run.tracking.messages import START, read_object

SWEEP_VARIABLE = "LUME_RUN_SWEEP"  # environment variable: the name of the sweep that a job belongs to
SWEPT_VARIABLE = "LUME_RUN_SWEPT"  # and the config paths in which its jobs differ, joined by commas
LOGGER_TITLES = {"wandb": "W&B", "tensorboard": "TensorBoard"}
LONGEST_NAME, LONGEST_TAG = 128, 64  # characters, W&B's own limits
FORBIDDEN: dict[str, frozenset[str]] = {  # in names, by W&B's own checks
    "project": frozenset("/\\#?%:"),
    "entity": frozenset("/\\#?%: "),
    "group": frozenset(),
}
NAMED_BY = ("method", "task", "model", "seed")  # config paths that stand in every name
OLD_MODES = {"dryrun": "offline", "run": "online"}  # values of WANDB_MODE that W&B still takes
WANDB_MODES = ("auto", "online", "offline", "disabled", "shared")
WANDB_VARIABLES = {  # those of W&B that win over settings, as WANDB_MODE does
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
}


def wandb_mode(logger: LoggerSettings) -> str:
    """auto, online, offline or disabled: as the environment says, else as configured."""
    mode = os.environ.get("WANDB_MODE") or logger.mode
    return OLD_MODES.get(mode, mode)


def logger_problems(logger: LoggerSettings) -> Iterator[Problem]:
    """Names that W&B does not take, and variables of it that win over settings and cannot be meant."""
    if logger.name != "wandb":
        return
    for kind, forbidden in FORBIDDEN.items():
        variable = WANDB_VARIABLES[kind]
        name = os.environ.get(variable) or getattr(logger, kind)
        if name is not None and (len(name) > LONGEST_NAME or forbidden.intersection(name) or not name.isprintable()):
            where = variable if os.environ.get(variable) else f"logger.{kind}"
            marks = f", none of {''.join(sorted(forbidden))!r}" if forbidden else ""
            what = f"W&B takes no {kind} {shorten_value(name)!r}"
            yield Problem(where=where, what=what, remedy=f"at most {LONGEST_NAME} letters{marks}")
    if long := [tag for tag in logger.tags if not 0 < len(tag) <= LONGEST_TAG]:
        what = f"W&B takes no tag of {len(long[0])} letters"
        yield Problem(where="logger.tags", what=what, remedy=f"1 to {LONGEST_TAG} letters each")
    if (mode := wandb_mode(logger)) not in WANDB_MODES:
        yield Problem(
            where="WANDB_MODE", what=f"unknown mode '{mode}'", remedy=f"one of {', '.join(WANDB_MODES)}, or unset it"
        )
    address = os.environ.get("WANDB_BASE_URL", "")
    if address and not address.startswith(("https://", "http://")):
        what = f"{shorten_value(address)!r} is no address of a server"
        yield Problem(where="WANDB_BASE_URL", what=what, remedy="https://HOST, or unset it")
    if what := secret_in(address):
        remedy = "give the address alone; the key stands in WANDB_API_KEY"
        yield Problem(where="WANDB_BASE_URL", what=what, remedy=remedy)


def is_enabled(logger: LoggerSettings) -> bool:
    """Whether runs are logged anywhere but in their folders."""
    return logger.name != "none" and not (logger.name == "wandb" and wandb_mode(logger) == "disabled")


def start_message(
    settings: Settings,
    folder: Path,
    identity: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run is: its config, and how W&B is to file it. The same run always has the same id."""
    logger = settings.logger
    parts = [settings.method.name, settings.task.name, settings.model.name]
    tags = [*dict.fromkeys([*parts, settings.launch.name, *logger.tags])]
    agent_run = os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID")  # W&B's agent named the run
    config = {"launch": asdict(settings.launch), "output_dir": settings.output_dir, "manifest": dict(manifest)}
    init = {
        "id": agent_run or content_hash([manifest["config_hash"], str(folder.resolve())]),
        "project": logger.project,
        "entity": logger.entity,
        "name": _run_name([*parts, f"seed{settings.seed}"], identity, folder / logger.name),
        "group": logger.group or os.environ.get(SWEEP_VARIABLE),
        "tags": [tag[:LONGEST_TAG] for tag in tags],
        "config": {**identity, **config},
    }
    return {
        "logger": logger.name,
        "title": LOGGER_TITLES[logger.name],
        "mode": wandb_mode(logger),
        "patience": logger.patience,
        "init": {key: value for key, value in init.items() if not os.environ.get(WANDB_VARIABLES.get(key, ""))},
    }


def _run_name(parts: list[str], identity: Mapping[str, Any], home: Path) -> str:
    """What the run is, and in a sweep what its job differs in; a restart from the folder knows of no sweep."""
    swept = [key for key in os.environ.get(SWEPT_VARIABLE, "").split(",") if key and key not in NAMED_BY]
    further = [f"{key.rpartition('.')[2]}={_value_at(identity, key)}" for key in swept]
    earlier = read_object(home / START).get("init", {}).get("name")
    return earlier if earlier and SWEEP_VARIABLE not in os.environ else "-".join([*parts, *further])[:LONGEST_NAME]


def _value_at(data: Any, path: str) -> Any:
    """What stands at a dotted path; a group (its name is what was chosen) by its name."""
    for part in path.lstrip("+").replace("/", ".").split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data.get("name", "") if isinstance(data, Mapping) else data
