"""What is printed cannot steer the terminal that shows it."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from lume_run.common.console import PlainConsole

HOSTILE = "name\x1b[2J\x1b]0;title\x07\x9b31m\r\x08end"


def printed(thing: object) -> str:
    file = io.StringIO()
    PlainConsole(file=file, width=200, force_terminal=False).print(thing)
    return file.getvalue()


def table() -> Table:
    cells = Table("head\x1b[0m")
    cells.add_row(HOSTILE)
    return cells


@pytest.mark.parametrize("thing", [HOSTILE, f"[bold]{HOSTILE}[/]", table()], ids=["text", "markup", "table"])
def test_control_characters_are_shown_and_not_obeyed(thing):
    text = printed(thing)
    assert "name" in text and "end" in text and "\ufffd" in text
    assert not [letter for letter in text if (ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160]


def test_lines_and_tabs_stay():
    assert printed("a\tb\nc").split() == ["a", "b", "c"]
