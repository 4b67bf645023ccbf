"""One bad input, and the verdict on what the command did with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

Prepare = Callable[[Path], object]
MARK = "CODE_RAN"  # a file of this name in the folder of a case: code that came with its files ran
CPU_SECONDS = 3.0  # for a refusal, on an idle machine
TRACEBACK = re.compile(r"Traceback \(most recent call last\)|Set the environment variable HYDRA_FULL_ERROR")


class Verdict(StrEnum):
    """What became of a bad input; all but the first are faults."""

    REFUSED = "refused"
    TRACEBACK = "traceback"
    ACCEPTED = "accepted in silence"
    UNCLEAR = "refused without culprit or remedy"
    CODE = "wrong exit code"
    HANG = "hang"
    RAN = "foreign code ran"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command, what to put into its empty working directory first, and what its refusal must name."""

    name: str
    arguments: Sequence[str]  # `{model}`, `{run}` stand for the folders of a tiny model and of a finished run
    names: Sequence[str] = ()  # the culprit, as the message must have it
    prepare: Prepare | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: str = ""  # lines that start the command, "$@", in surroundings of their own
    program: Literal["run", "compare", "report", "publish", "repeat"] = "run"
    code: int = 2
    needs_model: bool = False  # or data of some size: no bound on the time
    accepted: bool = False  # it looks bad but must work: exit code 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int | None  # None: it was killed as it did not end
    output: str
    seconds: float  # of processor time, with that of its children
    foreign_code: bool = False


def judge(case: Case, outcome: Outcome, bound: float | None = CPU_SECONDS) -> Verdict:
    """The verdict; `bound` is the longest time that a refusal may take, None for any."""
    if outcome.foreign_code:
        return Verdict.RAN
    if outcome.code is None:
        return Verdict.HANG
    if TRACEBACK.search(outcome.output):
        return Verdict.TRACEBACK
    if case.accepted:
        return Verdict.REFUSED if outcome.code == 0 else Verdict.CODE
    if outcome.code == 0:
        return Verdict.ACCEPTED
    if outcome.code != case.code:
        return Verdict.CODE
    text = " ".join(outcome.output.split())
    if not all(name in text for name in case.names) or not (
        "->" in text or "usage" in text or "  - " in outcome.output
    ):
        return Verdict.UNCLEAR
    if bound is not None and not case.needs_model and outcome.seconds > bound:
        return Verdict.SLOW
    return Verdict.REFUSED
