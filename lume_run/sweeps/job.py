"""One Hydra job: write the run folder, run what is due, record how it ended.

Launchers call `run_job` in processes that know nothing of `cli.py`: importing this module is all they need. A job of a
sweep that ends in an error leaves it in its folder as error.json and returns, so that the others go on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import ConfigError, LumeError, RunError
from lume_run.common.files import naming_full_disk, write_json
from lume_run.config.resolve import identity
from lume_run.launch import slurm
from lume_run.launch.preemption import FILE, REQUEUE, Preempted, requested
from lume_run.pipeline.checks import check
from lume_run.report.comparison.run_folders import ERROR
from lume_run.tracking.tracker import SWEPT

SWEEPER = "LUME_RUN_SWEEPER"  # environment variable: the process that a local sweep's launcher runs in
SIGNAL = "SUBMITIT_PREEMPT_SIGNAL"  # environment variable: the signal that submitit listens to, where not USR2

exit_codes: list[int] = []  # of what ran in this process: a run that failed, sweeps


def run_job(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """Check, write the folder, run. Returns the objective's value or values for sweepers, None where it has none."""
    if sweeping() and requested():
        stop()
        return None
    settings, problems, data = check(cfg)
    if not data or (problems and not sweeping()):
        raise ConfigError(problems)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if settings is not None and settings.dry_run:  # of another sweeper than ours
        from lume_run.pipeline.dry_run import show_plan

        show_plan(settings, folder)
        return None
    try:
        begin(folder, data)
        if settings is None:
            raise ConfigError(problems)
        from lume_run.pipeline.driver import launch

        report = launch(settings, folder, identity=identity(data), command=command())
    except Preempted as error:
        console.print(escape(str(error)), soft_wrap=True)
        stop()
        return None
    except LumeError as error:
        write_error(folder, error)
        console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)
        exit_codes.append(1)  # a sweep goes on to its next job; main() ends with the last code
        return None
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        raise SystemExit(130) from None
    except Exception as error:
        write_error(folder, error)
        if not sweeping():
            raise
        console.print(escape(traceback.format_exc()), soft_wrap=True)
        return None
    return objective(settings.objective, report.judged, lambda subject, name: report.value(subject, name))


def sweeping() -> bool:
    """Whether this job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def command() -> list[str]:
    """The command line; of a job that a launcher started elsewhere its overrides, which say the same."""
    if Path(sys.argv[0]).stem in ("lume-run", "cli"):
        return [Path(sys.argv[0]).name, *sys.argv[1:]]
    return ["lume-run", *map(str, HydraConfig.get().overrides.task)]


def begin(folder: Path, data: Mapping[str, Any]) -> None:
    """The folder with its config, without the error of an earlier attempt."""
    with naming_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dict(data))), encoding="utf-8")
        (folder / ERROR).unlink(missing_ok=True)


def write_error(folder: Path, error: BaseException | str, told: Sequence[str] = ()) -> None:
    """Leave in the folder what a job ended with; an error that is nobody's mistake with the name of its class."""
    bug = isinstance(error, BaseException) and not isinstance(error, LumeError)
    text = f"{type(error).__name__}: {error}" if bug else str(error)
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with suppress(OSError):  # a full disk, which is what failed
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ERROR, {"error": text, "when": when, "command": list(told) or command()})


def stop() -> None:
    """End a job that was told to stop, so that whoever started it starts it again.

    Raises SystemExit, except in a process of a local sweep beside others: to raise there would kill those.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        if "JobState=RUNNING" in slurm.show("job", os.environ["SLURM_JOB_ID"]):  # of a cancelled one: COMPLETING
            os.kill(os.getpid(), getattr(signal, f"SIG{os.environ.get(SIGNAL, 'USR2')}"))  # submitit requeues, exits
    elif sweeping() and (file := os.environ.get(FILE)):
        Path(file).touch()
        if os.environ.get(SWEEPER) != str(os.getpid()):
            return
    raise SystemExit(REQUEUE)


def objective(named: str | Sequence[str], subject: str, value: Any) -> float | tuple[float, ...] | None:
    """One value, or one for each name; None where one is missing. `value(subject, name)` looks a score up."""
    names = [named] if isinstance(named, str) else named
    found = [value(subject, name) for name in names]
    if any(own is None for own in found):
        return None
    return float(found[0]) if isinstance(named, str) else tuple(map(float, found))


@contextmanager
def telling() -> Iterator[None]:
    """Around a plugin's work: an error that a user can act on is told as such, which Hydra would not do."""
    try:
        yield
    except LumeError as error:
        console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


def lost(why: str) -> JobReturn:
    """What a launcher returns for a job that ended elsewhere without a word of its own."""
    return JobReturn(status=JobStatus.FAILED, _return_value=RunError(why))


def swept(overrides: Sequence[str]) -> list[str]:
    """Overrides as they tell jobs apart: without Hydra's own, and where things go."""
    return [own for own in overrides if not own.lstrip("+~").startswith(("hydra", "output_dir", "logger", "launch"))]


def name_by(overrides: Sequence[Override]) -> None:
    """Have jobs named by what is swept, here or in `hydra.sweeper.params`, which the command line does not show."""
    os.environ[SWEPT] = ",".join(own.get_key_element() for own in overrides if own.is_sweep_override())
