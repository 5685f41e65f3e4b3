"""A few pieces of work at a time, in order: while one waits for the card, another reads on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# Each waits for one medium, then for the other. With N at a time, each of two media of equal speed
# is busy for N / (N + 1) of the time, where pieces differ in size.
STREAMS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(do: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Do something with every item, STREAMS of them at a time; yield each with its result.

    They come back in the order of `items`, so that whoever keeps a position has everything before
    it done. The first failure is raised when its item's turn comes.
    """
    with ThreadPoolExecutor(STREAMS) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            if len(waiting) == STREAMS:
                first, future = waiting.popleft()
                yield first, future.result()
            waiting.append((item, pool.submit(do, item)))
        for first, future in waiting:
            yield first, future.result()
