"""The process beside a run that hands its numbers on: `python -m lume_run.tracking.sender HOME`.

A process of its own, so that nothing of W&B or TensorBoard reaches the run: no network that hangs, no crash of their
services, no exit hook, no second of importing. HOME holds `start.json`, what the driver knew at the start, and in the
end `closing.json`. Standard input is one JSON object a line, a series to follow, and ends when the driver does, kill -9
included; standard output is what the driver is to print.

Rows of all series of a run have one numbering, their place: the last steps of the series before, and the row's own
step. A run that resumes therefore sends what lies behind the last place that arrived, and nothing twice.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lume_run.common.files import LIVE, write_json
from lume_run.tracking.backends import Recipient, TensorBoard, WeightsAndBiases, error_line
from lume_run.tracking.messages import CLOSING, SENT, START, message_driver, parse_object

HISTORY_FILE = "history.json"  # in an artifact's folder, once it is trained
SERIES_POLL_SECONDS = 0.5
SETTLE_SECONDS = 2.0  # longer than W&B's service keeps back what it writes to its file
EPOCH = "epoch"  # the library counts the whole schedule as one


@dataclass
class Series:
    """The rows of one training stage, read while another process writes them.

    `done`: the artifact was there at the start. Steps that a killed process trained and the next one trains again come
    once.
    """

    name: str
    partial: Path
    path: Path
    done: bool
    last: int = 0  # newest step
    read: int = 0  # bytes

    def rows(self, *, whole: bool = False) -> Iterator[dict[str, Any]]:
        """What is new; `whole` where the artifact is finished, or never will be."""
        folder = self.path if self.done or (whole and not self.partial.exists()) else self.partial
        for entry in self._entries(folder):
            step = int(entry.get("step", 0))
            if step > self.last:
                self.last = step
                yield entry

    def _entries(self, folder: Path) -> Iterator[dict[str, Any]]:
        try:
            with (folder / LIVE).open("rb") as file:
                file.seek(self.read)
                for line in file.read().splitlines(keepends=True):
                    if not line.endswith(b"\n"):  # being written
                        break
                    self.read += len(line)
                    entry = parse_object(line)
                    if "step" in entry:
                        yield entry
        except FileNotFoundError:
            if self.done and (folder / HISTORY_FILE).exists():  # from before there were live rows
                yield from json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))


def queue_messages(messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Put what the driver says into the queue, and None at its end."""
    for line in sys.stdin.buffer:
        messages.put(parse_object(line))
    messages.put(None)


def send_rows(recipient: Recipient, messages: queue.SimpleQueue[dict[str, Any] | None]) -> int:
    """Send the rows of one series after the other, until the driver closes or is gone; the next free place."""
    series: Series | None = None
    offset = 0

    def send(*, whole: bool = False) -> None:
        if series is not None:
            for entry in series.rows(whole=whole):
                values = {name: value for name, value in entry.items() if name != EPOCH}
                recipient.log_row(series.name, values, offset + series.last)

    while True:
        try:
            message = messages.get(timeout=SERIES_POLL_SECONDS)
        except queue.Empty:
            send()
            continue
        send(whole=True)
        if message is None or "series" not in message:
            return offset + (series.last if series else 0)
        offset += series.last if series else 0
        partial, path = Path(message["partial"]), Path(message["path"])
        series = Series(name=message["series"], partial=partial, path=path, done=message["done"])
        recipient.begin_series(series.name)


def send_curves(recipient: Recipient, curves: Mapping[str, Sequence[Mapping[str, Any]]], place: int) -> int:
    """Send the curves that are known in the end alone, row after row; the last place taken."""
    for series, rows in curves.items():
        recipient.begin_series(series)
        for row in rows:
            place += 1
            recipient.log_row(series, row, place)
    return place


def main(home: Path) -> None:
    """Take over from the driver."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # the driver hears them, and its end is ours
        signal.signal(number, signal.SIG_IGN)
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=queue_messages, args=(messages,), daemon=True).start()
    start = json.loads((home / START).read_text(encoding="utf-8"))
    with FileLock(home / "lock"):  # that of a killed driver may still be writing
        deliver(start, home, messages)


def deliver(start: Mapping[str, Any], home: Path, messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """One run, from its beginning to its end or the driver's; an error is one line."""
    recipient: Recipient | None = None
    try:
        recipient = (WeightsAndBiases if start["logger"] == "wandb" else TensorBoard)(start, home)
        message_driver(where=recipient.where, online=recipient.online, sync=recipient.sync)
        place = send_rows(recipient, messages)
        path = home / CLOSING
        killed: dict[str, Any] = {"error": "the run was killed"}
        closing = json.loads(path.read_text(encoding="utf-8")) if path.exists() else killed
        trouble = recipient.close(closing, send_curves(recipient, closing.get("curves", {}), place))
        if trouble:
            message_driver(warning=f"{start['title']} did not take everything ({trouble}); the rest: {recipient.sync}")
            time.sleep(SETTLE_SECONDS)
            os._exit(0)  # exit hooks would wait for the network once more
        elif "error" not in closing:
            where = {"where": recipient.where, "sync": recipient.sync, "online": recipient.online}
            path.unlink()
            write_json(home / SENT, {"id": start["init"]["id"], "report": closing["report"], **where})
    except Exception as error:
        rest = f"; what was written: {recipient.sync}" if recipient is not None and recipient.sync else ""
        message_driver(warning=f"{start['title']} stopped: {error_line(error)}{rest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
