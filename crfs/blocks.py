"""Copying an ext4 filesystem block by block: used blocks only, in order, large pieces.

The source must not change meanwhile (the stage is read-only in phase 2). A copy is therefore the
same filesystem bit for bit: contents, metadata, holes, flags, inode numbers. Progress is a byte
offset, so a copy goes on where it was cut.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from crfs import runner
from crfs.errors import DisagreementError, HostError

PIECE = 4 * 2**20  # bytes read and written at once
SYNC_EVERY = 64 * 2**20  # bytes between two flushes, the most that a cut can cost

Range = tuple[int, int]  # start and end in bytes, end excluded
Report = Callable[[int, int], None]  # position in the device, bytes done so far


def parse_dumpe2fs(text: str) -> tuple[int, int, list[Range]]:
    """Block size, block count and free block ranges (first, last) of dumpe2fs' output.

    Raises HostError where the output lacks a part.
    """
    size = re.search(r"^Block size:\s+(\d+)$", text, re.MULTILINE)
    count = re.search(r"^Block count:\s+(\d+)$", text, re.MULTILINE)
    if not size or not count or not int(size[1]):
        raise HostError(
            "The output of dumpe2fs cannot be understood.",
            data="Nothing was changed by this.",
            advice="check that e2fsprogs is installed as your system has it, then "
            "'sudo crfs resume'",
        )
    free = []
    for line in re.findall(r"^ +Free blocks: (.*)$", text, re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", line):
            free.append((int(first), int(last or first)))
    return int(size[1]), int(count[1]), sorted(free)


def used_ranges(text: str) -> list[Range]:
    """Byte ranges in use; everything that is not named free counts as used."""
    size, count, free = parse_dumpe2fs(text)
    used, position = [], 0
    for first, last in free:
        if first > position:
            used.append((position * size, first * size))
        position = max(position, last + 1)
    if position < count:
        used.append((position * size, count * size))
    return used


def free_ranges(text: str) -> list[Range]:
    """Byte ranges of the filesystem that hold nothing."""
    size, _, free = parse_dumpe2fs(text)
    return [(first * size, (last + 1) * size) for first, last in free]


def dumpe2fs(path: str) -> str:
    return runner.query(["dumpe2fs", path], timeout=300)


def filesystem_bytes(text: str) -> int:
    size, count, _ = parse_dumpe2fs(text)
    return size * count


def total(ranges: list[Range]) -> int:
    return sum(end - start for start, end in ranges)


def pieces(ranges: list[Range], offset: int = 0) -> Iterator[Range]:
    """The ranges from `offset` on, cut into pieces of at most PIECE bytes."""
    for start, end in ranges:
        for begin in range(max(start, offset), end, PIECE):
            yield begin, min(begin + PIECE, end)


def copy(source: str, target: str, ranges: list[Range], offset: int, report: Report) -> None:
    """Copy the ranges from `offset` (a position) on, flushing every SYNC_EVERY bytes.

    `report` is called with a position only when everything before it is on the medium.
    """
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    writer = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = unsynced = 0
        for begin, end in pieces(ranges, offset):
            write_at(writer, read_at(reader, begin, end), begin)
            _forget(reader, begin, end)
            done += end - begin
            unsynced += end - begin
            if unsynced >= SYNC_EVERY:
                os.fdatasync(writer)
                _forget(writer, 0, 0)
                unsynced = 0
                report(end, done)
        os.fdatasync(writer)
        report(max((end for _, end in ranges), default=0), done)
    finally:
        os.close(reader)
        os.close(writer)


def compare(left: str, right: str, ranges: list[Range], report: Report) -> None:
    """Read both devices past the page cache; raise DisagreementError at the first difference."""
    descriptors = [
        os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC) for path in (left, right)
    ]
    buffers = [mmap.mmap(-1, PIECE) for _ in descriptors]
    try:
        done = 0
        for begin, end in pieces(ranges):
            size = end - begin
            for descriptor, buffer in zip(descriptors, buffers, strict=True):
                _read_direct(descriptor, buffer, begin, size)
            if memoryview(buffers[0])[:size] != memoryview(buffers[1])[:size]:
                raise DisagreementError(
                    f"{right} differs from {left} between bytes {begin} and {end}.",
                    data="The verified copy on the stick is whole.",
                    advice="'sudo crfs resume' copies again; if it happens again, the card is "
                    "failing: replace it",
                )
            done += size
            report(end, done)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def blank(path: str, ranges: list[Range], offset: int, report: Report) -> int:
    """See to it that the ranges hold nothing; return how many bytes had to be overwritten.

    After a discard most cards read as all zeros or all ones; what does not is overwritten with
    zeros. Flushed like `copy`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        done = overwritten = unsynced = 0
        for begin, end in pieces(ranges, offset):
            content = read_at(descriptor, begin, end)
            if not is_blank(content):
                write_at(descriptor, bytes(end - begin), begin)
                overwritten += end - begin
            _forget(descriptor, begin, end)
            done += end - begin
            unsynced += end - begin
            if unsynced >= SYNC_EVERY:
                os.fdatasync(descriptor)
                unsynced = 0
                report(end, done)
        os.fdatasync(descriptor)
        report(max((end for _, end in ranges), default=0), done)
        return overwritten
    finally:
        os.close(descriptor)


def is_blank(content: bytes) -> bool:
    """All zeros or all ones, as erased flash reads."""
    return not content.strip(b"\0") or not content.strip(b"\xff")


def read_at(descriptor: int, begin: int, end: int) -> bytes:
    """Exactly the bytes from begin to end. Raises OSError."""
    content = os.pread(descriptor, end - begin, begin)
    while len(content) < end - begin:
        more = os.pread(descriptor, end - begin - len(content), begin + len(content))
        if not more:
            raise OSError(5, "the device ends too early")
        content += more
    return content


def write_at(descriptor: int, content: bytes, begin: int) -> None:
    """All of the content at a position. Raises OSError."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, begin)
        view, begin = view[written:], begin + written


def _read_direct(descriptor: int, buffer: mmap.mmap, begin: int, size: int) -> None:
    got = os.preadv(descriptor, [memoryview(buffer)[:size]], begin)
    if got != size:
        raise OSError(5, "the device ends too early")


def _forget(descriptor: int, begin: int, end: int) -> None:
    """Leave the memory to others: nothing of this is read twice."""
    os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)


def device_size(path: str | Path) -> int:
    """Size of a block device in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
