"""A comparison as a sweeper of Hydra: every method gets as many trials, then its best settings run on other seeds.

Trials of all methods are proposed side by side, so that a launcher has many jobs at a time. What was tuned and run is
kept as in a search: the same command goes on where it was, and says the same once all is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
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
from lume_run.config.settings import Settings
from lume_run.methods.baselines import InContext, NoOp, Retrain
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
from lume_run.sweeps.grid import run_all
from lume_run.sweeps.job import print_user_errors
from lume_run.sweeps.overrides import name_swept, parse_overrides
from lume_run.sweeps.runner import Job, JobRunner
from lume_run.sweeps.search import Space, check_ends, check_space, check_stages, distributions, require_optuna
from lume_run.sweeps.settings import WHERE, CompareSettings, sweeper_settings
from lume_run.sweeps.study import load_study, next_count, propose, record_trial, take_up_killed

if TYPE_CHECKING:
    import optuna

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
        return f"compare-{content_hash([entries, seeds, self.settings.n_trials])[:8]}"

    def _study_name(self, contestant: Contestant) -> str:
        return f"{contestant.space.name}-{content_hash(list(self.settings.tuning_seeds))[:4]}"

    def _budget(self, lineup: Lineup) -> Budget:
        return Budget(
            methods=len(lineup.tuned),
            trials=self.settings.n_trials,
            tuning_seeds=len(self.settings.tuning_seeds),
            contestants=len(lineup.contestants),
            seeds=len(self.settings.seeds),
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
        return lineup

    def _settings(self, overrides: Sequence[str], method: str) -> Settings:
        """The settings of a run that is reported; ConfigError for what it would be refused for."""
        job = self.runner.compose([*overrides, f"seed={self.settings.seeds[0]}"])
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
        if not self._tune(lineup):
            return
        jobs: dict[str, list[Job]] = {}
        for contestant in lineup.contestants:
            best = contestant.best
            if best is None:
                console.print(
                    f"[yellow]{escape(contestant.method)}: no trial ended well, so there is nothing to report[/]"
                )
                continue
            reported = contestant.reported(best, self.settings.seeds)
            jobs[contestant.method] = [self.runner.compose(overrides) for overrides in reported]
        run_all(self.runner, [job for of_method in jobs.values() for job in of_method], None)
        from lume_run.sweeps.compare.write import write_contest

        folder = Path(str(self.composed.hydra.sweep.dir)) / self._name(lineup)
        settings = {entry.method: entry.best or {} for entry in lineup.contestants}
        budget, direction = str(self._budget(lineup)), self.settings.direction
        write_contest(folder, jobs, settings, objective=lineup.objective, budget=budget, direction=direction)

    def _tune(self, lineup: Lineup) -> bool:
        """As many trials of every method as it may have; whether all have ended."""
        folder = Path(self.settings.storage)
        for contestant in lineup.tuned:
            name = self._study_name(contestant)
            search = self.settings.search
            contestant.study = load_study(folder / f"{name}.journal", name, contestant.space.objectives, search)
            contestant.ended = take_up_killed(contestant.study)
        tried: list[Job] = []
        try:
            while rounds := list(self._round(lineup)):
                tried += [job for _, _, jobs in rounds for job in jobs]
                self.runner.run([job for _, _, jobs in rounds for job in jobs if not job.is_cached])
                if not self._record(rounds) or self.runner.stopped:  # asked to stop, or nothing can be started
                    return False
        finally:
            self.runner.summarise(tried, 0)
        return True

    def _record(self, rounds: Sequence[tuple[Contestant, optuna.Trial, list[Job]]]) -> bool:
        """Tell the studies how trials ended; whether some did."""
        before = sum(contestant.ended for contestant, _, _ in rounds)
        for contestant, trial, jobs in rounds:
            assert contestant.study is not None
            contestant.ended += record_trial(contestant.study, trial, jobs, contestant.space.objectives)
        return sum(contestant.ended for contestant, _, _ in rounds) > before

    def _round(self, lineup: Lineup) -> Iterator[tuple[Contestant, optuna.Trial, list[Job]]]:
        """The next trials of all methods that have some left."""
        for contestant in lineup.tuned:
            study = contestant.study
            assert study is not None
            for _ in range(next_count(self.settings.search, contestant.ended)):
                trial = propose(study, contestant.space.distributions, self.settings.search)
                runs = contestant.trial(trial.params, self.settings.tuning_seeds)
                yield contestant, trial, [self.runner.compose(overrides) for overrides in runs]

    def _show(self, lineup: Lineup) -> None:
        """The lineup of a dry run: a trial of each method, and all that is reported with its values."""
        from lume_run.sweeps.dry_run import show_sweep
        from lume_run.sweeps.study import example_value

        runs: list[list[str]] = []
        for contestant in lineup.contestants:
            values = {key: example_value(values) for key, values in contestant.space.distributions.items()}
            if values:
                runs += contestant.trial(values, self.settings.tuning_seeds)
            runs += contestant.reported(values, self.settings.seeds)
        show_sweep([self.runner.compose(overrides) for overrides in runs])
