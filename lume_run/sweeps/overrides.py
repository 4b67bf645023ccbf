"""Overrides of a sweep: parsed, the keys that are swept, and those by which jobs differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.text import first_line
from lume_run.tracking.start import SWEPT_VARIABLE

NOT_DISTINGUISHING = ("hydra", "output_dir", "logger", "launch")  # keys by which jobs do not differ


def parse_overrides(
    context: HydraContext, params: Mapping[str, Any], arguments: Sequence[str], where: str = "hydra.sweeper.params"
) -> list[Override]:
    """The overrides in `hydra.sweeper.params` and on the command line; a ConfigError names `where`."""
    remedy = "write them as {KEY: 'VALUE,VALUE'}"
    if not isinstance(params, Mapping):
        what = f"expected a group of settings, got {params!r}"
        raise ConfigError([Problem(where="hydra.sweeper.params", what=what, remedy=remedy)])
    parser = OverridesParser.create(config_loader=context.config_loader)
    try:
        return parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments])
    except HydraException as error:  # those of the command line have been checked
        raise ConfigError([Problem(where=where, what=first_line(str(error)), remedy=remedy)]) from None


def name_swept(overrides: Sequence[Override]) -> None:
    """Have jobs named by what is swept: the command line alone would not show what `hydra.sweeper.params` sweeps."""
    swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    os.environ[SWEPT_VARIABLE] = ",".join(swept)


def distinguishing_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides by which jobs differ: without Hydra's own, and without those that say where things go."""
    return [override for override in overrides if not override.lstrip("+~").startswith(NOT_DISTINGUISHING)]
