"""Choices fixed by a seed and a name: the same in every process and on every machine, whatever was chosen before.

`hash` would differ between processes, and a generator would depend on the order of what is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def stable_digest(*parts: object, separator: str = ":") -> bytes:
    """SHA-256 of the parts: 32 bytes to sort by, to choose by, or to seed a generator with."""
    return sha256(separator.join(map(str, parts)).encode()).digest()


def pick(name: str, seed: int, choices: Sequence[str]) -> str:
    """The choice for what is called `name`."""
    return choices[int.from_bytes(stable_digest(seed, name)[:8], "big") % len(choices)]
