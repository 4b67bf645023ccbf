"""Starts the ranks of one node, by torchrun, and ties the lives of all of them to the driver's.

Standard input is a pipe whose other end the driver holds; the ranks inherit it, and srun passes it on to other nodes.
It ends when the driver does, kill -9 included, and no process outlives that: none would write beside the next start's.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from lume_run.common.store import RANKS
from lume_run.launch.preemption import SIGNALS, STOP_FILE_VARIABLE

ERRORS = "errors"  # in the run folder: what ranks failed with
CONNECTION_HINT = "Nodes must reach each other on all ports; launch.port=... names the one they meet at."
KILLED_HINT = ": from outside, or by the system for want of memory. The same command goes on from what was finished."
GRACE_SECONDS = 3  # for the ranks left when one failed: they wait for it and can write no checkpoint any more
TORCHRUN_OPTIONS = ("--signals-to-handle=SIGINT,SIGHUP,SIGQUIT", f"--shutdown-timeout={GRACE_SECONDS}")


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun with these arguments; 0 when all ranks ended well. What failed, ranks write down themselves."""
    forward_signals()
    follow_driver()
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    given = sys.argv[1:] if arguments is None else arguments
    try:
        run(parse_args([*TORCHRUN_OPTIONS, *given]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        first = min(failure.timestamp for failure in error.failures.values())
        # Later ones are torchrun's doing. With an error file the time would be in it; ours leave none.
        early = {rank: failure for rank, failure in error.failures.items() if failure.timestamp < first + GRACE_SECONDS}
        report_killed_ranks({rank: failure.exitcode for rank, failure in early.items()})
        return 1
    except DistError as error:
        node = os.environ.get("SLURMD_NODENAME", "This machine")
        report_rank_error(f"apart-{node}", f"{node} cannot meet the other nodes: {error}\n{CONNECTION_HINT}")
        return 1
    return 0


def forward_signals() -> None:
    """Pass a signal on through the file that all ranks look at; torchrun would give them half a minute to end.

    Signals are blocked, here and in the ranks that inherit it, until a rank is ready to hear them: none is lost.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def pass_on() -> None:
        while True:
            signal.sigwait(SIGNALS)
            Path(os.environ[STOP_FILE_VARIABLE]).touch()

    threading.Thread(target=pass_on, daemon=True).start()


def report_killed_ranks(codes: Mapping[int, int]) -> None:
    """Leave word of ranks that died of a signal, by their exit codes: they cannot, and others blame the connection."""
    for rank, code in codes.items():
        if code < 0 and -code != signal.SIGTERM:  # that one is ours, for who was left when another failed
            report_rank_error(f"killed-{rank}", f"Rank {rank} was killed by {signal.Signals(-code).name}{KILLED_HINT}")


def report_rank_error(name: str, told: str) -> None:
    """Leave what users should read."""
    write_rank_error(Path(os.environ[STOP_FILE_VARIABLE]).parent, name, f"LumeError\n{told}")


def write_rank_error(folder: Path, name: str, told: str) -> None:
    """Write an error into a run folder for the driver to tell: a traceback, or `LumeError` and what users read."""
    (folder / ERRORS).mkdir(exist_ok=True)
    (folder / ERRORS / f"{name}.txt").write_text(told, encoding="utf-8")


def follow_driver() -> None:
    """End this process when the driver ends, or now if it has."""
    if select.select([0], [], [], 0)[0]:
        os._exit(1)
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _end_with_driver() -> None:
    select.select([0], [], [])  # nothing is ever written: it can only end
    os._exit(1)


def join_ranks(folder: Path) -> None:
    """Be one of those that write to `folder`, for the life of this process.

    First the lock, then a look at the driver: whoever starts next sees the one, or this process the other.
    """
    fcntl.flock(os.open(folder / RANKS, os.O_RDWR | os.O_CREAT), fcntl.LOCK_SH)
    follow_driver()


if __name__ == "__main__":
    sys.exit(main())
