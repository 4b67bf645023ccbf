"""Searches with Optuna, as a sweeper of Hydra: Optuna proposes, a launcher runs, run folders say how good it was.

A search that was killed proposes the trials that were under way again first, and they resume in the folders they have;
a trial whose run is there already costs nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.files import content_hash
from lume_run.common.text import first_line, shorten_value
from lume_run.sweeps.job import print_user_errors
from lume_run.sweeps.overrides import distinguishing_overrides, name_swept, parse_overrides
from lume_run.sweeps.runner import Job, JobRunner
from lume_run.sweeps.settings import SearchSettings, sweeper_settings
from lume_run.sweeps.study import (
    directions,
    distribution,
    ends_of,
    example_value,
    load_study,
    next_count,
    propose,
    record_trial,
    show_best,
    take_up_killed,
    write_results,
)

if TYPE_CHECKING:
    import optuna

RESULTS = "optimization_results.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a search varies and what it aims at: fixed overrides, distributions by key, names of scores."""

    fixed: Sequence[str]
    distributions: Mapping[str, Any]
    objectives: Sequence[str]

    @property
    def name(self) -> str:
        """The name of the study unless `hydra.sweeper.study_name` gives another."""
        fixed = sorted(distinguishing_overrides(self.fixed))
        identity = [fixed, sorted(map(repr, self.distributions.items())), list(self.objectives)]
        return f"search-{content_hash(identity)[:8]}"

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in values.items())]


class Search(Sweeper):
    """Trials of Optuna, batch by batch."""

    def __init__(self, *, params: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.params, self.options = params or {}, options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.composed = hydra_context, config
        with print_user_errors():
            require_optuna("hydra/sweeper=optuna")
            check_stages(config.stages)
            self.settings = sweeper_settings(SearchSettings, self.options)
            self.runner = JobRunner(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Search, from where an earlier search with the same space and objective ended."""
        with print_user_errors():
            self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> None:
        overrides = parse_overrides(self.context, self.params, arguments)
        name_swept(overrides)
        objective = self.composed.objective
        space = Space(
            fixed=[str(override.input_line) for override in overrides if not override.is_sweep_override()],
            distributions=distributions(overrides),
            objectives=[objective] if isinstance(objective, str) else [str(name) for name in objective],
        )
        check_space(self.settings, space)
        check_ends(self.runner, space)
        folder, name = Path(self.settings.storage), self.settings.study_name or space.name
        if self.composed.dry_run:
            from lume_run.sweeps.dry_run import show_sweep

            example = {key: example_value(values) for key, values in space.distributions.items()}
            console.print(f"[bold]search[/] {escape(name)}: {self.settings.n_trials} trials such as this one")
            show_sweep([self.runner.compose(space.overrides(example))])
            return
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / f"{name}.lock", timeout=0.5):
                self._search(load_study(folder / f"{name}.journal", name, space.objectives, self.settings), space)
        except Timeout:
            raise RunError(f"Another process searches in {folder / name}; raise its n_jobs for more at once.") from None

    def _search(self, study: optuna.Study, space: Space) -> None:
        done = take_up_killed(study)
        jobs: list[Job] = []
        try:
            while not self.runner.stopped and (count := next_count(self.settings, done)):
                trials = [propose(study, space.distributions, self.settings) for _ in range(count)]
                batch = [self.runner.compose(space.overrides(trial.params)) for trial in trials]
                jobs += batch
                self.runner.run([job for job in batch if not job.is_cached])
                pairs = zip(trials, batch, strict=True)
                ended = sum(record_trial(study, trial, [job], space.objectives) for trial, job in pairs)
                if not ended:  # asked to stop, or nothing can be started
                    break
                done += ended
        finally:
            self.runner.summarise(jobs, 0)
            write_results(study, Path(str(self.composed.hydra.sweep.dir)) / RESULTS)
            show_best(study, space.objectives)


def require_optuna(where: str) -> None:
    """ConfigError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        what, remedy = "optuna is not installed", "pip install 'lume-run[optuna]'"
        raise ConfigError([Problem(where=where, what=what, remedy=remedy)])


def distributions(overrides: Sequence[Override]) -> dict[str, Any]:
    """What is searched, by key; raises ConfigError for what cannot be sampled from, such as a logarithm from 0."""
    space: dict[str, Any] = {}
    problems: list[Problem] = []
    for override in overrides:
        if override.is_sweep_override():
            key = override.get_key_element()
            try:
                space[key] = distribution(override)
            except ValueError as error:
                remedy = "interval(LOW,HIGH), and tag(log, ...) with LOW above 0"
                problems.append(Problem(where=key, what=first_line(str(error)), remedy=remedy))
    if problems:
        raise ConfigError(problems)
    return space


def check_stages(stages: Sequence[str], needed: Sequence[str] = ()) -> None:
    """ConfigError where runs end without a score."""
    lacking = [stage for stage in needed if stage not in stages]
    if lacking or not {"evaluate", "score"} & set(stages):
        what = (
            f"{', '.join(stages)} give no score to go by" if not lacking else f"there is no {' and no '.join(lacking)}"
        )
        raise ConfigError([Problem(where="stages", what=what, remedy="stages=[train,unlearn,evaluate]")])


def check_ends(runner: JobRunner, space: Space, further: Sequence[str] = ()) -> None:
    """ConfigError where a job with all first, or all last, values of what is searched would be refused."""
    for place in (0, -1):
        values = {key: ends_of(values)[place] for key, values in space.distributions.items()}
        job = runner.compose([*space.overrides(values), *further])
        if job.settings is None:
            tried = " ".join(f"{key}={value}" for key, value in values.items())
            reason = job.error.partition("\n")[2].strip() or job.error
            what = f"{shorten_value(tried)} is among what is tried, and refused: {reason}"
            where = ", ".join(space.distributions)
            raise ConfigError([Problem(where=where, what=what, remedy="values that are allowed")])


def check_space(settings: SearchSettings, space: Space) -> None:
    """Raise ConfigError with everything that is wrong with what is searched and aimed at."""
    problems = []
    if not space.distributions:
        remedy = "method=npo_gd,simnpo or 'trainer.unlearn.learning_rate=tag(log, interval(1e-5, 1e-3))'"
        problems.append(Problem(where="hydra.sweeper.params", what="nothing to search over", remedy=remedy))
    goals = directions(settings, space.objectives)
    if len(goals) != len(space.objectives):
        what, remedy = f"{len(goals)} directions for {len(space.objectives)} objectives", "one for each, or null"
        problems.append(Problem(where="hydra.sweeper.direction", what=what, remedy=remedy))
    for name, goal in zip(space.objectives, goals, strict=False):
        if goal not in ("minimize", "maximize"):
            what = f"{goal or 'it is not known whether'} {name} is to fall or to rise"
            remedy = "minimize or maximize, a list for several objectives"
            problems.append(Problem(where="hydra.sweeper.direction", what=what, remedy=remedy))
    if problems:
        raise ConfigError(problems)
