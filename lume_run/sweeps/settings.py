"""What sweepers are configured by, checked like all other settings: types, bounds, unknown keys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from lume_run.common.errors import ConfigError, Problem
from lume_run.config.build import Builder
from lume_run.config.fields import setting

WHERE = "hydra.sweeper"


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """Of a grid; what it varies (`params`) is Hydra's to read."""

    max_batch_size: int | None = setting(None, low=1, help="jobs handed to the launcher at once; null: all")
    max_jobs: int = setting(10_000, low=1, help="a larger grid is taken for a slip and refused")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Of a search with Optuna; what it varies (`params`) is Hydra's to read."""

    n_trials: int = setting(20, low=1, help="all together, those of earlier starts included")
    n_jobs: int = setting(1, low=1, help="trials handed to the launcher at once")
    sampler: Literal["tpe", "random", "nsgaii"] = setting("tpe", help="what proposes the next trial")
    seed: int | None = setting(0, low=0, help="of the sampler")
    direction: str | list[str] | None = setting(None, help="maximize or minimize, one for each objective; null: known")
    study_name: str | None = setting(None, help="null: named by what is searched")
    storage: str = setting("studies", help="folder of the journal that makes a search go on")


SweeperSettings = TypeVar("SweeperSettings", GridSettings, SearchSettings)


def sweeper_settings(cls: type[SweeperSettings], options: Mapping[str, Any]) -> SweeperSettings:
    """The settings of a sweeper; raises ConfigError with all that is wrong with them."""
    builder = Builder()
    settings = builder.build_record(cls, dict(options), WHERE)
    if builder.problems:
        raise ConfigError(builder.problems)
    return settings  # type: ignore[no-any-return]


def check_grid(overrides: Iterable[Override], settings: GridSettings) -> None:
    """Raise ConfigError for a grid without jobs, without end, or larger than anybody means."""
    swept = [override for override in overrides if override.is_sweep_override()]
    problems = list(_endless(swept))
    if not problems:
        sizes = {override.get_key_element(): _count(override) for override in swept}
        problems += [
            Problem(where=key, what="no value to sweep over", remedy="range(START,STOP) stops before STOP")
            for key, size in sizes.items()
            if not size
        ]
        if (total := math.prod(sizes.values())) > settings.max_jobs:
            what = f"{total:,} jobs ({' x '.join(f'{size:,} of {key}' for key, size in sizes.items())})"
            remedy = f"fewer values or, if you mean it, {WHERE}.max_jobs={total}"
            problems.append(Problem(where=f"{WHERE}.max_jobs", what=what, remedy=remedy))
    if problems:
        raise ConfigError(problems)


def _endless(swept: Iterable[Override]) -> Iterator[Problem]:
    for override in swept:
        if isinstance(override.value(), IntervalSweep):
            what, remedy = "an interval has values without end", "hydra/sweeper=optuna searches it; a grid needs a list"
            yield Problem(where=override.get_key_element(), what=what, remedy=remedy)


def _count(override: Override) -> int:
    """How many values an override takes in turn; a range is not written out for it."""
    value: Any = override.value()
    if isinstance(value, RangeSweep):
        return max(0, math.ceil((value.stop - value.start) / value.step))  # type: ignore[operator]
    return sum(1 for _ in override.sweep_string_iterator())


def check_launcher(node: DictConfig) -> None:
    """Raise ConfigError for a number of processes that joblib would only refuse later."""
    processes = node.get("n_jobs", 1)
    if not isinstance(processes, int) or isinstance(processes, bool) or not processes:
        what, remedy = f"expected a number of processes, got {processes!r}", "such as 2, or -1 for one on every core"
        raise ConfigError([Problem(where="hydra.launcher.n_jobs", what=what, remedy=remedy)])
