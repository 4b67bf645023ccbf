"""Grids: every combination of the swept values is a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from lume_run.common.console import console
from lume_run.sweeps.job import print_user_errors
from lume_run.sweeps.overrides import name_swept, parse_overrides
from lume_run.sweeps.runner import Job, JobRunner
from lume_run.sweeps.settings import GridSettings, check_grid, sweeper_settings


class Grid(Sweeper):
    """Every combination of what is swept."""

    def __init__(self, *, params: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.params, self.options = params or {}, options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.composed = hydra_context, config
        with print_user_errors():
            self.settings = sweeper_settings(GridSettings, self.options)
            self.runner = JobRunner(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs of these overrides, and say how that went."""
        with print_user_errors():
            overrides = parse_overrides(self.context, self.params, arguments)
            name_swept(overrides)
            check_grid(overrides, self.settings)
        (combinations,) = BasicSweeper.split_arguments(overrides, None)
        jobs = self.runner.compose_all(combinations)
        if any(job.data.get("dry_run") for job in jobs):
            from lume_run.sweeps.dry_run import show_sweep

            with print_user_errors():
                show_sweep(jobs)
            return
        folder = Path(str(self.composed.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.composed, folder / "multirun.yaml")
        run_all(self.runner, jobs, self.settings.max_batch_size)


def run_all(runner: JobRunner, jobs: Sequence[Job], batch_size: int | None) -> None:
    """Run what is not cached, at most so many jobs at once; whatever happens, say how it ended."""
    cached = [job for job in jobs if job.is_cached]
    due = [job for job in jobs if job not in cached]
    for job in cached:
        console.print(f"[bold]{escape(job.run_folder.name)}[/]  [green]cached[/]", soft_wrap=True)
    try:
        for start in range(0, len(due), batch_size or max(1, len(due))):
            runner.run(due[start : start + (batch_size or len(due))])
    except (KeyboardInterrupt, SystemExit):
        runner.summarise(jobs, len(cached))
        raise
    runner.summarise(jobs, len(cached))
