"""One Hydra job: write the run folder, run what is due, record how it ended.

Launchers call `run_job` in processes that know nothing of `cli.py`: importing this module is all they need. A job of a
sweep that ends in an error writes it into its folder as error.json and returns, so that the other jobs run.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import ConfigError, LumeError, RunError, is_of_loading, loading_failure
from lume_run.common.files import ERROR_FILE, explain_full_disk, replace_file, write_json
from lume_run.common.secrets import without_secrets
from lume_run.config.resolve import run_identity
from lume_run.launch import slurm
from lume_run.launch.preemption import REQUEUE, STOP_FILE_VARIABLE, Preempted, stop_requested

if TYPE_CHECKING:
    from lume_run.pipeline.checks.config import CheckedConfig

SWEEPER = "LUME_RUN_SWEEPER"  # environment variable: the process that a local sweep's launcher runs in
SIGNAL = "SUBMITIT_PREEMPT_SIGNAL"  # environment variable: the signal that submitit listens to, where not USR2

exit_codes: list[int] = []  # of what ran in this process: a run that failed, sweeps


def run_job(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """Check, write the folder, run. Returns the objective's value or values for sweepers, None where it has none."""
    if in_sweep() and stop_requested():
        exit_to_requeue()
        return None
    settings, problems, data = _check(cfg)
    if not data or (problems and not in_sweep()):
        raise ConfigError(problems)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if settings is not None and settings.dry_run:  # of another sweeper than ours
        from lume_run.pipeline.dry_run import show_plan

        show_plan(settings, folder)
        return None
    try:
        begin_run_folder(folder, data)
        if settings is None:
            raise ConfigError(problems)
        from lume_run.pipeline.driver import run_pipeline

        report = run_pipeline(settings, folder, identity=run_identity(data), command=command_line())
    except Preempted as error:
        console.print(escape(str(error)), soft_wrap=True)
        exit_to_requeue()
        return None
    except LumeError as error:
        write_error(folder, error)
        console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)
        exit_codes.append(exit_code_of(error))  # a sweep runs its next job; main() ends with the last code
        return None
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes from here")
        raise SystemExit(130) from None
    except Exception as error:
        write_error(folder, error)
        if not in_sweep() and not is_of_loading(error):
            raise
        print_end(error)
        return None
    return objective_value(settings.objective, lambda name: report.value(report.main_subject, name))


def print_end(error: Exception) -> None:
    """Say how a job ended that no user error ended: a library that does not load in words, a bug by its traceback."""
    if not is_of_loading(error):
        console.print(escape(traceback.format_exc()), soft_wrap=True)
        return
    console.print("[bold red]error:[/]", escape("\n  -> ".join(loading_failure(error))), soft_wrap=True)
    exit_codes.append(1 if in_sweep() else 2)


def _check(cfg: DictConfig) -> CheckedConfig:
    """Settings and problems; the checks are imported late, as `--cfg` and completion need this module without them."""
    from lume_run.pipeline.checks.config import check_config

    return check_config(cfg)


def exit_code_of(error: LumeError) -> int:
    """2 for a mistake in what a command was given, 1 for a run that failed, and for jobs of sweeps."""
    return 1 if in_sweep() else error.exit_code


def in_sweep() -> bool:
    """Whether this job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def command_line() -> list[str]:
    """The command line; of a job that a launcher started elsewhere its overrides, which repeat it as well."""
    if Path(sys.argv[0]).stem in ("lume-run", "cli"):
        return [Path(sys.argv[0]).name, *sys.argv[1:]]
    return ["lume-run", *map(str, HydraConfig.get().overrides.task)]


def begin_run_folder(folder: Path, data: Mapping[str, Any]) -> None:
    """The folder with its config, without the error of an earlier attempt."""
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(data))))
        (folder / ERROR_FILE).unlink(missing_ok=True)


def write_error(folder: Path, error: BaseException | str, command: Sequence[str] = ()) -> None:
    """Write the error that ended a job into its folder; that of a bug with the name of its class."""
    bug = isinstance(error, BaseException) and not isinstance(error, LumeError)
    text = f"{type(error).__name__}: {error}" if bug else str(error)
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with suppress(OSError):  # a full disk, which is what failed
        folder.mkdir(parents=True, exist_ok=True)
        record = {"error": text, "when": when, "command": list(command) or command_line()}
        write_json(folder / ERROR_FILE, without_secrets(record))


def exit_to_requeue() -> None:
    """End a job that was asked to stop, so that it is started again.

    Raises SystemExit, except in a process of a local sweep beside others: to raise there would kill those.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        if "JobState=RUNNING" in slurm.scontrol_show(
            "job", os.environ["SLURM_JOB_ID"]
        ):  # of a cancelled one: COMPLETING
            os.kill(os.getpid(), getattr(signal, f"SIG{os.environ.get(SIGNAL, 'USR2')}"))  # submitit requeues, exits
    elif in_sweep() and (file := os.environ.get(STOP_FILE_VARIABLE)):
        Path(file).touch()
        if os.environ.get(SWEEPER) != str(os.getpid()):
            return
    raise SystemExit(REQUEUE)


def objective_value(
    objective: str | Sequence[str], score: Callable[[str], float | None]
) -> float | tuple[float, ...] | None:
    """One score, or one for each name of the objective; None where one is missing."""
    scores: list[float] = []
    for name in [objective] if isinstance(objective, str) else objective:
        if (value := score(name)) is None:
            return None
        scores.append(float(value))
    return scores[0] if isinstance(objective, str) else tuple(scores)


@contextmanager
def print_user_errors() -> Iterator[None]:
    """Print errors of a plugin that a user can act on as such, which Hydra would not do."""
    try:
        yield
    except LumeError as error:
        console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)
        raise SystemExit(error.exit_code) from None


def failed_job(reason: str) -> JobReturn:
    """What a launcher returns for a job that ended elsewhere without an error message."""
    return JobReturn(status=JobStatus.FAILED, _return_value=RunError(reason))
