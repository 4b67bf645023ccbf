"""Errors a user can act on; everything else is a bug and keeps its traceback.

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LumeError(Exception):
    """Base of every error that the command line prints without a traceback."""


class RunError(LumeError):
    """A stage could not finish: a diverged loss, an unreachable hub, a missing artifact."""


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
