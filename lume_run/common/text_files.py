"""UTF-8 text files: a byte that is not UTF-8 becomes a problem that names its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lume_run.common.errors import DataError, Problem


def read_utf8(path: Path, *, remedy: str) -> str:
    """The text of a file without its byte order mark; DataError where it cannot be read or is not UTF-8.

    `remedy` says what to do about a file that cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError([_not_utf8(path, line, error)]) from error


def utf8_lines(path: Path) -> Iterator[tuple[int, str | Problem]]:
    """(line number, text or Problem) of every non-blank line: a Problem for each line that is not UTF-8.

    Split at newlines of any system, and only there: `str.splitlines` would also cut at U+2028, which is inside some
    released rows.
    """
    content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield number, _not_utf8(path, number, error)
        else:
            if text.strip():
                yield number, text


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> Problem:
    byte = error.start - error.object.rfind(b"\n", 0, error.start)  # counted from 1 in its line
    what = f"byte {byte} of the line, 0x{error.object[error.start]:02x}, is not UTF-8"
    return Problem(where=f"{path}:{line}", what=what, remedy="save the file as UTF-8")
