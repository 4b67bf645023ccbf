"""A study of Optuna: what it samples from, its journal file beside the runs, how trials end, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from rich.markup import escape
from rich.table import Table

from lume_run.common.console import console
from lume_run.common.errors import RunError
from lume_run.common.files import replace_file
from lume_run.common.seeds import stable_digest
from lume_run.evaluation.definitions import Wanted
from lume_run.report.comparison.run_folders import RunRecord
from lume_run.report.results import direction_of
from lume_run.sweeps.journal import journal_damage, mend_journal, refuse_journal
from lume_run.sweeps.runner import Job
from lume_run.sweeps.settings import SearchSettings

if TYPE_CHECKING:
    import optuna

ENDING = "ended"  # user attribute of a trial: the state of its run
GOALS = {Wanted.LOWER: "minimize", Wanted.HIGHER: "maximize"}
BEST_SHOWN = 5  # trials in the closing table


def directions(settings: SearchSettings, names: Sequence[str]) -> list[str]:
    """minimize or maximize for each objective, empty where neither is given nor known."""
    given = settings.direction
    if given is None:
        return [GOALS.get(direction_of(name), "") for name in names]
    return [given] if isinstance(given, str) else given


def distribution(override: Override) -> Any:
    """What Optuna samples from: categories as they stand in overrides, ranges and intervals as numbers."""
    from optuna import distributions

    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        low: Any = value.start
        high: Any = value.end
        if not all(isinstance(end, int | float) and isfinite(end) for end in (low, high)):
            raise ValueError(f"the ends of an interval are numbers, not {low} and {high}")
        whole = isinstance(low, int) and isinstance(high, int)  # of int(interval(1, 4))
        kind: Any = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(low, high, log=log)
    if isinstance(value, RangeSweep) and not value.shuffle and all(isinstance(number, int) for number in value.range()):
        numbers = list(value.range())
        if len(numbers) > 1 and numbers[1] > numbers[0]:
            step = numbers[1] - numbers[0]
            return distributions.IntDistribution(numbers[0], numbers[-1], step=1 if log else step, log=log)
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def ends_of(values: Any) -> tuple[Any, Any]:
    """The first and the last value of a distribution."""
    return (values.choices[0], values.choices[-1]) if hasattr(values, "choices") else (values.low, values.high)


def example_value(values: Any) -> Any:
    """A value of a distribution; of fractions one between its ends, which may be whole."""
    if hasattr(values, "choices"):
        return values.choices[0]
    return values.low if isinstance(values.low, int) else values.low + (values.high - values.low) / 3


def load_study(path: Path, name: str, names: Sequence[str], settings: SearchSettings) -> optuna.Study:
    """The study in a journal file, a new one where there is none; the caller holds its lock.

    RunError where it is about something else, DataError where the file is none or damaged.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    goals: list[Any] = directions(settings, names)
    mend_journal(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name=name, directions=goals, load_if_exists=True)
    except OSError:
        raise
    except Exception as error:  # of a damaged file, whatever the library raises
        refuse_journal(path, journal_damage(error))
    if [direction.name.lower() for direction in study.directions] != goals:
        raise RunError(f"The search in {path} goes another way than {goals}; hydra.sweeper.study_name=NAME begins one.")
    return study


def next_count(settings: SearchSettings, ended: int) -> int:
    """How many trials are proposed next: batches end where they do in a search that nothing stopped."""
    return max(0, min(settings.n_jobs - ended % settings.n_jobs, settings.n_trials - ended))


def propose(study: optuna.Study, space: Mapping[str, Any], settings: SearchSettings) -> optuna.Trial:
    """The next trial: that of a search that was killed is the one it would have been."""
    from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    number = sum(ENDING in trial.user_attrs or trial.state == TrialState.RUNNING for trial in trials)
    seed = None
    if settings.seed is not None:
        seed = int.from_bytes(stable_digest(settings.seed, number)[:4], "big")
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(seed=seed, constant_liar=settings.n_jobs > 1),
        "random": lambda: RandomSampler(seed=seed),
        "nsgaii": lambda: NSGAIISampler(seed=seed),
    }
    study.sampler = samplers[settings.sampler]()
    return study.ask(dict(space))


