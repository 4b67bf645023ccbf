"""The trials of a comparison: as many of every method as it may have, those of all methods side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.sweeps.compare.contestants import Contestant, Lineup
from lume_run.sweeps.runner import Job, JobRunner
from lume_run.sweeps.settings import CompareSettings
from lume_run.sweeps.study import load_study, next_count, propose, record_trial, take_up_killed

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Proposes trials and has them run; `study_name` is that of a contestant's study."""

    runner: JobRunner
    settings: CompareSettings
    study_name: Callable[[Contestant], str]

    def tune(self, lineup: Lineup) -> bool:
        """As many trials of every method as it may have; whether all have ended."""
        folder = Path(self.settings.storage)
        for contestant in lineup.tuned:
            name = self.study_name(contestant)
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
