"""Names of earlier versions, and what they are called now: whoever still writes one gets a message with the new one."""

from __future__ import annotations

from lume_run.common.errors import Problem

RENAMED_KEYS = {"evaluator.metrics": "evaluator.suites"}


def renamed_key_problem(key: str, override: str = "") -> Problem | None:
    """The problem of a config key that is, or stands below, one with a new name; None for every other key."""
    for before, now in RENAMED_KEYS.items():
        if key == before or key.startswith(before + "."):
            general = f"{now}.NAME.SETTING=... on a command line, {now.rpartition('.')[2]}: in a YAML file"
            remedy = override.replace(before, now, 1) if override else general
            return Problem(where=key, what=f"{before} is now {now}", remedy=remedy)
    return None
