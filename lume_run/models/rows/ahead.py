"""Batches that are prepared while the ones before them are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
END: Any = object()


class Ahead(Generic[Item]):
    """An iterator over `batches`, of which a thread takes up to `depth` before they are asked for, in order.

    What taking one raises is raised where that one is asked for.
    """

    def __init__(self, batches: Iterator[Item], *, depth: int) -> None:
        self.batches, self.depth = batches, depth
        self._thread = ThreadPoolExecutor(1, "batches")
        self._coming: deque[Future[Item]] = deque()

    def __iter__(self) -> Ahead[Item]:
        return self

    def __next__(self) -> Item:
        self._take(1)
        batch = self._coming[0].result()
        if batch is END:
            self._thread.shutdown(wait=False)
            raise StopIteration
        self._coming.popleft()
        self._take(self.depth)
        return batch

    def _take(self, depth: int) -> None:
        while len(self._coming) < depth:
            self._coming.append(self._thread.submit(next, self.batches, END))
