"""A few things at a time, and yet in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.streams import STREAMS, in_order


@given(st.lists(st.integers()))
def test_results_come_in_the_order_of_the_items(items: list[int]) -> None:
    assert list(in_order(lambda item: item * 2, items)) == [(item, item * 2) for item in items]


def test_several_at_a_time_and_no_more_than_that() -> None:
    busy = most = 0
    lock = threading.Lock()
    together = threading.Barrier(STREAMS, timeout=30)

    def work(item: int) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        together.wait()  # breaks unless STREAMS of them are here at once
        with lock:
            busy -= 1

    assert len(list(in_order(work, range(3 * STREAMS)))) == 3 * STREAMS
    assert most == STREAMS


def test_items_are_taken_as_they_are_needed() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = in_order(lambda item: item, items())
    next(results)
    assert taken <= STREAMS + 1
    results.close()  # type: ignore[attr-defined]


def test_a_failure_comes_at_its_turn() -> None:
    seen = []

    def work(item: int) -> int:
        if item == 5:
            raise OSError("the card is gone")
        time.sleep(0.01)
        return item

    with pytest.raises(OSError, match="gone"):
        for item, _ in in_order(work, range(100)):
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4]
