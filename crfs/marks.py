"""A set of very many facts, of which it is only asked whether one is in it."""

from __future__ import annotations

import array
from bisect import bisect_left
from hashlib import blake2b

_SORTED_AT_ONCE = 2**16


class Marks:
    """Facts, each kept as a hash of 64 bits: eight bytes a fact, however many there are."""

    def __init__(self) -> None:
        self._sorted: list[array.array[int]] = []
        self._new: set[int] = set()

    def __len__(self) -> int:
        return sum(map(len, self._sorted)) + len(self._new)

    def add(self, fact: bytes) -> None:
        self._new.add(_mark(fact))
        if len(self._new) == _SORTED_AT_ONCE:
            self._sorted.append(array.array("Q", sorted(self._new)))
            self._new.clear()

    def __contains__(self, fact: bytes) -> bool:
        mark = _mark(fact)
        return mark in self._new or any(_has(marks, mark) for marks in self._sorted)


def _has(marks: array.array[int], mark: int) -> bool:
    place = bisect_left(marks, mark)
    return place < len(marks) and marks[place] == mark


def _mark(fact: bytes) -> int:
    return int.from_bytes(blake2b(fact, digest_size=8).digest(), "little")
