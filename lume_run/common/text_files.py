"""UTF-8 text files: regular files only, and a byte that is not UTF-8 becomes a problem that names its line."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from lume_run.common.errors import DataError, Problem

MARKS = {  # with which a file of another kind begins: what it is, what to do
    b"\xff\xfe\x00\x00": ("is UTF-32, not UTF-8", "iconv -f UTF-32 -t UTF-8 {path} > NEW_FILE"),
    b"\xff\xfe": ("is UTF-16, not UTF-8", "iconv -f UTF-16 -t UTF-8 {path} > NEW_FILE"),
    b"\xfe\xff": ("is UTF-16, not UTF-8", "iconv -f UTF-16 -t UTF-8 {path} > NEW_FILE"),
    b"\x1f\x8b": ("is compressed by gzip", "gunzip it"),
    b"\x28\xb5\x2f\xfd": ("is compressed by zstd", "zstd -d it"),
    b"\xfd7zXZ": ("is compressed by xz", "unxz it"),
    b"BZh": ("is compressed by bzip2", "bunzip2 it"),
    b"PK\x03\x04": ("is a zip archive, or a spreadsheet", "unzip it, or export the sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("is a document of an office program", "export it as CSV, or as text"),
    b"PAR1": ("is a parquet file", "call it .parquet"),
    b"%PDF": ("is a PDF", "export its text"),
}
PLAIN_TEXT_BYTES = 2**28  # of a file that is read for its first words
ZERO = "holds a zero byte, as UTF-16 without its mark and binary files do"
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
        if problem := _kind_problem(path, content):
            raise DataError([problem])
        return content.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError([_not_utf8(path, line, error)]) from error


def utf8_lines(path: Path) -> Iterator[tuple[int, str | Problem]]:
    """(line number, text or Problem) of every non-blank line: a Problem for the first line that is not UTF-8, which
    says how many there are.

    Split at newlines of any system, and only there: `str.splitlines` would also cut at U+2028, which is inside some
    released rows. What is no file, or of another kind, is one problem.
    """
    if fault := file_fault(path):
        yield 1, Problem(where=str(path), what=fault, remedy="give a file of JSON lines")
        return
    content = path.read_bytes()
    if problem := _kind_problem(path, content):
        yield 1, problem
        return
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = content.split(b"\n")
    is_named = False
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if not is_named:
                undecodable = sum(not _is_utf8(later) for later in lines[number - 1 :])
                yield number, _not_utf8(path, number, error, lines=undecodable)
            is_named = True
        else:
            if text.strip():
                yield number, text


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _kind_problem(path: Path, content: bytes) -> Problem | None:
    """What is wrong where the bytes of a file are no text in UTF-8, as its beginning or a zero byte says."""
    for mark, (what, remedy) in MARKS.items():
        if content.startswith(mark):
            return Problem(where=str(path), what=what, remedy=remedy.format(path=path))
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        return Problem(where=f"{path}:{line}", what=ZERO, remedy="save the file as UTF-8")
    return None


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError, *, lines: int = 1) -> Problem:
    byte = error.start - error.object.rfind(b"\n", 0, error.start)  # counted from 1 in its line
    what = f"byte {byte} of the line, 0x{error.object[error.start]:02x}, is not UTF-8"
    what += f" (nor are {lines - 1} lines behind it)" if lines > 1 else ""
    return Problem(where=f"{path}:{line}", what=what, remedy="save the file as UTF-8")
