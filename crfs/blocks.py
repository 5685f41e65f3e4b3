"""Copying an ext4 filesystem block by block: used blocks only, in order, large pieces.

The source must not change meanwhile (the stage is read-only in phase 2). A copy is therefore the
same filesystem bit for bit: contents, metadata, holes, flags, inode numbers. Progress is a byte
offset, so a copy goes on where it was cut.

All reading and writing goes past the page cache (O_DIRECT): what is compared comes from the
medium, a small Pi's memory is left to others, and dm-crypt gets large requests instead of pages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crfs import runner
from crfs.errors import UNCHANGED, DisagreementError, HostError
from crfs.streams import in_order

PIECE = 2**20  # bytes read and written at once
SYNC_EVERY = 32 * 2**20  # bytes between two flushes, the most that a cut can cost

_EXT4_IOC_RESIZE_FS = 0x40086610

_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("=QQIIII")  # start, length, flags, extents found, room for them, nothing
_EXTENT = struct.Struct("=QQQ32x")  # logical, physical, length
_EXTENTS_AT_ONCE = 500
_WHOLE_FILE = 2**64 - 1

# A sector that cannot be read: of an SD card, and of a USB disk.
_UNREADABLE = (errno.EIO, errno.ENODATA)

Range = tuple[int, int]  # start and end in bytes, end excluded
Report = Callable[[int, int], None]  # position in the device, bytes done so far


@dataclass(frozen=True)
class Layout:
    """An ext4 filesystem as `dumpe2fs` tells of it; ranges are of bytes, in order."""

    size: int  # bytes
    used: list[Range]  # what has to be copied
    free: list[Range]  # everything else


def layout(path: str) -> Layout:
    """What of the filesystem on a device has to be copied. Raises CommandError, HostError."""
    text = runner.query(["dumpe2fs", path], timeout=300)
    journal = runner.query(["debugfs", "-R", "dump_extents -l <8>", path], timeout=300)
    return parse_layout(text, journal)


def size_of(path: str) -> int:
    """Size in bytes of the ext4 filesystem on a device. Raises CommandError, HostError."""
    block, count = _geometry(runner.query(["dumpe2fs", "-h", path], timeout=300))
    return block * count


def parse_layout(text: str, journal: str = "") -> Layout:
    """The layout out of the output of dumpe2fs, and of debugfs' list of the journal's extents.

    What need not be copied: blocks named free; the part of an inode table that no inode has used
    yet, where the kernel is still to clear it (mke2fs, "lazy_itable_init"); the journal's blocks
    after its first, where nothing waits in it to be replayed. Everything else counts as used.
    Raises HostError where the output lacks a part.
    """
    size, count = _geometry(text)
    spare = [*_free_blocks(text), *_unused_tables(text, size)]
    if re.search(r"^Journal start:\s+0$", text, re.MULTILINE):
        spare += _journal_body(journal)
    used: list[Range] = []
    free: list[Range] = []
    position = 0
    for first, last in sorted(spare):
        if first > last or last >= count:
            raise _not_understood()
        if first > position:
            used.append((position * size, first * size))
        begin = max(first, position) * size
        position = max(position, last + 1)
        if free and free[-1][1] == begin:
            free[-1] = (free[-1][0], position * size)
        elif begin < position * size:
            free.append((begin, position * size))
    if position < count:
        used.append((position * size, count * size))
    return Layout(size * count, used, free)


def _geometry(text: str) -> tuple[int, int]:
    """Block size in bytes and number of blocks."""
    size = re.search(r"^Block size:\s+(\d+)$", text, re.MULTILINE)
    count = re.search(r"^Block count:\s+(\d+)$", text, re.MULTILINE)
    if not size or not count or not int(size[1]):
        raise _not_understood()
    return int(size[1]), int(count[1])


def _not_understood() -> HostError:
    return HostError(
        "The output of dumpe2fs cannot be understood.",
        data=UNCHANGED,
        advice="check that e2fsprogs is installed as your system has it, then 'sudo crfs resume'",
    )


def _free_blocks(text: str) -> Iterator[tuple[int, int]]:
    """First and last of each run of free blocks."""
    for line in re.findall(r"^ +Free blocks: (.*)$", text, re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", line):
            yield int(first), int(last or first)


def _unused_tables(text: str, size: int) -> Iterator[tuple[int, int]]:
    """The blocks at the end of inode tables that hold no inode and are not cleared yet."""
    inode = re.search(r"^Inode size:\s+(\d+)$", text, re.MULTILINE)
    per_group = re.search(r"^Inodes per group:\s+(\d+)$", text, re.MULTILINE)
    if not inode or not per_group:
        return
    for group in re.split(r"^Group ", text, flags=re.MULTILINE)[1:]:
        head = group.partition("\n")[0]
        table = re.search(r"^ +Inode table at (\d+)-(\d+)", group, re.MULTILINE)
        unused = re.search(r", (\d+) unused inodes$", group, re.MULTILINE)
        if not table or not unused or "ITABLE_ZEROED" in head:
            continue
        begun = (int(per_group[1]) - int(unused[1])) * int(inode[1])
        first, last = int(table[1]) + -(-begun // size), int(table[2])
        if first <= last:
            yield first, last


def _journal_body(text: str) -> Iterator[tuple[int, int]]:
    """The journal's blocks but the first, which holds its superblock."""
    row = r"^ *\d+/ *\d+ +\d+/ *\d+ +(\d+) - +\d+ +(\d+) - +(\d+) +\d+ *$"
    for logical, first, last in re.findall(row, text, re.MULTILINE):
        skipped = 1 if logical == "0" else 0
        if int(first) + skipped <= int(last):
            yield int(first) + skipped, int(last)


