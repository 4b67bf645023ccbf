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
from typing import TYPE_CHECKING, Any

from lume_run import __version__
from lume_run.common.errors import ConfigError, Problem, ProblemsError, explain_start
from lume_run.config.command import CommandLine, named_folders, read_command
from lume_run.config.help import HELP_FLAGS, help_text, help_topic
from lume_run.config.overrides import (
    choice_problems,
    compose,
    conf_dir,
    override_problems,
    shadow_problems,
    sweep_choices,
    try_composing,
)

if TYPE_CHECKING:
    from lume_run.config.settings import Settings

MOST_CHECKED = 100  # choices of one swept override before a sweep starts


def print_error(error: ProblemsError) -> None:
    """Print what is wrong with a command."""
    from rich.markup import escape

    from lume_run.common.console import console

    console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)


def print_help(arguments: Sequence[str]) -> None:
    """Print what `--help` asks for, without Hydra."""
    try:
        print(help_text(named_folders(arguments), help_topic(arguments)), flush=True)
    except ProblemsError as error:
        print_error(error)
        raise SystemExit(2) from None


def check_command(command: CommandLine) -> int | None:
    """Check a command line before Hydra runs it: an exit code to stop with, or None to let Hydra run it.

    Of a sweep the first job is checked, and each other choice in its place; the jobs again when they start.
    """
    try:
        settings, whole = check_jobs(command)
        if settings is not None and settings.dry_run and not command.sweeping:  # of the only job
            from lume_run.pipeline.dry_run import show_plan
            from lume_run.sweeps.names import hydra_folder

            show_plan(settings, hydra_folder(whole, sweeping=False))
            return 0
    except ProblemsError as error:
        print_error(error)
        return 2
    return None


def check_jobs(command: CommandLine) -> tuple[Settings | None, Any]:
    """Settings of the last job, and its config with Hydra's node.

    Raises ConfigError with all that is wrong with any job.
    """
    # Of very long lists of choices the first ones; whatever is wrong with a later one fails that job.
    every = [sweep_choices(override) if command.sweeping else [override] for override in command.overrides]
    choices = [values[:MOST_CHECKED] for values in every]
    jobs = list(jobs_to_check([values for values in choices if values]))
    problems: list[Problem] = [*shadow_problems(command.folders), *choice_problems(command.overrides, command.folders)]
    sound = list(chain.from_iterable(choices))
    composed = [whole_config(job, command.folders) for job in jobs]
    if any(config is None for config in composed):
        more, sound = override_problems(sound, command.folders)
        problems += more
    settings, whole = None, None
    for job, whole in zip(jobs, composed, strict=True):
        given = [override for override in job if override in sound]
        whole = whole if len(given) == len(job) and whole is not None else compose(given, command.folders, whole=True)
        settings, seen = check_job(whole, given, command.folders, sweeping=command.sweeping, briefly=bool(problems))
        problems += [problem for problem in seen if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return settings, whole


def whole_config(overrides: Sequence[str], folders: Sequence[Path]) -> Any:
    """The config with Hydra's node; None where Hydra does not take these overrides together."""
    try:
        config, error = try_composing(overrides, folders, whole=True)
    except ProblemsError:  # of a file
        return None
    return None if error else config


def check_job(
    whole: Any, overrides: Sequence[str], folders: Sequence[Path], *, sweeping: bool = False, briefly: bool = False
) -> tuple[Settings | None, Sequence[Problem]]:
    """Settings of a job by its config with Hydra's node, None where it has problems; `briefly` as of `check_config`.

    Nothing that it may not import is imported.
    """
    from omegaconf import OmegaConf

    from lume_run.config.hydra_node import hydra_node_problems
    from lume_run.config.permissions import missing_permissions
    from lume_run.pipeline.checks.config import check_config
    from lume_run.sweeps.names import place_problems

    problems = [*hydra_node_problems(whole, overrides, folders)]
    config = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
    problems += missing_permissions(config, overrides)
    if problems:
        return None, problems
    settings, problems, _ = check_config(config, briefly=briefly)
    if settings is not None:
        problems += place_problems(whole, sweeping=sweeping)
    return None if problems else settings, problems


def jobs_to_check(choices: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The first job of a sweep, and each other choice in its place."""
    first = [values[0] for values in choices]
    yield first
    for place, values in enumerate(choices):
        for other in values[1:]:
            yield [*first[:place], other, *first[place + 1 :]]


def name_sweep(overrides: Sequence[str]) -> None:
    """Write into the environment, which all launchers pass on, which sweep a job belongs to and what is swept."""
    from lume_run.common.files import content_hash
    from lume_run.tracking.start import SWEEP_VARIABLE, SWEPT_VARIABLE

    overrides = [override for override in overrides if not override.lstrip("+~").startswith("hydra")]
    swept = [override.partition("=")[0] for override in overrides if len(sweep_choices(override)) != 1]
    os.environ[SWEEP_VARIABLE] = "sweep-" + content_hash(sorted(overrides))[:8]
    os.environ[SWEPT_VARIABLE] = ",".join(swept)


def main() -> None:
    """Entry point of the `lume-run` command."""
    try:
        with explain_start():
            _main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `lume-run --cfg job | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def compare_main() -> None:
    """Entry point of the `lume-run-compare` command: a sweep that compares methods."""
    if set(HELP_FLAGS) & set(sys.argv[1:]):
        print((conf_dir() / "hydra" / "sweeper" / "compare.yaml").read_text(encoding="utf-8"), end="")
        return
    if given := next((word for word in sys.argv[1:] if word.lstrip("+~").startswith("hydra/sweeper")), ""):
        what, remedy = "lume-run-compare has a sweeper of its own", f"lume-run -m {given}"
        print_error(ConfigError([Problem(where=given, what=what, remedy=remedy)]))
        raise SystemExit(2)
    sys.argv[1:1] = ["-m", "hydra/sweeper=compare"]
    main()


def _main() -> None:
    arguments = sys.argv[1:]
    if set(HELP_FLAGS) & set(arguments):
        print_help(arguments)
        return
    if "--version" in arguments:
        print(f"lume-run {__version__}")
        return
    from lume_run.common.console import set_library_defaults

    set_library_defaults()
    arguments = ["dry_run=true" if argument == "--dry-run" else argument for argument in arguments]
    import hydra

    from lume_run.config.hydra_source import check_files, list_families, remember_choices
    from lume_run.sweeps.job import exit_codes, run_job
    from lume_run.sweeps.plugins import prefer_own_launchers, register

    try:
        command = read_command(arguments)
    except ProblemsError as error:
        print_error(error)
        raise SystemExit(2) from None
    if command.needs_plugins:
        register()
    prefer_own_launchers()
    list_families()
    check_files()
    remember_choices()
    if not command.asks_hydra:
        code = check_command(command)
        if code is not None:
            raise SystemExit(code)
    if command.sweeping:
        name_sweep(command.overrides)
    sys.argv[1:] = command.arguments
    hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(run_job)()
    if exit_codes and exit_codes[-1]:
        raise SystemExit(exit_codes[-1])


if __name__ == "__main__":
    main()
