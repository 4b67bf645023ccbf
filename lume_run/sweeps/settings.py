"""What sweepers are configured by, checked like all other settings: types, bounds, unknown keys."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from lume_run.common.errors import ConfigError, Problem
from lume_run.config.build import Builder
from lume_run.config.fields import setting
from lume_run.evaluation.definitions import Wanted
from lume_run.report.results import direction_of

WHERE = "hydra.sweeper"
MOST_SEED = 2**32 - 1


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
    seed: int | None = setting(0, low=0, high=MOST_SEED, help="of the sampler")
    direction: str | list[str] | None = setting(None, help="maximize or minimize, one for each objective; null: known")
    study_name: str | None = setting(None, help="null: named by what is searched")
    storage: str = setting("studies", help="folder of the journal that makes a search go on")

    def __post_init__(self) -> None:
        if self.study_name is not None and not re.fullmatch(r"\w[\w.+-]{0,79}", self.study_name):
            raise ValueError(f"study_name is {self.study_name!r}; at most 80 letters, digits, '.', '_', '-' and '+'")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Of a comparison of methods; what it tunes for all alike (`params`) is Hydra's to read."""

    n_trials: int = setting(8, low=1, help="of each method, those of earlier starts included")
    tuning_seeds: tuple[int, ...] = setting((100,), help="a trial runs on each of them; its value is the mean")
    seeds: tuple[int, ...] = setting((0, 1, 2), help="of the runs that are reported, none of those of tuning")
    tuning_documents: Literal["auto", "apart", "same"] = setting(
        "auto", help="apart: trials are scored on documents that are not reported; auto: where there are enough"
    )
    rate_factor: float = setting(
        10.0, low=1, open_low=True, high=1e6, help="learning rates are tried from the method's over this to times this"
    )
    spaces: tuple[str, ...] = setting((), help="tuned of one method besides, each METHOD: SETTING=interval(...)")
    disruption: float | None = setting(None, low=0, open_low=True, help="method.stop_when.disruption of all losses")
    disruption_text: str | None = setting(None, help="file of its plain text")
    utility: str | None = setting(None, help="score that all have equal when they are ranked, by mixing weights")
    utility_level: Literal["highest"] | float = setting(
        0.95, low=0, open_low=True, high=1, help="of the target's utility; highest: that of the method that keeps most"
    )
    utility_steps: int = setting(5, low=1, high=20, help="halvings of the way on which this point is looked for")
    ranked: str | None = setting(None, help="score that ranks go by; null: the objective, by which all are tuned")
    n_jobs: int = setting(1, low=1, help="trials of each method handed to the launcher at once")
    sampler: Literal["tpe", "random"] = setting("tpe", help="what proposes the next trial")
    seed: int | None = setting(0, low=0, high=MOST_SEED, help="of the sampler")
    direction: str | None = setting(None, help="maximize or minimize, of a score of which it is not known; null: known")
    max_jobs: int = setting(10_000, low=1, help="a comparison of more runs is taken for a slip and refused")
    storage: str = setting("studies", help="folder of the journals that make a comparison go on")

    def __post_init__(self) -> None:
        for name, seeds in (("tuning_seeds", self.tuning_seeds), ("seeds", self.seeds)):
            if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > MOST_SEED:
                raise ValueError(f"{name} is {list(seeds)}; give different whole numbers up to 2^32 - 1, at least one")
        if both := sorted(set(self.seeds) & set(self.tuning_seeds)):
            raise ValueError(f"seed {both[0]} is both tuned on and reported; give others in seeds or tuning_seeds")

        if (self.disruption is None) != (self.disruption_text is None):
            raise ValueError("disruption and disruption_text=FILE go together")
        if self.utility is not None and direction_of(self.utility) is not Wanted.HIGHER:
            raise ValueError(f"utility is {self.utility!r}; a score of which more is better, such as retain.knowledge")
        if wrong := [space for space in self.spaces if not all(space.partition(": ")[::2])]:
            raise ValueError(f"spaces has {wrong[0]!r}; write 'METHOD: SETTING=interval(LOW, HIGH)'")

    def spaces_of(self, method: str) -> list[str]:
        """What is tuned of a method besides, as overrides."""
        return [override for name, _, override in (space.partition(": ") for space in self.spaces) if name == method]

    @property
    def protocol(self) -> list[Any]:
        """What besides methods, trials and seeds makes another comparison; nothing of versions that had none of it."""
        equal = [self.utility, self.utility_level, self.utility_steps] if self.utility else []
        kept = [self.tuning_documents] if self.tuning_documents == "same" else []
        return [*equal, *([self.ranked] if self.ranked else []), *kept]

    @property
    def search(self) -> SearchSettings:
        """The search of one method."""
        return SearchSettings(
            n_trials=self.n_trials,
            n_jobs=self.n_jobs,
            sampler=self.sampler,
            seed=self.seed,
            direction=self.direction,
            storage=self.storage,
        )


