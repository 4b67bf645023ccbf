"""Plain text for perplexity, cut into pieces of whole paragraphs, and reading text files at all.

A piece is a stretch of the file as it stands, inner white space included, so that what is scored is what was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.common.text_files import read_utf8

BREAK = "<|endoftext|>"  # on a line of its own it ends a document, as in the released TinyStories files


def load_texts(path: Path, *, words: int, limit: int | None = None) -> list[Example]:
    """The first `limit` pieces of a text file (None: all) as DOCUMENT examples; errors as `read_text`."""
    found = [
        Example(
            id=f"text-{number}",
            raw_id=str(number),
            document=f"text-{number}",
            split=Split.TEXT,
            subtask="text",
            kind=Kind.DOCUMENT,
            prompt="",
            answer=piece,
        )
        for number, piece in enumerate(pieces(read_text(path), words))
    ]
    if not found:
        raise DataError([Problem(where=str(path), what="holds no text between its breaks", remedy="give another file")])
    return found[:limit]


def read_text(path: Path, *, remedy: str = "check the path") -> str:
    """The text of a UTF-8 file; DataError where it is absent, unreadable, blank, or not UTF-8 (naming the line)."""
    require_file(path, remedy=remedy)
    text = read_utf8(path, remedy=remedy)
    if not text.strip():
        raise DataError([Problem(where=str(path), what="the file has no text", remedy="give another file")])
    return text.replace("\r\n", "\n")


def require_file(path: Path, *, remedy: str = "check the path") -> None:
    """DataError where there is no such file."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "the file does not exist"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)])


def pieces(text: str, words: int) -> Iterator[str]:
    """Stretches of at most `words` white-space separated words: whole lines, or parts of a line that alone has more.

    Lines are gathered as long as they fit; none is gathered across a document's end.
    """
    held: list[str] = []
    for line in [*text.split("\n"), BREAK]:
        ends = line.strip() == BREAK
        size = len(line.split())
        if held and (ends or size + sum(len(own.split()) for own in held) > words):
            if piece := "\n".join(held).strip():
                yield piece
            held = []
        if size > words:
            yield from parts(line, words)
        elif not ends:
            held.append(line)


def parts(line: str, words: int) -> Iterator[str]:
    """A long line in as few parts of at most `words` words as will do, of as equal length as can be."""
    places = list(re.finditer(r"\S+", line))
    count = -(-len(places) // words)
    for number in range(count):
        own = places[len(places) * number // count : len(places) * (number + 1) // count]
        yield line[own[0].start() : own[-1].end()]
