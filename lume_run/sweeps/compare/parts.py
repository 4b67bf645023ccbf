"""Whether trials of a comparison are scored on documents that are not reported, and how many there are of each kind.

The documents of a data set are the same for every seed: what is tuned on them is tuned on what is reported. A hash of
its name puts each document, forgotten or kept, into one of two parts; trials unlearn as reported runs do, and are asked
about the one part, reported runs about the other. Documents that every seed has of its own need no parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import TaskData
from lume_run.config.settings import Settings
from lume_run.evaluation.questions import DOCUMENT_PARTS, is_of_part

LEAST = 8  # documents of each side in each part, from which `auto` keeps them apart
PARTS_SETTING = "hydra.sweeper.tuning_documents"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which documents trials are scored on: `apart` from those that are reported or not, and why, in words."""

    apart: bool
    words: str


def choose_parts(choice: Literal["auto", "apart", "same"], tuning: Settings, reported: Settings) -> Parts:
    """The parts for runs of these settings, which differ in their seed; ConfigError where a part would be empty."""
    if choice == "same":
        return Parts(apart=False, words="tuned on the documents that are reported")
    ours, theirs = (_data_of(settings) for settings in (tuning, reported))
    if not _names_by_side(ours)["forget"] & _names_by_side(theirs)["forget"]:
        if choice == "apart":
            what, remedy = (
                "every seed has documents of its own, so that they are apart already",
                f"{PARTS_SETTING}=auto",
            )
            raise ConfigError([Problem(where=PARTS_SETTING, what=what, remedy=remedy)])
        return Parts(apart=False, words="every seed has documents of its own: none of those tuned on is reported")
    counts = dict(_part_sizes(theirs))
    fewest = min(counts.values(), default=0)
    listed = ", ".join(
        f"{counts[side, 'tuning']} and {counts[side, 'reported']} {side} documents"
        for side in dict.fromkeys(side for side, _ in counts)
    )
    if choice == "apart" and not fewest:
        what = f"a part would be empty: tuned on and reported are {listed}"
        raise ConfigError(
            [Problem(where=PARTS_SETTING, what=what, remedy=f"a task with more documents, or {PARTS_SETTING}=same")]
        )
    if choice == "auto" and fewest < LEAST:
        words = f"tuned on the documents that are reported: apart they would be {listed}, and {LEAST} are the least"
        return Parts(apart=False, words=words)
    return Parts(apart=True, words=f"tuned on and reported: {listed}")


def _data_of(settings: Settings) -> TaskData:
    from lume_run.pipeline.run import Run

    return Run(settings, Path()).data


def _names_by_side(data: TaskData) -> dict[str, set[str]]:
    return {
        side: {row.document for row in rows}
        for side, rows in (("forget", data.forget), ("retain", data.retain))
        if rows or side == "forget"
    }


def _part_sizes(data: TaskData) -> Iterator[tuple[tuple[str, str], int]]:
    """Documents by side and part."""
    for side, rows in (("forget", data.forget), ("retain", data.retain)):
        for part in DOCUMENT_PARTS if rows else ():
            yield (side, part), len({row.document for row in rows if is_of_part(row, part)})
