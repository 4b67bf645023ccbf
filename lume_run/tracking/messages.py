"""What a run and the process beside it exchange: JSON files in the logger's folder, lines of JSON over their pipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

START, CLOSING, SENT = "start.json", "closing.json", "sent.json"  # in the logger's folder


def parse_object(line: str | bytes) -> dict[str, Any]:
    """The JSON object in a line; an empty one where there is none."""
    try:
        data = json.loads(line)
    except ValueError:  # cut off by a kill
        return {}
    return data if isinstance(data, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none."""
    return parse_object(path.read_text(encoding="utf-8")) if path.exists() else {}


def message_driver(**fields: Any) -> None:
    """Have the driver print a warning (`warning`) or where the run is shown (`where`, `online`, `sync`)."""
    print(json.dumps(fields), flush=True)
