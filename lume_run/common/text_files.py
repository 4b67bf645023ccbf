"""UTF-8 text files: regular files only, and a byte that is not UTF-8 becomes a problem that names its line."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from lume_run.common.errors import DataError, Problem

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
KINDS = {  # of what may stand where a file is expected; to open some of them would wait for ever
    stat.S_IFDIR: "is a folder, not a file",
    stat.S_IFIFO: "is a named pipe, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
}


def file_fault(path: Path, *, limit: int | None = None) -> str:
    """Why a path is no regular file, or one of more than `limit` bytes; empty where it is fine."""
    try:
        status = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if fault := KINDS.get(stat.S_IFMT(status.st_mode)):
        return fault
    if limit is not None and status.st_size > limit:
        return f"has {status.st_size:,} bytes, more than the {limit:,} that are read"
    return ""


def read_utf8(path: Path, *, remedy: str, limit: int | None = None) -> str:
    """The text of a file without its byte order mark; DataError where it cannot be read or is not UTF-8.

    `remedy` says what to do about a file that cannot be read; one of more than `limit` bytes is not.
    """
    if fault := file_fault(path, limit=limit):
        raise DataError([Problem(where=str(path), what=fault, remedy=remedy)])
    try:
        content = path.read_bytes()
        if content[:2] in UTF16_MARKS:
            raise DataError([_utf16(path)])
        return content.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError([_not_utf8(path, line, error)]) from error


def utf8_lines(path: Path) -> Iterator[tuple[int, str | Problem]]:
    """(line number, text or Problem) of every non-blank line: a Problem for each line that is not UTF-8.

    Split at newlines of any system, and only there: `str.splitlines` would also cut at U+2028, which is inside some
    released rows. What is no file, or is UTF-16, is one problem.
    """
    if fault := file_fault(path):
        yield 1, Problem(where=str(path), what=fault, remedy="give a file of JSON lines")
        return
    content = path.read_bytes()
    if content[:2] in UTF16_MARKS:
        yield 1, _utf16(path)
        return
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield number, _not_utf8(path, number, error)
        else:
            if text.strip():
                yield number, text


def _utf16(path: Path) -> Problem:
    return Problem(where=str(path), what="is UTF-16, not UTF-8", remedy=f"iconv -f UTF-16 -t UTF-8 {path} > NEW_FILE")


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> Problem:
    byte = error.start - error.object.rfind(b"\n", 0, error.start)  # counted from 1 in its line
    what = f"byte {byte} of the line, 0x{error.object[error.start]:02x}, is not UTF-8"
    return Problem(where=f"{path}:{line}", what=what, remedy="save the file as UTF-8")