def take_up_killed(study: optuna.Study) -> int:
    """Have trials that were under way when a search was killed proposed again first; how many have ended."""
    import optuna

    running = optuna.trial.TrialState.RUNNING
    for killed in study.get_trials(deepcopy=False, states=(running,)):
        study.tell(killed.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(killed.params)
    return sum(ENDING in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def record_trial(study: optuna.Study, trial: optuna.Trial, jobs: Sequence[Job], names: Sequence[str]) -> bool:
    """Tell the study how the runs of a trial ended, and whether they did; its values are their means.

    RunError where one ended well without the objective.
    """
    from optuna.trial import TrialState

    states = {job.state for job in jobs}
    if "unfinished" in states:
        return False  # proposed again by the next start
    ending = next((state for state in ("failed", "diverged") if state in states), "done")
    trial.set_user_attr(ENDING, ending)
    trial.set_user_attr("run", " ".join(job.folder.name for job in jobs if job.folder))
    records = [record for job in jobs if (record := job.record) is not None]
    if ending != "done" or len(records) < len(jobs):
        study.tell(trial, state=TrialState.PRUNED if ending == "diverged" else TrialState.FAIL)
        return True
    try:
        values = [objective_values(record, names) for record in records]
    except RunError:
        study.tell(trial, state=TrialState.FAIL)
        raise
    study.tell(trial, [fmean(of_runs) for of_runs in zip(*values, strict=True)])
    return True


def objective_values(record: RunRecord, names: Sequence[str]) -> list[float]:
    """What a run scored; RunError where it has not all of these scores."""
    known = record.scores.get(record.subject, {})
    if missing := [name for name in names if name not in known]:
        raise RunError(
            f"objective: {record.name} has no score {', '.join(missing)}, so there is nothing to search for.\n"
            f"  - objective=NAME or objective=[NAME,NAME] with what it has: {', '.join(known)}\n"
            "  - task_aggregate is one of evaluator=lume; aggregate takes MMLU besides: evaluator.mmlu.data_dir=FOLDER"
        )
    return [known[name] for name in names]


def best_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The best trial, or of several objectives all that none beats; none where no trial ended well."""
    return list(study.best_trials)


def write_results(study: optuna.Study, path: Path) -> None:
    """Write the best trials under the keys that Hydra's sweepers use."""
    best = best_trials(study)
    if not best:
        return
    if len(study.directions) == 1:
        results: dict[str, Any] = {"name": "optuna", "best_params": best[0].params, "best_value": best[0].value}
    else:
        solutions = [{"params": trial.params, "values": list(trial.values)} for trial in best]
        results = {"name": "optuna", "solutions": solutions}
    replace_file(path, yaml.safe_dump(results, sort_keys=False))


def show_best(study: optuna.Study, names: Sequence[str]) -> None:
    """Print the best trials."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if study.directions[0].name == "MINIMIZE" else -1
    by_value = sorted(ended, key=lambda trial: sign * trial.values[0])
    best = best_trials(study) if len(names) > 1 else by_value[:BEST_SHOWN]
    if not best:
        return
    table = Table("trial", *map(escape, names), "with", "run")
    for trial in best:
        params = " ".join(f"{key}={value}" for key, value in trial.params.items())
        run = str(trial.user_attrs.get("run", ""))
        table.add_row(str(trial.number), *(f"{value:.4g}" for value in trial.values), escape(params), escape(run))
    console.print(table)
    which = "no other trial beats these in every objective" if len(names) > 1 else "the best trials"
    console.print(f"  {which}, of {len(ended)} that ended well", soft_wrap=True)
