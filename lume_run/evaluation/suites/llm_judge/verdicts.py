"""Verdicts by a language model, each written down as soon as it is there, so that nothing is asked twice.

A folder of the store for each judge and version of the prompt has `verdicts.jsonl`, a line a verdict, named by the hash
of what was asked. A killed evaluation goes on behind the last line; other runs read the same file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from lume_run.common.console import Progress
from lume_run.common.files import content_hash
from lume_run.evaluation.suites.llm_judge.endpoint import NoVerdict
from lume_run.evaluation.suites.llm_judge.prompts import messages, verdict_in

VERDICTS_FILE = "verdicts.jsonl"
SHOWN = 80  # characters of a reply that is no verdict
Asked = tuple[str, str, str]  # question, reference, answer


class Replies(Protocol):
    """What answers a chat; NoVerdict where it does not."""

    def reply(self, messages: Sequence[dict[str, str]]) -> str:
        """The words."""
        ...


def read_verdicts(file: Path) -> dict[str, str]:
    """Verdicts by the hash of what was asked; a torn last line and what is no verdict are left out."""
    verdicts: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else ():
        try:
            record = json.loads(line)
            key, label = record["asked"], record["label"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if label in ("yes", "no") and isinstance(key, str):
            verdicts[key] = label
    return verdicts


def verdicts_on(
    asked: Sequence[Asked], judge: Replies, *, name: str, version: int, folder: Path
) -> list[dict[str, Any]]:
    """`label` (yes, no) or the `reason` for none, of each; those in the store are not asked again.

    After a judge that is unavailable no further one is tried.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / VERDICTS_FILE
    keys = [content_hash([version, *texts]) for texts in asked]
    reasons: dict[str, str] = {}
    with FileLock(f"{file}.lock"):
        known = read_verdicts(file)
        due = {key: texts for key, texts in zip(keys, asked, strict=True) if key not in known}
        if not due:
            return [{"label": known[key]} for key in keys]
        with Progress(f"answers judged by {name}", len(due), unit="answer") as bar:
            for key, texts in due.items():
                try:
                    reply = judge.reply(messages(version, *texts))
                except NoVerdict as error:
                    reasons |= {left: str(error) for left in due if left not in known}
                    break
                label = verdict_in(reply)
                if label is None:
                    reasons[key] = f"the judge said neither YES nor NO: {reply.strip()[:SHOWN]!r}"
                else:
                    known[key] = label
                    append_line(file, {"asked": key, "label": label, "judge": name})
                bar.advance()
    return [{"label": known[key]} if key in known else {"reason": reasons[key]} for key in keys]


def append_line(file: Path, record: dict[str, str]) -> None:
    """Write a line behind the last whole one."""
    torn = file.is_file() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a", encoding="utf-8") as lines:
        lines.write(("\n" if torn else "") + json.dumps(record) + "\n")
