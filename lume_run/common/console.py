"""What users see while they wait: the console, progress bars, and quiet libraries."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def set_library_defaults() -> None:
    """Variables that keep libraries quiet and their threads from spinning, where the user has not set them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin make busy cores many times slower
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    level = os.environ.pop("LOGLEVEL", "").upper()  # torch's launcher ends with a traceback at one it does not know
    if level in logging.getLevelNamesMapping():
        os.environ["LOGLEVEL"] = level


def is_later_rank() -> bool:
    """Whether the environment says that this process is one of several, and not the first."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return rank.isdecimal() and size.isdecimal() and 0 < int(rank) < int(size)


class PlainConsole(Console):
    """A console on which names, ids and error texts cannot move the cursor, change colours or set the title."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if getattr(self.file, "errors", "") == "strict" and hasattr(self.file, "reconfigure"):
            self.file.reconfigure(errors="replace")  # a stream of ASCII shows arrows as question marks

    def render_str(self, text: str, **options: Any) -> Text:
        """`text` with every control character but line breaks and tabs replaced by a visible one."""
        return super().render_str(text.translate(CONTROL), **options)

    def on_broken_pipe(self) -> None:
        """Be silent from here on: a run does not end because nobody reads what it prints (`2>&1 | head`)."""
        self.quiet = True
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Of the processes that share a stage only the first prints. Without emoji: `file.jsonl:100: ...` would show one.
console = PlainConsole(stderr=True, highlight=False, emoji=False, quiet=is_later_rank())
SECONDS_BETWEEN_LINES = 20.0  # progress in a log file, where a bar cannot be redrawn
LIBRARY_NOISE = {  # what libraries log on import on a machine without a GPU, by logger; all else they log is shown
    "DeepSpeed": "Setting accelerator to CPU",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "matplotlib.font_manager": "generated new fontManager",
}


def _is_no_noise(text: str, record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(text)


for _logger, _text in LIBRARY_NOISE.items():  # not by their levels, which the libraries set when they are imported
    logging.getLogger(_logger).addFilter(partial(_is_no_noise, _text))


class Progress:
    """A bar on a terminal, a line now and then in a log file; both with rate and time left."""

    def __init__(self, title: str, total: int, unit: str = "it") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.first = 0
        self.began = self.printed = time.monotonic()
        self.bar: RichProgress | None = None
        self.task: Any = None

    def start(self, done: int = 0) -> None:
        """Begin, or resume, at `done`."""
        self.done = self.first = done
        self.began = self.printed = time.monotonic()
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = RichProgress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, completed=done, note="")

    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.first) / max(1e-9, time.monotonic() - self.began)

    def advance(self, by: int = 1, *, to: int | None = None, note: str = "") -> None:
        """Count `by` more (or set the count), and show `note`."""
        self.done = self.done + by if to is None else to
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=f"{self.rate():.1f} {self.unit}/s  {note}")
        elif time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self._line(note)

    def stop(self) -> None:
        """Finish the bar."""
        if self.bar is not None:
            self.bar.stop()
        else:
            self._line("done" if self.done >= self.total else "stopped early")

    def _line(self, note: str) -> None:
        self.printed = time.monotonic()
        left = (self.total - self.done) / max(1e-9, self.rate())
        console.print(
            f"  {self.title}: {self.done}/{self.total} {self.unit}s, {self.rate():.1f}/s, "
            + (f"{left:.0f} s left  {note}" if note not in ("done", "stopped early") else note)
        )

    def __enter__(self) -> Progress:
        self.start(self.done)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
