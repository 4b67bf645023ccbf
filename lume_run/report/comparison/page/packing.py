"""The page's JSON made compact: repeated values (texts, scores of a shared target, settings) stand once, by number."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lume_run.report.comparison.configs import comparable_text
from lume_run.report.comparison.page.prompts import EXACT, PARTIAL, SAME, Answer, PromptAnswers

MOST_BYTES = 6 * 2**20  # of prompts, so that the page stays below some 10 MB
SHARES = (1.0, 0.75, 0.5, 0.33, 0.25, 0.15, 0.1, 0.05)  # of the prompts that are kept, until they fit
MARK_KINDS = (EXACT, PARTIAL, SAME)


class Pool:
    """Values by number, each once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """The number of a JSON value."""
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(value)
        return self._places[key]


@dataclass
class PackedData:
    """What the page's JSON refers to by number."""

    columns: list[str]
    vectors: Pool = field(default_factory=Pool)
    paths: Pool = field(default_factory=Pool)
    values: Pool = field(default_factory=Pool)
    texts: Pool = field(default_factory=Pool)
    prompts: Pool = field(default_factory=Pool)
    answers: Pool = field(default_factory=Pool)
    names: Pool = field(default_factory=Pool)

    def positions(self, names: Sequence[str]) -> list[int]:
        """The numbers of columns, those that are not there left out."""
        return [self.columns.index(name) for name in names if name in self.columns]

    def vector(self, scores: Mapping[str, float] | None) -> int | None:
        """The number of a list of values in the order of the columns."""
        if not scores:
            return None
        return self.vectors.place([round_value(scores[name]) if name in scores else None for name in self.columns])

    def pairs(self, config: Mapping[str, Any], base: Mapping[str, Any]) -> list[list[int]]:
        """Numbers of path and value where a config differs from `base`; -1 for what it has not."""
        pairs = []
        for path, value in config.items():
            if path not in base or comparable_text(base[path]) != comparable_text(value):
                pairs.append([path, value])
        absent = [[self.paths.place(path), -1] for path in base if path not in config]
        return [*([self.paths.place(path), self.values.place(value)] for path, value in pairs), *absent]

    def answer(self, answer: Answer | None) -> int | None:
        """The number of a text followed by its marks: start, end, kind, attribute."""
        if answer is None:
            return None
        parts: list[str | int] = [answer.text]
        for mark in answer.marks:
            parts += [mark.start, mark.end, MARK_KINDS.index(mark.kind), mark.attribute]
        return self.answers.place(parts)

    def prompt(self, prompt: PromptAnswers) -> list[int | None]:
        """Numbers of a prompt and the answers before and after."""
        texts = [self.texts.place(text) for text in (prompt.prompt, prompt.expected.text)]
        facts = [prompt.id, prompt.side, prompt.subtask, prompt.kind, prompt.attribute, *texts]
        return [self.prompts.place(facts), self.answer(prompt.before), self.answer(prompt.after)]


def round_value(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")


class FittedPrompts(NamedTuple):
    """The prompts of every run by number, and how many a side were kept."""

    by_run: list[list[Any]]
    per_side: int


def fit_prompts(packed: PackedData, by_run: Sequence[Sequence[PromptAnswers]], most: int) -> FittedPrompts:
    """As many prompts as `MOST_BYTES` hold, for all runs alike."""
    for count in sorted({math.floor(most * share) for share in SHARES}, reverse=True):
        trial = PackedData(columns=[])
        kept = [first_per_side(prompts, count) for prompts in by_run]
        numbers = [[trial.prompt(prompt) for prompt in prompts] for prompts in kept]
        pools = [trial.texts.items, trial.prompts.items, trial.answers.items, numbers]
        if len(json.dumps(pools, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")) <= MOST_BYTES:
            packed.texts, packed.prompts, packed.answers = trial.texts, trial.prompts, trial.answers
            return FittedPrompts(numbers, count)
    return FittedPrompts([[] for _ in by_run], 0)


def first_per_side(prompts: Sequence[PromptAnswers], count: int) -> list[PromptAnswers]:
    """The first `count` of either side."""
    sides: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        sides[prompt.side] += 1
        if sides[prompt.side] <= count:
            kept.append(prompt)
    return kept
