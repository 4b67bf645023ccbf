"""What the definition of a score says: what it measures, its range, its group in a report, and which way is good."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Wanted(StrEnum):
    """Which way a score should go for good unlearning."""

    LOWER = "lower"
    HIGHER = "higher"
    HALF = "0.5"
    ZERO = "0"
    NONE = ""  # a check, good where it is
    BY_SIDE = "forget lower, else higher"  # of patterns only


class ScoreGroup(StrEnum):
    """What a score is about, in the order of a report."""

    FORGET = "forget"
    RETAIN = "retain"
    PRIVACY = "privacy"
    UTILITY = "utility"
    OVERALL = "overall"
    ROBUSTNESS = "robustness"  # under attack
    OTHER = "other"  # suites from elsewhere
    BY_SIDE = "forget, else retain"  # of patterns only
    PRIVACY_BY_SIDE = "forget: privacy, else retain"  # of patterns only


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One score, or all those whose names follow one pattern such as `<side>.<task>.knowledge`.

    `symbol` is what papers call it, "" where nothing. `low` and `high` bound it, None where nothing does. `detail` says
    what to leave out first where room is short: 0 is a headline, 1 a part of one, 2 a variant or a part of a part.
    """

    pattern: str
    symbol: str
    what: str
    low: float | None
    high: float | None
    wanted: Wanted
    group: ScoreGroup
    source: str
    detail: int


PLACEHOLDERS = {  # what they stand for, as regular expressions; any other one for anything without a dot
    "task": (".+",),
    "score": (".+",),
    "side": ("forget", "retain"),
    "set": ("forget", "retain", "real_authors", "world_facts"),
    "attack": ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "gradient_norm"),
    "part": ("qa", "dialogue", "summarization", "general"),
    "membership": ("zlib", "min_k", "min_k_plus_plus", "mink20"),
    "surprise": ("word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity"),
}
