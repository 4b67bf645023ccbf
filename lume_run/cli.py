"""`lume-run`: compose with Hydra, check everything, then run.

Hydra's flags work as ever (`--cfg job`, `--multirun`, `--config-dir`, shell completion). Before
Hydra starts, overrides are looked at here, so that all mistakes of a command line come in one
message with the nearest name, and `--help` answers without importing torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.common.errors import ConfigError, Problem, ProblemsError
from lume_run.config.help import HELP_FLAGS, help_text, help_topic
from lume_run.config.overrides import (
    compose,
    composition_error,
    conf_dir,
    config_dirs,
    override_problems,
    split_arguments,
    sweep_choices,
)

if TYPE_CHECKING:
    from lume_run.config.settings import Settings

PASS_THROUGH = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "-sc", "--shell-completion", "--run", "-r")


def print_help(arguments: Sequence[str]) -> None:
    """Print what `--help` asks for, without Hydra."""
    try:
        print(help_text(config_dirs(arguments), help_topic(arguments)), flush=True)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # `lume-run --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_command(arguments: Sequence[str]) -> int | None:
    """Check a command line before Hydra runs it: an exit code to stop with, or None to let Hydra run it.

    Of a sweep the first job is checked, and each other choice in its place; the jobs again when they start.
    """
    from rich.markup import escape

    from lume_run.common.console import console
    from lume_run.sweeps.names import hydra_folder

    flags, overrides = split_arguments(arguments)
    folders = config_dirs(arguments)
    sweeping = any(flag in ("-m", "--multirun") for flag in flags)
    choices = [sweep_choices(override) if sweeping else [override] for override in overrides]
    jobs = list(jobs_to_check([values for values in choices if values]))
    problems: list[Problem] = []
    sound = list(chain.from_iterable(choices))
    if any(composition_error(job, folders) is not None for job in jobs):
        problems, sound = override_problems(sound, folders)
    settings = None
    for job in jobs:
        settings, seen = check_job([override for override in job if override in sound], folders)
        problems += [problem for problem in seen if problem not in problems]
    if problems:
        console.print("[bold red]error:[/]", escape(str(ConfigError(problems))), soft_wrap=True)
        return 2
    if settings is not None and settings.dry_run and not sweeping:  # of the only job
        from lume_run.pipeline.dry_run import show_plan

        try:
            show_plan(settings, hydra_folder(compose(overrides, folders, whole=True), sweeping=False))
        except ProblemsError as error:
            console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)
            return 2
        return 0
    return None


def check_job(overrides: Sequence[str], folders: Sequence[Path]) -> tuple[Settings | None, Sequence[Problem]]:
    """The settings of a command without sweeps, None where it has problems; nothing it may not import is imported."""
    from lume_run.config.permissions import missing_permissions
    from lume_run.pipeline.checks import check_config

    config = compose(overrides, folders)
    if problems := list(missing_permissions(config, overrides)):
        return None, problems
    checked = check_config(config)
    return checked.settings, checked.problems


def jobs_to_check(choices: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The first job of a sweep, and each other choice in its place."""
    first = [values[0] for values in choices]
    yield first
    for place, values in enumerate(choices):
        for other in values[1:]:
            yield [*first[:place], other, *first[place + 1 :]]


def name_sweep(arguments: Sequence[str]) -> None:
    """Write into the environment, which all launchers pass on, which sweep a job belongs to and what is swept."""
    from lume_run.common.files import content_hash
    from lume_run.tracking.start import SWEEP_VARIABLE, SWEPT_VARIABLE

    _, overrides = split_arguments(arguments)
    overrides = [override for override in overrides if not override.lstrip("+~").startswith("hydra")]
    swept = [override.partition("=")[0] for override in overrides if len(sweep_choices(override)) != 1]
    os.environ[SWEEP_VARIABLE] = "sweep-" + content_hash(sorted(overrides))[:8]
    os.environ[SWEPT_VARIABLE] = ",".join(swept)


def main() -> None:
    """Entry point of the `lume-run` command."""
    arguments = sys.argv[1:]
    if set(HELP_FLAGS) & set(arguments):
        print_help(arguments)
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin make busy cores many times slower
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.argv[1:] = arguments = ["dry_run=true" if argument == "--dry-run" else argument for argument in arguments]
    import hydra

    from lume_run.config.hydra_source import list_families
    from lume_run.sweeps.job import exit_codes, run_job
    from lume_run.sweeps.plugins import register

    register()
    list_families()
    if not any(argument.partition("=")[0] in PASS_THROUGH for argument in arguments):
        code = check_command(arguments)
        if code is not None:
            raise SystemExit(code)
    if "-m" in arguments or "--multirun" in arguments:
        name_sweep(arguments)
    hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(run_job)()
    if exit_codes and exit_codes[-1]:
        raise SystemExit(exit_codes[-1])


if __name__ == "__main__":
    main()
