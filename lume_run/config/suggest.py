"""The name nearest to a mistyped one (a choice, an option, or a config key, compared by its last part too), and what
names of earlier versions are called now."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
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
MOST_KEYS = 3  # more keys of one name are no suggestion


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the choices."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(names)}"


def suggest_key(key: str, known: Iterable[str]) -> str:
    """`did you mean 'method.forget.beta'?` for `method.beta` or `beta`, else the nearest key; empty: none."""
    keys = list(known)
    parent, _, last = key.rpartition(".")
    last = ABBREVIATIONS.get(last, last)
    key, group = f"{parent}.{last}".lstrip("."), key.partition(".")[0]
    if key in keys:
        return f"did you mean {key!r}?"
    same_last = [name for name in keys if name.rpartition(".")[2] == last]
    deeper = [name for name in same_last if name.count(".") > key.count(".")]
    if group != last:
        deeper = [name for name in deeper if name.partition(".")[0] == group]
    nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    names = deeper if 0 < len(deeper) <= MOST_KEYS else nearest or same_last[:MOST_KEYS]
    return f"did you mean {' or '.join(map(repr, names))}?" if names else ""


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
