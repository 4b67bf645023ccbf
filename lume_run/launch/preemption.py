"""Being asked to stop: SIGTERM and SIGUSR2 (SLURM's warnings) end a stage after its next step, with a checkpoint.

Processes that share a stage may be told through a file as well, which the one that started them writes: signals do
not reach other nodes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lume_run.common.errors import RunError

REQUEUE = 75  # exit code of a run that wants to be started again: EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
STOP_FILE_VARIABLE = "LUME_RUN_STOP_FILE"  # environment variable with the path of the file

_received_signals: list[int] = []  # signals that came, since a handler can do little more than write down


class Preempted(RunError):
    """The run stopped because it was told to, with everything written down; the same command goes on."""


def stop_requested() -> bool:
    """Whether this process was told to stop."""
    file = os.environ.get(STOP_FILE_VARIABLE)
    return bool(_received_signals) or (file is not None and Path(file).exists())


def stop_if_requested(what: str) -> None:
    """Raise Preempted, saying what was under way, where the process was told to stop."""
    if stop_requested():
        raise Preempted(f"Told to stop while {what}; what was done is kept, and the same command goes on from here.")


def _record_signal(number: int, _frame: FrameType | None) -> None:
    _received_signals.append(number)


def install_signal_handlers() -> None:
    """Write signals down instead of dying of them, as long as this process lives; also those that came before."""
    for number in SIGNALS:
        signal.signal(number, _record_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a rank's start blocks them


@contextmanager
def signal_handlers() -> Iterator[None]:
    """Write signals down instead of dying of them."""
    before = {number: signal.signal(number, _record_signal) for number in SIGNALS}
    try:
        yield
    finally:
        _received_signals.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
