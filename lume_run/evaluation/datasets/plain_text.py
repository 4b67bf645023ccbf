"""Plain text for perplexity, cut into pieces of whole paragraphs.

A piece is a stretch of the file as it stands, inner white space included, so that what is scored is what was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.evaluation.datasets.files import read_text

BREAK = "<|endoftext|>"  # on a line of its own it ends a document, as in the released TinyStories files


def load_texts(path: Path, *, words: int, limit: int | None = None) -> list[Example]:
    """The first `limit` pieces of a text file (None: all) as DOCUMENT examples; errors as `read_text`."""
    texts = [
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
    if not texts:
        raise DataError([Problem(where=str(path), what="holds no text between its breaks", remedy="give another file")])
    return texts[:limit]


def pieces(text: str, words: int) -> Iterator[str]:
    """Stretches of at most `words` white-space separated words: whole lines, or parts of a line that alone has more.

    Lines are gathered as long as they fit; none is gathered across a document's end.
    """
    held: list[str] = []
    for line in [*text.split("\n"), BREAK]:
        ends = line.strip() == BREAK
        size = len(line.split())
        if held and (ends or size + sum(len(other.split()) for other in held) > words):
            if piece := "\n".join(held).strip():
                yield piece
            held = []
        if size > words:
            yield from parts(line, words)
        elif not ends:
            held.append(line)


def parts(line: str, words: int) -> Iterator[str]:
    """A long line in as few parts of at most `words` words as will do, of as equal length as can be."""
    matches = list(re.finditer(r"\S+", line))
    count = -(-len(matches) // words)
    for number in range(count):
        part = matches[len(matches) * number // count : len(matches) * (number + 1) // count]
        yield line[part[0].start() : part[-1].end()]
