"""Equal utility: every unlearned model goes back towards the one before it until all have kept as much.

Methods differ in how much they forget and in how much they break, and of two that differ in both neither is better. On
the straight line from the weights before unlearning to those after (`mix`), utility falls from the target's; for each
method and seed bisection looks for the farthest point at which it is still at the level. What was forgotten is left to
compare (unlearning with control, arXiv:2406.09179).

A line cannot lead below what the unlearned model has: a level below that of some method leaves this as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from lume_run.common.errors import RunError
from lume_run.sweeps.compare.contestants import Contestant
from lume_run.sweeps.runner import Job, JobRunner
from lume_run.sweeps.settings import CompareSettings

Case = tuple[str, int]  # a method and a seed
Utilities = dict[Case, float]


def levels_of(level: float | Literal["highest"], target: Utilities, unlearned: Utilities) -> Utilities:
    """The utility that each case is to have: a share of the target's, or that of the method which keeps most.

    Both are of the same seed.
    """
    if level == "highest":
        return {case: max(kept for other, kept in unlearned.items() if other[1] == case[1]) for case in unlearned}
    return {case: level * target[case] for case in unlearned if case in target}


def mixes_at_level(
    levels: Utilities, unlearned: Utilities, steps: int, measure: Callable[[Mapping[Case, float]], Utilities]
) -> dict[Case, float]:
    """By case how far of the way its utility is still at the level, to 1 / 2^steps.

    `measure` gives the utilities of all these mixes at once, and leaves out those that failed: their cases are left out
    here too. The whole way (1.0) where the unlearned model is at the level already.
    """
    low = {case: 1.0 if unlearned[case] >= level else 0.0 for case, level in levels.items()}
    high = {case: 1.0 for case, reached in low.items() if not reached}
    for _ in range(steps):
        tried = {case: (low[case] + end) / 2 for case, end in high.items()}
        kept = measure(tried) if tried else {}
        for case, mix in tried.items():
            if case not in kept:
                low.pop(case), high.pop(case)
            elif kept[case] >= levels[case]:
                low[case] = mix
            else:
                high[case] = mix
    return low


@dataclass(frozen=True, kw_only=True)
class Equaliser:
    """Runs what bisection asks for; `score` is the utility."""

    runner: JobRunner
    score: str
    level: float | Literal["highest"]
    steps: int

    def mixes(self, cases: Mapping[Case, Sequence[str]]) -> dict[Case, float]:
        """By case the mix at which it is reported; RunError where no run has the utility.

        `cases` are overrides of methods that have weights of their own; those that fail are left out.
        """
        jobs = {case: self.runner.compose(overrides) for case, overrides in cases.items()}
        self._run(jobs)
        target = {case: value for case, job in jobs.items() if (value := self._value(job, "target")) is not None}
        unlearned = {case: value for case, job in jobs.items() if (value := self._value(job)) is not None}
        if jobs and not unlearned and not self.runner.stopped:
            what = f"No run has the score {self.score}, by which utility is made equal."
            raise RunError(f"{what}\n  - hydra.sweeper.utility=SCORE, one of those in report.json")

        def measure(mixes: Mapping[Case, float]) -> Utilities:
            tried = {case: self.runner.compose([*cases[case], f"mix={mix!r}"]) for case, mix in mixes.items()}
            self._run(tried)
            return {case: value for case, job in tried.items() if (value := self._value(job)) is not None}

        return mixes_at_level(levels_of(self.level, target, unlearned), unlearned, self.steps, measure)

    def _run(self, jobs: Mapping[Case, Job]) -> None:
        self.runner.run([job for job in jobs.values() if not job.is_cached])

    def _value(self, job: Job, subject: str = "") -> float | None:
        record = job.record
        return None if record is None else record.scores.get(subject or record.subject, {}).get(self.score)


def mix_label(mixes: Mapping[Case, float], method: str) -> str:
    """How far a method went on the way, mean over seeds; empty for one that is not mixed."""
    known = [mix for (name, _), mix in mixes.items() if name == method]
    return f"{fmean(known):.3f}" if known else ""


def mixes_of(
    runner: JobRunner,
    settings: CompareSettings,
    reporting: Sequence[Contestant],
    best: Mapping[str, Mapping[str, Any]],
) -> dict[Case, float]:
    """How far each method and seed goes on the way to its unlearned model; empty without equal utility.

    `best` are the settings of the best trials by method. Methods without an optimisation stay as they are.
    """
    if settings.utility is None:
        return {}
    cases = {
        (contestant.method, seed): overrides
        for contestant in reporting
        if contestant.space.distributions
        for seed, overrides in zip(
            settings.seeds, contestant.reported(best[contestant.method], settings.seeds), strict=True
        )
    }
    level, steps = settings.utility_level, settings.utility_steps
    return Equaliser(runner=runner, score=settings.utility, level=level, steps=steps).mixes(cases)


def reported_runs(
    contestant: Contestant, values: Mapping[str, Any], seeds: Sequence[int], mixes: Mapping[Case, float]
) -> Iterator[list[str]]:
    """The overrides of the runs of a method that are reported, each where it stands on its way."""
    for seed, overrides in zip(seeds, contestant.reported(values, seeds), strict=True):
        mix = mixes.get((contestant.method, seed), 1.0)
        yield [*overrides, *([f"mix={mix!r}"] if mix < 1 else []), *contestant.further]


def utility_words(settings: CompareSettings) -> list[str]:
    """What is made equal, in words; nothing where nothing is."""
    if settings.utility is None:
        return []
    level = settings.utility_level
    words = "that of the method that keeps most" if level == "highest" else f"{level:g} of the target's"
    return [f"equal utility: {settings.utility} is {words}, by mixing weights with the target's"]