SweeperSettings = TypeVar("SweeperSettings", GridSettings, SearchSettings, CompareSettings)


def sweeper_settings(cls: type[SweeperSettings], options: Mapping[str, Any]) -> SweeperSettings:
    """The settings of a sweeper; raises ConfigError with all that is wrong with them."""
    builder = Builder()
    plain = OmegaConf.to_container(OmegaConf.create(dict(options)), resolve=True)  # lists as Hydra has them
    settings = builder.build_record(cls, plain, WHERE)
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
        elif isinstance(value := override.value(), RangeSweep) and not value.step:
            what, remedy = "a range with steps of 0 has no end", "range(START,STOP), or a step above 0"
            yield Problem(where=override.get_key_element(), what=what, remedy=remedy)


def _count(override: Override) -> int:
    """How many values an override takes in turn; a range is not written out for it."""
    value: Any = override.value()
    if isinstance(value, RangeSweep):
        return max(0, math.ceil((value.stop - value.start) / value.step))  # type: ignore[operator]
    return sum(1 for _ in override.sweep_string_iterator())


@dataclass(frozen=True, kw_only=True)
class JoblibSettings:
    """Of several jobs at once on this machine; what else joblib takes is left to it."""

    n_jobs: int = setting(2, low=-1, high=10_000, help="jobs at once; -1: one on every core")
    batch_size: int | Literal["auto"] = setting(1, low=1, help="jobs that a process takes at a time")
    pre_dispatch: int | str = setting("n_jobs", help="jobs that are ready to run: a number, n_jobs, 2*n_jobs or all")
    verbose: int = setting(0, low=0, help="how much joblib says")
    timeout: float | None = setting(None, low=0, help="longest job [s]")

    def __post_init__(self) -> None:
        if not self.n_jobs:
            raise ValueError("n_jobs is 0; such as 2, or -1 for one on every core")
        if not re.fullmatch(r"all|\d+|(\d+ ?\* ?)?n_jobs", str(self.pre_dispatch)):
            raise ValueError(f"pre_dispatch is {self.pre_dispatch!r}; a number, n_jobs, 2*n_jobs or all")


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """Of an array of SLURM; the comments of conf/hydra/launcher/slurm.yaml say what each is."""

    name: str = setting("lume-run", help="in squeue")
    partition: str | None = setting(None, help="of the cluster")
    account: str | None = setting(None, help="of the cluster")
    qos: str | None = setting(None, help="of the cluster")
    constraint: str | None = setting(None, help="a feature of nodes")
    exclude: str | None = setting(None, help="names of nodes")
    comment: str | None = setting(None, help="in squeue")
    nodes: int = setting(1, low=1, high=10**4, help="of each job")
    gpus_per_node: int | None = setting(None, low=0, high=1024, help="ranks on each node")
    gres: str | None = setting(None, help="instead of gpus_per_node")
    cpus_per_task: int | None = setting(None, low=1, high=10**5, help="cores of a job on each node")
    mem_gb: float | None = setting(None, low=0, open_low=True, high=10**6, help="host memory of a job on each node")
    timeout_min: int = setting(720, low=1, high=10**7, help="time limit of a job [minutes]")
    array_parallelism: int = setting(16, low=1, help="jobs that may run at once")
    signal_delay_s: int = setting(180, low=1, high=86_400, help="warning before the time limit [s]")
    max_num_timeout: int = setting(100, low=0, help="how often a job that ran out of time is queued again")
    setup: list[str] | None = setting(None, help="lines of the shell before a job starts")
    srun_args: list[str] = setting(factory=list, help="more options of srun")
    python: str | None = setting(None, help="with a container: the Python inside it")
    additional_parameters: dict[str, Any] = setting(factory=dict, help="any other option of sbatch")
    submitit_folder: str = setting(".submitit/%j", help="what jobs print")


LAUNCHERS = {"JoblibLauncher": JoblibSettings, "SlurmArray": SlurmSettings}


def check_launcher(node: DictConfig) -> None:
    """Raise ConfigError for settings of our launchers that would only be refused when jobs start."""
    options = {str(key): value for key, value in OmegaConf.to_container(node, resolve=True).items()}  # type: ignore[union-attr]
    settings = LAUNCHERS.get(str(options.pop("_target_", "")).rpartition(".")[2])
    if settings is None:
        return
    known = {field.name for field in dataclasses.fields(settings)}
    builder = Builder()
    builder.build_record(settings, {key: value for key, value in options.items() if key in known}, "hydra.launcher")
    if builder.problems:
        raise ConfigError(builder.problems)
