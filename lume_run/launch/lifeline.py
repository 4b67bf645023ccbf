"""Ends a process with the one that started it, however that ended: `kill -9` runs no handler, but closes its pipes."""

from __future__ import annotations

import os
import select
import threading


def end_when_closed(pipe: int) -> None:
    """End this process once the other end of a pipe is closed, or now if it is. Nothing is ever written to the pipe."""
    if select.select([pipe], [], [], 0)[0]:
        os._exit(1)
    threading.Thread(target=_wait_and_end, args=(pipe,), daemon=True).start()


def _wait_and_end(pipe: int) -> None:
    select.select([pipe], [], [])
    os._exit(1)
