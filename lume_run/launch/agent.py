"""Starts the ranks of one node by torchrun, and ends all of them when the driver ends.

Standard input is a pipe whose other end the driver holds; the ranks inherit it, and srun passes it on to other nodes.
It closes when the driver ends, `kill -9` included, and every process ends with it: none is left that could write
beside the ranks of the next start.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from lume_run.common.store import RANKS_LOCK
from lume_run.launch.lifeline import end_when_closed
from lume_run.launch.preemption import SIGNALS, STOP_FILE_VARIABLE

ERRORS = "errors"  # in the run folder: the errors of ranks
CONNECTION_HINT = "Nodes must reach each other on all ports; launch.port=... names the one they meet at."
KILLED_HINT = ": from outside, or by the system for want of memory. The same command resumes from what was finished."
GRACE_SECONDS = 3  # for the ranks left when one failed: they wait for it and can write no checkpoint any more
TORCHRUN_OPTIONS = ("--signals-to-handle=SIGINT,SIGHUP,SIGQUIT", f"--shutdown-timeout={GRACE_SECONDS}")
STDIN = 0


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun with these arguments; 0 when all ranks ended well. Ranks write down themselves what failed."""
    forward_signals()
    end_when_closed(STDIN)
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    given = sys.argv[1:] if arguments is None else arguments
    try:
        run(parse_args([*TORCHRUN_OPTIONS, *given]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        first = min(failure.timestamp for failure in error.failures.values())
        # Later failures are torchrun ending the other ranks. These times are exact because ranks write no error file.
        early = {rank: failure for rank, failure in error.failures.items() if failure.timestamp < first + GRACE_SECONDS}
        report_killed_ranks({rank: failure.exitcode for rank, failure in early.items()})
        return 1
    except DistError as error:
        node = os.environ.get("SLURMD_NODENAME", "This machine")
        report_rank_error(f"apart-{node}", f"{node} cannot meet the other nodes: {error}\n{CONNECTION_HINT}")
        return 1
    return 0


def forward_signals() -> None:
    """Pass SIGTERM and SIGUSR2 on through the stop file, which all ranks look at.

    torchrun would end the ranks half a minute after a signal. Signals are blocked here and in the ranks, which inherit
    that, until a rank has its handlers: none is lost.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def touch_stop_file() -> None:
        while True:
            signal.sigwait(SIGNALS)
            Path(os.environ[STOP_FILE_VARIABLE]).touch()

    threading.Thread(target=touch_stop_file, daemon=True).start()


def report_killed_ranks(codes: Mapping[int, int]) -> None:
    """Report ranks that a signal killed, by their exit codes: they cannot do so, and others blame the connection."""
    for rank, code in codes.items():
        if code < 0 and -code != signal.SIGTERM:  # torchrun sends SIGTERM to the ranks left when one failed
            report_rank_error(f"killed-{rank}", f"Rank {rank} was killed by {signal.Signals(-code).name}{KILLED_HINT}")


def report_rank_error(name: str, message: str) -> None:
    """Write an error that users should read into the run folder."""
    write_rank_error(Path(os.environ[STOP_FILE_VARIABLE]).parent, name, f"LumeError\n{message}")


def write_rank_error(folder: Path, name: str, text: str) -> None:
    """Write an error into a run folder, where the driver reads it: a traceback, or `LumeError` and a message."""
    (folder / ERRORS).mkdir(exist_ok=True)
    (folder / ERRORS / f"{name}.txt").write_text(text, encoding="utf-8")


def join_ranks(folder: Path) -> None:
    """Count as a rank that writes to `folder` as long as this process lives, and end with the driver.

    First the lock, then a look at the driver: either the next start sees the lock, or this process sees that its
    driver has ended.
    """
    fcntl.flock(os.open(folder / RANKS_LOCK, os.O_RDWR | os.O_CREAT), fcntl.LOCK_SH)
    end_when_closed(STDIN)


if __name__ == "__main__":
    sys.exit(main())
