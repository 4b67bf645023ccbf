"""Searches with Optuna, as a sweeper of Hydra: Optuna proposes, a launcher runs, run folders say how good it was.

The study is a journal file beside the runs. Of a search that was killed the trials under way are proposed again first,
and go on in the folders they have; a trial whose run is there already costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Table

from lume_run.common.console import console
from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.files import content_hash
from lume_run.evaluation.definitions import Wanted
from lume_run.report.results import direction_of
from lume_run.sweeps.job import distinguishing_overrides, print_user_errors, set_swept_keys
from lume_run.sweeps.runner import Job, JobRunner

if TYPE_CHECKING:
    import optuna

RESULTS = "optimization_results.yaml"
ENDED = "ended"  # user attribute of a trial: the state of its run
GOALS = {Wanted.LOWER: "minimize", Wanted.HIGHER: "maximize"}
SAMPLERS = ("tpe", "random", "nsgaii")
BEST_SHOWN = 5  # trials in the closing table


class Search(Sweeper):
    """Trials of Optuna, batch by batch."""

    def __init__(self, *, params: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.params, self.options = dict(params or {}), options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.composed = hydra_context, config
        with print_user_errors():
            self.runner = JobRunner(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Search, from where an earlier search with the same space and objective ended."""
        with print_user_errors():
            self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> None:
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        overrides = parser.parse_overrides(given)
        set_swept_keys(overrides)
        fixed = [str(own.input_line) for own in overrides if not own.is_sweep_override()]
        space = {own.get_key_element(): distribution(own) for own in overrides if own.is_sweep_override()}
        chosen = OmegaConf.to_container(OmegaConf.create({"own": self.composed.objective}))
        named: Any = chosen["own"] if isinstance(chosen, dict) else None
        names = [named] if isinstance(named, str) else [str(name) for name in named]
        check_options(self.options, space, names)
        folder = Path(str(self.options["storage"]))
        identity = [
            sorted(own for own in fixed if own in distinguishing_overrides([own])),
            sorted(map(repr, space.items())),
            names,
        ]
        name = self.options["study_name"] or f"search-{content_hash(identity)[:8]}"
        if self.composed.dry_run:
            from lume_run.sweeps.dry_run import show_sweep

            first = [f"{key}={example_value(one)}" for key, one in space.items()]
            console.print(f"[bold]search[/] {escape(name)}: {self.options['n_trials']} trials such as this one")
            show_sweep([self.runner.compose([*fixed, *first])])
            return
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / f"{name}.lock", timeout=0.5):
                self._search(study_of(folder / f"{name}.journal", name, names, self.options), fixed, space, names)
        except Timeout:
            raise RunError(f"Another process searches in {folder / name}; raise its n_jobs for more at once.") from None

    def _search(self, study: optuna.Study, fixed: list[str], space: Mapping[str, Any], names: list[str]) -> None:
        import optuna

        running = optuna.trial.TrialState.RUNNING
        for left in study.get_trials(deepcopy=False, states=(running,)):  # by a search that was killed
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(left.params)
        done = sum(ENDED in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        all_jobs: list[Job] = []
        try:
            while done < int(self.options["n_trials"]) and not self.runner.told_to_stop:
                count = min(int(self.options["n_jobs"]), int(self.options["n_trials"]) - done)
                trials = [study.ask(dict(space)) for _ in range(count)]
                drawn = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
                batch = [self.runner.compose(own) for own in drawn]
                all_jobs += batch
                self.runner.run([job for job in batch if not job.cached])
                done += sum(record_trial(study, trial, job, names) for trial, job in zip(trials, batch, strict=True))
        finally:
            self.runner.summarise(all_jobs, 0)
            write_results(study, Path(str(self.composed.hydra.sweep.dir)) / RESULTS)
            show_best(study, names)


def check_options(options: Mapping[str, Any], space: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ConfigError with everything that is wrong with a search."""
    import importlib.util

    found = []
    if importlib.util.find_spec("optuna") is None:
        found.append(("hydra/sweeper=optuna", "optuna is not installed", "pip install 'lume-run[optuna]'"))
    if not space:
        remedy = "method=npo_gd,simnpo or 'trainer.unlearn.learning_rate=tag(log, interval(1e-5, 1e-3))'"
        found.append(("hydra.sweeper.params", "nothing to search over", remedy))
    if options["sampler"] not in SAMPLERS:
        found.append(("hydra.sweeper.sampler", f"there is no {options['sampler']}", f"one of {', '.join(SAMPLERS)}"))
    given = directions(options, names)
    if len(given) != len(names):
        what = f"{len(given)} directions for {len(names)} objectives"
        found.append(("hydra.sweeper.direction", what, "one for each, or null"))
    for name, goal in zip(names, given, strict=False):
        if goal not in ("minimize", "maximize"):
            what = f"{goal or 'it is not known whether'} {name} is to fall or to rise".replace("  ", " ")
            found.append(("hydra.sweeper.direction", what, "minimize or maximize, a list for several objectives"))
    if found:
        raise ConfigError([Problem(where=where, what=what, remedy=remedy) for where, what, remedy in found])


def directions(options: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """minimize or maximize for each objective, empty where neither is told nor known."""
    given = options.get("direction")
    if given is None:
        return [GOALS.get(direction_of(name), "") for name in names]
    return [given] if isinstance(given, str) else [str(own) for own in given]


def distribution(override: Override) -> Any:
    """What Optuna draws from: categories as they stand in overrides, ranges and intervals as numbers."""
    from optuna import distributions

    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        low: Any = value.start
        high: Any = value.end
        whole = isinstance(low, int) and isinstance(high, int)  # of int(interval(1, 4))
        kind: Any = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(low, high, log=log)
    if isinstance(value, RangeSweep) and not value.shuffle and all(isinstance(own, int) for own in value.range()):
        numbers = list(value.range())
        if len(numbers) > 1 and numbers[1] > numbers[0]:
            step = numbers[1] - numbers[0]
            return distributions.IntDistribution(numbers[0], numbers[-1], step=1 if log else step, log=log)
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def example_value(one: Any) -> Any:
    """A value of a distribution."""
    return one.choices[0] if hasattr(one, "choices") else one.low


def study_of(path: Path, name: str, names: Sequence[str], options: Mapping[str, Any]) -> optuna.Study:
    """The study in a journal file, a new one where there is none. RunError where it is about something else."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = options.get("seed")
    goals: list[Any] = directions(options, names)
    many = int(options["n_jobs"]) > 1
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=many),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "nsgaii": lambda: optuna.samplers.NSGAIISampler(seed=seed),
    }
    storage = JournalStorage(JournalFileBackend(str(path)))
    sampler = samplers[str(options["sampler"])]()
    study = optuna.create_study(
        storage=storage, study_name=name, directions=goals, sampler=sampler, load_if_exists=True
    )
    if [own.name.lower() for own in study.directions] != goals:
        raise RunError(f"The search in {path} goes another way than {goals}; hydra.sweeper.study_name=NAME begins one.")
    if study.trials:  # else a search that goes on would draw what it drew before
        sampler.reseed_rng()
    return study


