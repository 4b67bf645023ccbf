"""Errors a user can act on; everything else is a bug and keeps its traceback.

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


class LumeError(Exception):
    """Base of every error that the command line prints without a traceback, and ends with this exit code."""

    exit_code = 1


class RunError(LumeError):
    """A stage could not finish: a diverged loss, an unreachable hub, a missing artifact."""


class InputError(RunError):
    """What a command was given cannot be used, which showed where it was read: a mistake, as problems are."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: `where` is a config path or `file:line`, `remedy` what to do."""

    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n      -> {self.remedy}" if self.remedy else "")


class ProblemsError(LumeError, ValueError):
    """Several problems, reported together."""

    headline = "Problems"
    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1))
        super().__init__(f"{self.headline} ({len(self.problems)}):\n{lines}")


class ConfigError(ProblemsError):
    """The configuration cannot be run; `where` is a config path such as `trainer.unlearn.learning_rate`."""

    headline = "The configuration has problems"


class DataError(ProblemsError):
    """A data file cannot be used; `where` is `file:line`."""

    headline = "The data has problems"


@contextmanager
def explain_start() -> Iterator[None]:
    """Exit code 2 with a word where nothing can begin: no working directory, no docstrings, no libraries."""
    try:
        Path.cwd()
    except OSError:
        _end("the working directory is gone", "cd to a folder that is there")
    if sys.flags.optimize > 1:
        _end("Python runs without docstrings, and transformers reads its own", "unset PYTHONOPTIMIZE, no -OO")
    try:
        yield
    except Exception as error:
        if not is_of_loading(error):
            raise
        _end(*loading_failure(error))


def is_of_loading(error: Exception) -> bool:
    """Whether an error is one of a library that could not be loaded, for want of memory or of its files."""
    if isinstance(error, OSError):
        return "shared object" in str(error)
    ours = isinstance(error, ImportError) and (error.name or "").startswith("lume_run")  # a bug
    return isinstance(error, (ImportError, MemoryError, SystemError)) and not ours


def loading_failure(error: Exception) -> tuple[str, str]:
    """(what is wrong, what to do) where a library could not be loaded."""
    what = f"a library could not be loaded ({type(error).__name__}: {error})"
    return what, "more memory (ulimit -v, the limit of the container), or install lume-run and its packages again"


def _end(what: str, remedy: str) -> NoReturn:
    print(f"error: {what}\n  -> {remedy}", file=sys.stderr, flush=True)
    raise SystemExit(2)