def grow(folder: str, size: int) -> None:
    """Have the kernel grow the mounted ext4 at `folder` to `size` bytes. Raises OSError.

    What resize2fs asks for too; but that leaves a trace in the times of a root folder, where it
    tries a file. The kernel journals the growth, so a cut cannot harm the filesystem, and leaves
    out a last group that would be too small. Number: EXT4_IOC_RESIZE_FS of linux/fs/ext4/ext4.h.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        block = os.fstatvfs(descriptor).f_frsize
        fcntl.ioctl(descriptor, _EXT4_IOC_RESIZE_FS, struct.pack("Q", size // block))
    finally:
        os.close(descriptor)


def extents(file: IO[bytes]) -> list[Range]:
    """Where an open file's blocks lie on the filesystem's device, whether they are written or not.

    In the file's order. Raises OSError. Numbers: linux/fiemap.h.
    """
    found: list[Range] = []
    start = 0
    while True:
        answer = bytearray(_FIEMAP.pack(start, _WHOLE_FILE, 0, 0, _EXTENTS_AT_ONCE, 0))
        answer += bytes(_EXTENTS_AT_ONCE * _EXTENT.size)
        fcntl.ioctl(file, _FS_IOC_FIEMAP, answer)
        count = _FIEMAP.unpack_from(answer)[3]
        if not count:
            return found
        for number in range(count):
            place = _FIEMAP.size + number * _EXTENT.size
            logical, physical, length = _EXTENT.unpack_from(answer, place)
            found.append((physical, physical + length))
            start = logical + length


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
    with _opened(source, os.O_RDONLY) as reader, _opened(target, os.O_WRONLY) as writer:
        buffers = _Buffers()

        def move(piece: Range) -> None:
            content = buffers.read(0, reader, piece)
            _write(writer, content, piece[0])

        _checkpointed(in_order(move, pieces(ranges, offset)), ranges, writer, report)


def _checkpointed(
    done_pieces: Iterator[tuple[Range, object]], ranges: list[Range], writer: int, report: Report
) -> None:
    """Flush and report every SYNC_EVERY bytes, and at the end."""
    done = unsynced = 0
    for (begin, end), _ in done_pieces:
        done += end - begin
        unsynced += end - begin
        if unsynced >= SYNC_EVERY:
            os.fdatasync(writer)
            unsynced = 0
            report(end, done)
    os.fdatasync(writer)
    report(max((end for _, end in ranges), default=0), done)


def compare(left: str, right: str, ranges: list[Range], report: Report) -> None:
    """Read the ranges of both devices; raise DisagreementError at the first difference."""
    with _opened(left, os.O_RDONLY) as one, _opened(right, os.O_RDONLY) as two:
        buffers = _Buffers()

        def same(piece: Range) -> bool:
            return bytes(buffers.read(0, one, piece)) == bytes(buffers.read(1, two, piece))

        done = 0
        for (begin, end), equal in in_order(same, pieces(ranges)):
            if not equal:
                raise DisagreementError(
                    f"{right} differs from {left} between bytes {begin} and {end}.",
                    data="The verified copy on the stick is whole.",
                    advice="'sudo crfs resume' copies again; if it happens again, the card is "
                    "failing: replace it",
                )
            done += end - begin
            report(end, done)


def blank(
    path: str,
    ranges: list[Range],
    offset: int,
    report: Report,
    may_write: Callable[[], None] = lambda: None,
) -> int:
    """See to it that the ranges hold nothing; return how many bytes had to be overwritten.

    After a discard most cards read as all zeros or all ones; what does not is overwritten with
    zeros. Flushed like `copy`. `may_write` is asked before each overwriting and raises if the
    ranges are no longer free.
    """
    with _opened(path, os.O_RDWR) as descriptor:
        buffers = _Buffers()
        overwritten = 0

        def clear(piece: Range) -> int:
            try:
                if is_blank(bytes(buffers.read(0, descriptor, piece))):
                    return 0
            except OSError as problem:
                # Nobody needs what cannot be read there, and a card may mend it when it is written.
                if problem.errno not in _UNREADABLE:
                    raise
            may_write()
            content = buffers.zeros(piece)
            _write(descriptor, content, piece[0])
            return len(content)

        def counted() -> Iterator[tuple[Range, object]]:
            nonlocal overwritten
            for piece, wrote in in_order(clear, pieces(ranges, offset)):
                overwritten += wrote
                yield piece, wrote

        _checkpointed(counted(), ranges, descriptor, report)
        return overwritten


def is_blank(content: bytes) -> bool:
    """All zeros or all ones, as erased flash reads."""
    first = content[:1]
    return first in (b"", b"\0", b"\xff") and content == first * len(content)


class _Buffers(threading.local):
    """Aligned memory for O_DIRECT, a pair for each thread that asks."""

    def __init__(self) -> None:
        self._memory = [mmap.mmap(-1, PIECE) for _ in range(2)]

    def read(self, which: int, descriptor: int, piece: Range) -> memoryview:
        """Exactly the bytes of a piece, valid until this thread reads again. Raises OSError."""
        begin, end = piece
        view = memoryview(self._memory[which])[: end - begin]
        if os.preadv(descriptor, [view], begin) != end - begin:
            raise OSError(5, "the device ends too early")
        return view

    def zeros(self, piece: Range) -> memoryview:
        """As many zeros as a piece has bytes, valid until this thread reads again."""
        begin, end = piece
        view = memoryview(self._memory[0])[: end - begin]
        view[:] = bytes(end - begin)
        return view


def _write(descriptor: int, content: memoryview, begin: int) -> None:
    if os.pwrite(descriptor, content, begin) != len(content):
        raise OSError(5, "the device took less than it was given")


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def device_size(path: str | Path) -> int:
    """Size of a block device in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