def record_trial(study: optuna.Study, trial: optuna.Trial, job: Job, names: Sequence[str]) -> bool:
    """Tell the study how a run ended, and whether it did. RunError where it ended well without the objective."""
    from optuna.trial import TrialState

    state, record = job.state, job.record
    if state == "unfinished":
        return False  # proposed again by the next start
    trial.set_user_attr(ENDED, state)
    trial.set_user_attr("run", job.folder.name if job.folder else "")
    if state != "done" or record is None:
        study.tell(trial, state=TrialState.PRUNED if state == "diverged" else TrialState.FAIL)
        return True
    known = record.scores.get(record.subject, {})
    if missing := [name for name in names if name not in known]:
        study.tell(trial, state=TrialState.FAIL)
        raise RunError(
            f"objective: {record.name} has no score {', '.join(missing)}, so there is nothing to search for.\n"
            f"  - objective=NAME or objective=[NAME,NAME] with what it has: {', '.join(known)}\n"
            "  - task_aggregate is one of evaluator=lume; aggregate takes MMLU besides: evaluator.mmlu.data_dir=FOLDER"
        )
    study.tell(trial, [known[name] for name in names])
    return True


def best_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The best trial, or of several objectives all that none beats; none where no trial ended well."""
    return list(study.best_trials)


def write_results(study: optuna.Study, path: Path) -> None:
    """The best trials in the words that Hydra's sweepers use."""
    best = best_trials(study)
    if not best:
        return
    if len(study.directions) == 1:
        told: dict[str, Any] = {"name": "optuna", "best_params": best[0].params, "best_value": best[0].value}
    else:
        told = {"name": "optuna", "solutions": [{"params": own.params, "values": list(own.values)} for own in best]}
    path.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")


def show_best(study: optuna.Study, names: Sequence[str]) -> None:
    """The best trials on the terminal."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if study.directions[0].name == "MINIMIZE" else -1
    best = best_trials(study) if len(names) > 1 else sorted(ended, key=lambda own: sign * own.values[0])[:BEST_SHOWN]
    if not best:
        return
    made = Table("trial", *map(escape, names), "with", "run")
    for own in best:
        told = " ".join(f"{key}={value}" for key, value in own.params.items())
        run = str(own.user_attrs.get("run", ""))
        made.add_row(str(own.number), *(f"{value:.4g}" for value in own.values), escape(told), escape(run))
    console.print(made)
    words = "no other trial beats these in every objective" if len(names) > 1 else "the best trials"
    console.print(f"  {words}, of {len(ended)} that ended well", soft_wrap=True)
