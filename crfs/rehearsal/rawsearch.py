"""Search the raw bytes of an image for strings that must not be there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

CHUNK = 8 << 20
MAX_HITS = 16


def find_in_image(image: Path, needles: Sequence[bytes]) -> dict[bytes, list[int]]:
    """The offsets of each needle that occurs in `image` (at most MAX_HITS of each).

    Holes of a sparse image are passed over. A needle that spans two chunks is found as well.
    """
    found: dict[bytes, list[int]] = {}
    overlap = max(map(len, needles), default=1) - 1
    with image.open("rb", buffering=0) as file:
        for start, end in data_ranges(file.fileno()):
            offset, before = start, b""
            while offset < end:
                chunk = os.pread(file.fileno(), min(CHUNK, end - offset), offset)
                text, base = before + chunk, offset - len(before)
                for needle in needles:
                    collect(text, needle, base, found)
                before = text[len(text) - overlap :] if overlap else b""
                offset += len(chunk)
    return found


def collect(text: bytes, needle: bytes, base: int, found: dict[bytes, list[int]]) -> None:
    """Note where `needle` occurs in `text`, which lies at `base` of the image."""
    at = text.find(needle)
    while at >= 0:
        hits = found.setdefault(needle, [])
        if len(hits) >= MAX_HITS:
            return
        if base + at not in hits:
            hits.append(base + at)
        at = text.find(needle, at + 1)


def data_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes, as (start, end)."""
    size = os.fstat(descriptor).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole from here on
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position
