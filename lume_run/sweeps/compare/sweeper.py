"""A comparison as a sweeper of Hydra: every method gets as many trials, then its best settings run on other seeds.

Trials of all methods are proposed side by side, so that a launcher has many jobs at a time. What was tuned and run is
kept as in a search: the same command goes on where it was, and says the same once all is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.files import content_hash
from lume_run.config.settings import Settings
from lume_run.methods.baselines import AS_IT_ANSWERS, InContext, NoOp, Retrain
from lume_run.methods.objective import Objective
from lume_run.sweeps.compare.contestants import (
    Budget,
    Contestant,
    Lineup,
    direction_problems,
    read_overrides,
    require_untuned,
    space_problems,
)
from lume_run.sweeps.compare.parts import choose_parts
from lume_run.sweeps.compare.tuning import Tuning
from lume_run.sweeps.compare.utility import mix_label, mixes_of, reported_runs, utility_words
from lume_run.sweeps.grid import run_all
from lume_run.sweeps.job import print_user_errors
from lume_run.sweeps.overrides import name_swept, parse_overrides
from lume_run.sweeps.runner import JobRunner
from lume_run.sweeps.search import Space, check_ends, check_space, check_stages, distributions, require_optuna
from lume_run.sweeps.settings import WHERE, CompareSettings, sweeper_settings

RATE = "trainer.unlearn.learning_rate"
BOUND = "method.stop_when.disruption"
UNTUNED = (NoOp, Retrain, InContext)  # methods without an optimisation of their own


class Compare(Sweeper):
    """Tune every method alike, run the best of each on fresh seeds, rank them."""

    def __init__(self, *, params: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.params, self.options = params or {}, options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.composed = hydra_context, config
        with print_user_errors():
            require_optuna("hydra/sweeper=compare")
            check_stages(config.stages, ("unlearn", "evaluate"))
            self.settings = sweeper_settings(CompareSettings, self.options)
            self.runner = JobRunner(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Compare the methods of these overrides."""
        with print_user_errors():
            overrides = parse_overrides(self.context, self.params, arguments)
            name_swept(overrides)
            lineup = self._lineup(overrides)
            console.print(f"[bold]comparison[/] {self._budget(lineup)}", soft_wrap=True)
            for words in (lineup.parts, *utility_words(self.settings)):
                console.print(f"  {escape(words)}", soft_wrap=True)
            if self.composed.dry_run:
                self._show(lineup)
                return
            folder = Path(self.settings.storage)
            folder.mkdir(parents=True, exist_ok=True)
            names = [self._name(lineup), *(self._study_name(contestant) for contestant in lineup.tuned)]
            try:
                with ExitStack() as locks:  # another comparison may share a method, and its study
                    for name in sorted(names):
                        locks.enter_context(FileLock(folder / f"{name}.lock", timeout=0.5))
                    self._compare(lineup)
            except Timeout:
                what = f"Another process makes this comparison in {folder}, or one of the same methods."
                raise RunError(f"{what}\n  -> wait for it, or hydra.sweeper.storage=FOLDER") from None

    def _name(self, lineup: Lineup) -> str:
        """`compare-HASH`, of what is compared: the name of the folder that the result goes into."""
        seeds = [list(self.settings.tuning_seeds), list(self.settings.seeds)]
        entries = [[entry.space.name, list(entry.further)] for entry in lineup.contestants]
        return f"compare-{content_hash([entries, seeds, self.settings.n_trials, *self.settings.protocol])[:8]}"

    def _study_name(self, contestant: Contestant) -> str:
        tuned_on = [*self.settings.tuning_seeds, *(["apart"] if contestant.apart else [])]
        return f"{contestant.space.name}-{content_hash(tuned_on)[:4]}"

    def _budget(self, lineup: Lineup) -> Budget:
        return Budget(
            methods=len(lineup.tuned),
            trials=self.settings.n_trials,
            tuning_seeds=len(self.settings.tuning_seeds),
            contestants=len(lineup.contestants),
            seeds=len(self.settings.seeds),
            halvings=self.settings.utility_steps if self.settings.utility else 0,
        )

    def _lineup(self, overrides: Sequence[Override]) -> Lineup:
        """Who takes part, and what is tuned of each; ConfigError with all that is wrong."""
        objective = self.composed.objective
        if not isinstance(objective, str):
            what, remedy = "methods are ranked by one score", "objective=NAME"
            raise ConfigError([Problem(where="objective", what=what, remedy=remedy)])
        given = read_overrides(overrides)
        if problems := list(direction_problems(objective, self.settings.direction)):
            raise ConfigError(problems)
        if unknown := {space.partition(": ")[0] for space in self.settings.spaces} - set(given.methods):
            what = f"{min(unknown)} is no method of the comparison, which is of {', '.join(given.methods)}"
            raise ConfigError([Problem(where=f"{WHERE}.spaces", what=what, remedy="drop it")])
        lineup = Lineup(objective=objective)
        for method in given.methods:
            settings = self._settings([*given.fixed, f"method={method}", *given.further], method)
            fixed = [*given.fixed, f"method={method}", *self._bounds(settings)]
            if fixed[-1].startswith(BOUND):
                settings = self._settings([*fixed, *given.further], method)
            if isinstance(settings.method, AS_IT_ANSWERS) and self.settings.utility is not None:
                what = f"{method} changes no weight, so that utility cannot be made equal by mixing weights"
                raise ConfigError([Problem(where=f"{WHERE}.utility", what=what, remedy=f"drop {method}, or utility")])
            if isinstance(settings.method, UNTUNED):
                require_untuned(method, self.settings.spaces_of(method))
                space: dict[str, Any] = {}
            else:
                space = self._space(settings, method, given.common)
            searched = Space(fixed=fixed, distributions=space, objectives=[objective])
            lineup.contestants.append(Contestant(method=method, space=searched, further=given.further))
        if (jobs := self._budget(lineup).jobs) > self.settings.max_jobs:
            what = f"{jobs:,} runs ({self._budget(lineup)})"
            remedy = f"fewer n_trials or seeds or, if you mean it, {WHERE}.max_jobs={jobs}"
            raise ConfigError([Problem(where=f"{WHERE}.max_jobs", what=what, remedy=remedy)])
        for contestant in lineup.tuned:
            check_space(self.settings.search, contestant.space)
            check_ends(self.runner, contestant.space, [f"seed={self.settings.tuning_seeds[0]}"])
        self._keep_apart(lineup)
        return lineup

    def _keep_apart(self, lineup: Lineup) -> None:
        """Have trials scored on documents that are not reported, where there are enough of them."""
        if not lineup.tuned:
            return
        seeds = (self.settings.tuning_seeds[0], self.settings.seeds[0])
        tuning, reported = (
            self._settings([*lineup.tuned[0].space.fixed], lineup.tuned[0].method, seed) for seed in seeds
        )
        parts = choose_parts(self.settings.tuning_documents, tuning, reported)
        lineup.parts = parts.words
        for contestant in lineup.contestants:
            contestant.apart = parts.apart

    def _settings(self, overrides: Sequence[str], method: str, seed: int | None = None) -> Settings:
        """The settings of a run that is reported; ConfigError for what it would be refused for."""
        job = self.runner.compose([*overrides, f"seed={self.settings.seeds[0] if seed is None else seed}"])
        if job.settings is None:
            reason = job.error.partition("\n")[2].strip() or job.error
            raise ConfigError([Problem(where=f"method={method}", what=reason, remedy="mend it, or drop the method")])
        return job.settings

    def _bounds(self, settings: Settings) -> list[str]:
        """What makes a loss stop at the disruption that all have; nothing of other methods, or where none is given."""
        if self.settings.disruption is None or not isinstance(settings.method, Objective):
            return []
        return [f"{BOUND}={self.settings.disruption!r}", f"{BOUND}_text={self.settings.disruption_text}"]

    def _space(self, settings: Settings, method: str, common: Sequence[Override]) -> dict[str, Any]:
        """What is searched of a method: what the command varies, else its rate, and what is for this method alone."""
        of_method = parse_overrides(self.context, {}, self.settings.spaces_of(method), where=f"{WHERE}.spaces")
        if problems := list(space_problems(method, of_method)):
            raise ConfigError(problems)
        rate, factor = settings.trainer.unlearn.learning_rate, self.settings.rate_factor
        interval = f"{RATE}=tag(log, interval({rate / factor!r}, {rate * factor!r}))"
        of_all = list(common) or parse_overrides(self.context, {}, [interval])
        return distributions([*of_all, *of_method])

    def _compare(self, lineup: Lineup) -> None:
        if not Tuning(runner=self.runner, settings=self.settings, study_name=self._study_name).tune(lineup):
            return
        best: dict[str, Mapping[str, Any]] = {}
        for contestant in lineup.contestants:
            if contestant.best is not None:
                best[contestant.method] = contestant.best
                continue
            console.print(f"[yellow]{escape(contestant.method)}: no trial ended well, so there is nothing to report[/]")
        reporting = [contestant for contestant in lineup.contestants if contestant.method in best]
        mixes = mixes_of(self.runner, self.settings, reporting, best)
        if self.runner.stopped:
            return
        seeds = self.settings.seeds
        jobs = {
            entry.method: [
                self.runner.compose(words) for words in reported_runs(entry, best[entry.method], seeds, mixes)
            ]
            for entry in reporting
        }
        run_all(self.runner, [job for of_method in jobs.values() for job in of_method], None)
        from lume_run.sweeps.compare.write import write_contest

        settings = {
            method: {**values, **({"mix": label} if (label := mix_label(mixes, method)) else {})}
            for method, values in best.items()
        }
        write_contest(
            Path(str(self.composed.hydra.sweep.dir)) / self._name(lineup),
            jobs,
            settings,
            objective=self.settings.ranked or lineup.objective,
            budget=str(self._budget(lineup)),
            protocol=[lineup.parts, *utility_words(self.settings)],
            beside=[name for name in (self.settings.utility, lineup.objective) if name],
            direction=self.settings.direction if self.settings.ranked is None else None,
        )

    def _show(self, lineup: Lineup) -> None:
        """The lineup of a dry run: a trial of each method, and all that is reported with its values."""
        from lume_run.sweeps.dry_run import show_sweep
        from lume_run.sweeps.study import example_value

        runs: list[list[str]] = []
        for contestant in lineup.contestants:
            values = {key: example_value(values) for key, values in contestant.space.distributions.items()}
            if values:
                runs += contestant.trial(values, self.settings.tuning_seeds)
            reported = contestant.reported(values, self.settings.seeds)
            runs += [[*overrides, *contestant.further] for overrides in reported]
        show_sweep([self.runner.compose(overrides) for overrides in runs])
