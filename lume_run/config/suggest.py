"""The name nearest to a mistyped one (a choice, an option, or a config key, by its last part first), and what names of
earlier versions are called now."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from lume_run.common.errors import Problem

ABBREVIATIONS = {  # as other tools call settings
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "micro_batch_size",
    "max_new_token": "max_new_tokens",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
    "optim": "optimizer",
}
RENAMED_KEYS = {"evaluator.metrics": "evaluator.suites"}
MOST_KEYS = 3  # keys that are equally near are named up to so many
LEAST_LIKENESS = 0.5  # less alike are no suggestion
CACHED_PAIRS = 10_000  # of words that were compared
LAST_PART = 2  # a last part counts as so many ways there: who writes `method.betta` means `method.forget.beta`
NO_WAY, SHORT_WAY, LONG_WAY = 0.7, 0.9, 0.7  # likeness of no way to a key, of one without some parts, with more


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the choices."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=len(names) or 1, cutoff=0.5)  # also by what they have in common
    nearest = max([*close, *names], key=lambda name: spelling_likeness(word, name), default="")
    is_near = close or spelling_likeness(word, nearest)
    return f"did you mean '{nearest}'?" if is_near else f"choose from: {', '.join(names)}"


def suggest_key(key: str, known: Iterable[str]) -> str:
    """`did you mean 'method.forget.beta'?` for `method.beta`, `method.betta` or `beta`, else the keys beside it.

    The nearest last part of all keys counts most, then the way there. Empty where nothing is near.
    """
    keys = list(dict.fromkeys(known))
    *way, last = key.split(".")
    last = ABBREVIATIONS.get(last, last)
    names: dict[str, list[str]] = {}
    for name in keys:
        names.setdefault(name.rpartition(".")[2], []).append(name)
    near = {end: likeness for end in names if (likeness := spelling_likeness(last, end))}
    ranks = {
        name: LAST_PART * likeness + _way_likeness(way, name.split(".")[:-1])
        for end, likeness in near.items()
        for name in names[end]
    }
    if ranks:
        best = max(ranks.values())
        nearest = [name for name, rank in ranks.items() if rank == best][:MOST_KEYS]
        return f"did you mean {' or '.join(map(repr, nearest))}?"
    parent = ".".join(way)
    beside = [name.rpartition(".")[2] for name in keys if parent and name.rpartition(".")[0] == parent]
    return f"choose from: {', '.join(beside)}" if beside else ""


@lru_cache(CACHED_PAIRS)
def spelling_likeness(word: str, name: str) -> float:
    """1 for the same word, less the share of letters to drop, add, change or swap with the next; 0 below one half."""
    longest = max(len(word), len(name))
    if word == name:
        return 1.0
    most = (1 - LEAST_LIKENESS) * longest
    if abs(len(word) - len(name)) > most or longest - _common_letters(word, name) > most:
        return 0.0
    older: list[int] = []
    before: list[int] = []
    steps = list(range(len(name) + 1))
    for i, letter in enumerate(word):
        older, before, steps = before, steps, [i + 1]
        for j, other in enumerate(name):
            least = min(before[j + 1] + 1, steps[j] + 1, before[j] + (letter != other))
            if i and j and letter == name[j - 1] and word[i - 1] == other:
                least = min(least, older[j - 1] + 1)
            steps.append(least)
        if min(*steps, *before) > most:
            return 0.0
    return 1 - steps[-1] / longest if steps[-1] <= most else 0.0


def _common_letters(word: str, name: str) -> int:
    """How many letters two words have in common, wherever they stand: all others take a step each."""
    return sum(min(word.count(letter), name.count(letter)) for letter in set(word))


def _way_likeness(given: Sequence[str], way: Sequence[str]) -> float:
    """How near the groups before a mistyped key are to those before a key, from 0 to 1; some may be left out."""
    if not given or not way:
        return 1.0 if len(given) == len(way) else NO_WAY
    few, many = sorted((given, way), key=len)
    likeness = max(sum(map(spelling_likeness, few, parts)) / len(few) for parts in combinations(many, len(few)))
    return likeness * (1 if len(given) == len(way) else SHORT_WAY if len(given) < len(way) else LONG_WAY)


def key_paths(node: Any, path: str = "") -> list[str]:
    """Dotted paths of a mapping's keys, and of all keys below them."""
    if not isinstance(node, Mapping):
        return [path]
    below = [key for name, child in node.items() for key in key_paths(child, f"{path}.{name}" if path else str(name))]
    return [*([path] if path else []), *below]


def renamed_key_problem(key: str, override: str = "") -> Problem | None:
    """The problem of a config key that is, or stands below, one with a new name; None for every other key."""
    for before, now in RENAMED_KEYS.items():
        if key == before or key.startswith(before + "."):
            general = f"{now}.NAME.SETTING=... on a command line, {now.rpartition('.')[2]}: in a YAML file"
            remedy = override.replace(before, now, 1) if override else general
            return Problem(where=key, what=f"{before} is now {now}", remedy=remedy)
    return None
