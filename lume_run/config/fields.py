"""A setting with its bounds and its help, as a field of a dataclass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

MOST = 10**9  # no count, length or weight is more; what is, is a slip


def setting(
    default: Any = ...,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    blank: bool = False,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """A dataclass field with bounds (inclusive unless `open_low`) and one line of help; required without a default.

    No number is beyond MOST on either side. Text with no letters is refused unless `blank`.
    """
    metadata = {"help": help, "low": low, "high": high, "open_low": open_low, "blank": blank}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)
