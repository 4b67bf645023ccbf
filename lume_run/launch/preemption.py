"""Stopping early: SIGTERM and SIGUSR2 (SLURM's warnings) end a stage after its next step, with a checkpoint.

Processes that share a stage also look for a stop file, which the process that started them writes: signals do not
reach other nodes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lume_run.common.errors import RunError

REQUEUE = 75  # exit code of a run that is to be started again: EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
STOP_FILE_VARIABLE = "LUME_RUN_STOP_FILE"  # environment variable with the path of the stop file

_received_signals: list[int] = []  # a signal handler can do little more than append


class Preempted(RunError):
    """The run stopped on request, with everything written down; the same command resumes it."""


def stop_requested() -> bool:
    """Whether this process was asked to stop, by a signal or through the stop file."""
    file = os.environ.get(STOP_FILE_VARIABLE)
    return bool(_received_signals) or (file is not None and Path(file).exists())


def stop_if_requested(activity: str) -> None:
    """Raise Preempted, which names the activity under way, where this process was asked to stop."""
    if stop_requested():
        raise Preempted(f"Stopped while {activity}; what was done is kept, and the same command resumes from here.")


def _record_signal(number: int, _frame: FrameType | None) -> None:
    _received_signals.append(number)


def install_signal_handlers() -> None:
    """Record signals, also those that came before, instead of dying of them, as long as this process lives."""
    for number in SIGNALS:
        signal.signal(number, _record_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a rank's start blocks them


@contextmanager
def signal_handlers() -> Iterator[None]:
    """Record signals instead of dying of them."""
    before = {number: signal.signal(number, _record_signal) for number in SIGNALS}
    try:
        yield
    finally:
        _received_signals.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
