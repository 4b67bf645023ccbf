"""Stopping early: SIGTERM and SIGUSR2 (SLURM's warnings) end a training after its next step, with a checkpoint.

All else that a driver does ends at once: it resumes from what is written down, as after a kill. Processes that share a
stage also look for a stop file, which the process that started them writes: signals do not reach other nodes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lume_run.common.errors import RunError

REQUEUE = 75  # exit code of a run that is to be started again: EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
STOP_FILE_VARIABLE = "LUME_RUN_STOP_FILE"  # environment variable with the path of the stop file

STOPPED = "Stopped while {}; what was done is kept, and the same command resumes from here."
SECONDS_BETWEEN_LOOKS = 0.5  # at the stop file

_received_signals: list[int] = []  # a signal handler can do little more than append
_looking: list[bool] = []  # one entry for each `looks_itself` that is entered


class Preempted(RunError):
    """The run stopped on request, with everything written down; the same command resumes it."""


class _Interrupted(BaseException):
    """A signal came: like KeyboardInterrupt nothing that handles errors should take it for one."""


def stop_requested() -> bool:
    """Whether this process was asked to stop, by a signal or through the stop file."""
    file = os.environ.get(STOP_FILE_VARIABLE)
    return bool(_received_signals) or (file is not None and Path(file).exists())


def stop_if_requested(activity: str) -> None:
    """Raise Preempted, which names the activity under way, where this process was asked to stop."""
    if stop_requested():
        raise Preempted(STOPPED.format(activity))


def _record_signal(number: int, _frame: FrameType | None) -> None:
    _received_signals.append(number)


def install_signal_handlers() -> None:
    """Record signals, also those that came before, instead of dying of them, as long as this process lives."""
    for number in SIGNALS:
        signal.signal(number, _record_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a rank's start blocks them


@contextmanager
def looks_itself() -> Iterator[None]:
    """A stretch that looks at `stop_requested` at good moments: it is not interrupted at others."""
    _looking.append(True)
    try:
        yield
    finally:
        _looking.pop()


@contextmanager
def signal_handlers() -> Iterator[None]:
    """Raise Preempted where the process is when a signal comes, or a stop file; within `looks_itself` note it only."""
    before = {number: signal.signal(number, _raise_preempted) for number in SIGNALS}
    ended = threading.Event()
    if file := os.environ.get(STOP_FILE_VARIABLE):
        threading.Thread(target=_watch_stop_file, args=(Path(file), ended), daemon=True).start()
    try:
        yield
    except _Interrupted:
        raise Preempted(STOPPED.format("the run was under way")) from None
    finally:
        ended.set()
        _received_signals.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_preempted(number: int, _frame: FrameType | None) -> None:
    first = not _received_signals
    _received_signals.append(number)
    if first and not _looking:
        raise _Interrupted


def _watch_stop_file(file: Path, ended: threading.Event) -> None:
    """Turn a stop file into a signal."""
    while not ended.wait(SECONDS_BETWEEN_LOOKS):
        if file.exists():
            os.kill(os.getpid(), signal.SIGUSR2)
            return
