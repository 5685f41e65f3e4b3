"""Fill a mounted root up to a share with files: `python -m benchmarks.payload ROOT KIND SHARE`.

Runs as root in the workbench. The files are the same each time. Every other piece of 64 KiB is
random, the others compress well: about as much as real data does, by half.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = "home/pi/payload"
SEED = 6
PIECE = 1 << 16
LARGE = 50 << 20
SMALL = (4 << 10, 24 << 10)
FILES_PER_FOLDER = 200
TINY = 600
POOL = 16 << 20


class Source:
    """Bytes without end that compress to about a half. Deterministic."""

    def __init__(self) -> None:
        self._random = random.Random(SEED)  # noqa: S311 - the same bytes every time are wanted
        # Random bytes are taken from a pool at random places: making all of them takes too long.
        self._pool = self._random.randbytes(POOL)
        self._count = 0

    def size_between(self, least: int, most: int) -> int:
        """A size of a file, in bytes."""
        return self._random.randint(least, most)

    def pieces(self, size: int) -> Iterator[bytes]:
        """`size` bytes, piece by piece; each piece is half random, half text."""
        while size > 0:
            length = min(size, PIECE)
            half = length // 2
            start = self._random.randrange(POOL - half)
            self._count += 1
            text = f"line {self._count} of a log that says the same again and again\n".encode()
            repeated = text * ((length - half) // len(text) + 1)
            yield self._pool[start : start + half] + repeated[: length - half]
            size -= length


def share_used(root: Path) -> float:
    """How full the filesystem is, from 0 to 1, as df reckons it."""
    facts = os.statvfs(root)
    return 1 - facts.f_bfree / facts.f_blocks


def fill(root: Path, kind: str, share: float) -> int:
    """Write `large` or `small` files below `root` until it is full to `share`; how many."""
    source = Source()
    facts = os.statvfs(root)
    left = int((share - share_used(root)) * facts.f_blocks * facts.f_frsize)
    count = 0
    while left > 0:
        size = min(LARGE, left) if kind == "large" else source.size_between(*SMALL)
        write(root, kind, count, source, size)
        left -= -(-size // facts.f_frsize) * facts.f_frsize
        count += 1
    return count


def fill_tiny(root: Path, count: int) -> None:
    """Write `count` files of one block each."""
    source = Source()
    for number in range(count):
        write(root, "tiny", number, source, TINY)


def write(root: Path, kind: str, number: int, source: Source, size: int) -> None:
    """Write file `number` of `kind`."""
    folder = root / FOLDER / kind / f"{number // FILES_PER_FOLDER:04d}"
    if number % FILES_PER_FOLDER == 0:
        folder.mkdir(parents=True)
    with (folder / f"{number:07d}").open("wb") as file:
        for piece in source.pieces(size):
            file.write(piece)


def main() -> None:
    """Command line entry: ROOT, then large or small and a share, or tiny and a number of files."""
    root, kind, amount = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if kind == "tiny":
        fill_tiny(root, int(amount))
    else:
        fill(root, kind, float(amount))
    print(f"{share_used(root):.3f}")


if __name__ == "__main__":
    main()
