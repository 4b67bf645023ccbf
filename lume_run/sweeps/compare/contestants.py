"""Who takes part in a comparison, with what is tuned of each, and what the command line says about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.types import Override

from lume_run.common.errors import ConfigError, Problem
from lume_run.evaluation.definitions import Wanted
from lume_run.report.results import direction_of
from lume_run.sweeps.search import Space
from lume_run.sweeps.study import GOALS, best_trials

if TYPE_CHECKING:
    import optuna

SEEDS, SPACES = "hydra.sweeper.seeds", "hydra.sweeper.spaces"
DOCUMENTS = "evaluator.documents"
SHARED = (  # what all runs of a comparison have in common
    *("task", "evaluator", "attack", "sequence", "stages", "objective", "responses", "seed"),
    *("output_dir", "logger", "launch", "dry_run", "hydra"),
)


@dataclass(kw_only=True)
class Contestant:
    """A method that takes part: what is searched for it, and its study once there is one.

    `further` are overrides of reported runs alone, as attacks are. `apart`: trials are scored on documents that are not
    reported.
    """

    method: str
    space: Space
    further: Sequence[str] = ()
    apart: bool = False
    study: optuna.Study | None = None
    ended: int = 0

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The settings of the best trial, none of a method without any; None where no trial ended well."""
        if not self.space.distributions:
            return {}
        best = best_trials(self.study) if self.study is not None else []
        return best[0].params if best else None

    def reported(self, values: Mapping[str, Any], seeds: Sequence[int]) -> list[list[str]]:
        """The overrides of the runs that are reported, without what is reported of them alone (`further`)."""
        return self._runs(values, seeds, "reported")

    def trial(self, values: Mapping[str, Any], seeds: Sequence[int]) -> list[list[str]]:
        """The overrides of the runs of a trial."""
        return self._runs(values, seeds, "tuning")

    def _runs(self, values: Mapping[str, Any], seeds: Sequence[int], part: str) -> list[list[str]]:
        of_part = [f"{DOCUMENTS}={part}"] if self.apart else []
        return [[*self.space.overrides(values), *of_part, f"seed={seed}"] for seed in seeds]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many runs a comparison is."""

    methods: int
    trials: int
    tuning_seeds: int
    contestants: int
    seeds: int
    halvings: int = 0  # runs of each case that equal utility takes

    @property
    def tuning(self) -> int:
        """Runs to tune."""
        return self.methods * self.trials * self.tuning_seeds

    @property
    def jobs(self) -> int:
        """All runs."""
        return self.tuning + self.contestants * self.seeds + self.methods * self.seeds * self.halvings

    def __str__(self) -> str:
        equal = f"; at most {self.methods * self.seeds * self.halvings} more to make utility equal"
        return (
            f"{self.methods} methods x {self.trials} trials x {self.tuning_seeds} seeds = {self.tuning} runs to tune, "
            f"{self.contestants} x {self.seeds} seeds = {self.contestants * self.seeds} runs to report"
            f"{equal if self.halvings else ''}"
        )


@dataclass(kw_only=True)
class Lineup:
    """The contestants of one command, and the score that decides, or at least what all are tuned by."""

    objective: str
    parts: str = ""  # which documents trials are scored on, in words
    contestants: list[Contestant] = field(default_factory=list)

    @property
    def tuned(self) -> list[Contestant]:
        """Those that have something to tune."""
        return [contestant for contestant in self.contestants if contestant.space.distributions]


class Given(NamedTuple):
    """A command line: its methods, what all runs share, what reported runs have besides, and what is tuned of all."""

    methods: Sequence[str]
    fixed: Sequence[str]
    further: Sequence[str]
    common: Sequence[Override]


def read_overrides(overrides: Sequence[Override]) -> Given:
    """The overrides of a comparison by what they are for; ConfigError with all that has no place in one."""
    if problems := list(_misplaced(overrides)):
        raise ConfigError(problems)
    rest = [override for override in overrides if override.get_key_element() != "method"]
    fixed = [override for override in rest if not override.is_sweep_override()]
    attacks = [override for override in fixed if override.get_key_element().partition(".")[0] == "attack"]
    return Given(
        methods=_methods(overrides),
        fixed=[str(override.input_line) for override in fixed if override not in attacks],
        further=[str(override.input_line) for override in attacks],
        common=[override for override in rest if override.is_sweep_override()],
    )


def _methods(overrides: Sequence[Override]) -> list[str]:
    for override in overrides:
        if override.get_key_element() == "method":
            swept = override.is_sweep_override()
            return list(override.sweep_string_iterator()) if swept else [str(override.value())]
    return []


def _misplaced(overrides: Sequence[Override]) -> Iterator[Problem]:
    methods = _methods(overrides)
    if len(set(methods)) < 2:
        what = f"a comparison is of several methods, not of {len(set(methods))}"
        yield Problem(where="method", what=what, remedy="method=npo_gd,me_gd,idk_ap")
    if doubled := [method for method in dict.fromkeys(methods) if methods.count(method) > 1]:
        yield Problem(where="method", what=f"{doubled[0]} stands there twice", remedy="name each once")
    for override in overrides:
        key = override.get_key_element()
        if key == "seed":
            remedy = f"{SEEDS}=[0,1,2], and hydra.sweeper.tuning_seeds"
            yield Problem(where="seed", what="runs are tuned on some seeds and reported on others", remedy=remedy)
        if key.partition(".")[0] == "attack" and override.is_sweep_override():
            yield Problem(where=key, what="attacks are of reported runs, and not tuned", remedy="attack=[NAME,NAME]")
        elif override.is_sweep_override() and key != "seed" and not _is_tunable(key):
            what = "is the same for all runs of a comparison, and not tuned"
            yield Problem(where=key, what=what, remedy="one value: a comparison is of one task and one evaluator")


def _is_tunable(key: str) -> bool:
    """Whether it may differ between the methods of a comparison, and their trials."""
    return key.partition(".")[0].partition("/")[0] not in SHARED


def space_problems(method: str, overrides: Sequence[Override]) -> Iterator[Problem]:
    """What is given to be tuned of one method and cannot be: a single value, or what all runs have in common."""
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            what = f"{method}: {key} has one value, so nothing of it is tuned"
            yield Problem(where=SPACES, what=what, remedy=f"{method}: {key}=interval(LOW, HIGH), or values with commas")
        elif not _is_tunable(key) or key == "method":
            what = f"{method}: {key} is the same for all runs of a comparison, and not tuned"
            yield Problem(where=SPACES, what=what, remedy="settings of method, trainer or model")


def require_untuned(method: str, spaces: Sequence[str]) -> None:
    """ConfigError where something is to be tuned of a method without an optimisation of its own."""
    if spaces:
        what = f"{method} has no optimisation of its own, so that nothing of it is tuned"
        raise ConfigError([Problem(where=SPACES, what=what, remedy=f"drop '{method}: {spaces[0]}'")])


def direction_problems(objective: str, direction: str | None) -> Iterator[Problem]:
    """A direction that is none, or another than the known one, by which methods are ranked."""
    if direction is None:
        return
    wanted = direction_of(objective)
    known = GOALS.get(wanted, "")
    if direction not in GOALS.values():
        what, remedy = f"{direction!r} is no direction", "maximize, minimize or null"
    elif wanted is not Wanted.NONE and direction != known:
        what = f"{objective} is best {'at ' + wanted if not known else 'low' if known == 'minimize' else 'high'}"
        remedy = "drop it, or another objective"
    else:
        return
    yield Problem(where="hydra.sweeper.direction", what=what, remedy=remedy)
