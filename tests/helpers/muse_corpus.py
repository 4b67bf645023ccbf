"""A small corpus in MUSE's layout."""

from __future__ import annotations

import json
from pathlib import Path


def qa(name: str, count: int = 3) -> list[dict]:
    return [{"question": f"{name} {number}?", "answer": f"{name}, {number}."} for number in range(count)]


def arrays(**files: object) -> dict[str, object]:
    """A small corpus by path below `news/`, `__` for `/`."""
    rows: dict[str, object] = {
        "knowmem__forget_qa": qa("forget"),
        "knowmem__forget_qa_icl": qa("before forget", 2),
        "knowmem__retain2_qa": qa("retain"),
        "knowmem__retain2_qa_icl": qa("before retain", 2),
        "verbmem__forget": [{"prompt": "It went", "gt": "on."}, {"prompt": "It ended.\n", "gt": "Then"}],
        "privleak__forget": ["seen one", "seen two"],
        "privleak__holdout": ["unseen one", "unseen two", "unseen three"],
    }
    return rows | files


def write(folder: Path, **files: object) -> Path:
    for name, array in arrays(**files).items():
        path = folder / "news" / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(array if isinstance(array, str) else json.dumps(array), encoding="utf-8")
    return folder
