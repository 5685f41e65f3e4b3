"""Copying a live directory tree with rsync, and comparing two trees to the last attribute.

rsync carries contents, holes, hard links, ACLs and extended attributes; inode flags (immutable,
append-only ...), which it does not know, are set here afterwards.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import re
import stat
import struct
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from crfs import runner
from crfs.errors import DisagreementError
from crfs.streams import in_order

# From linux/fs.h; the flags that a user or a program sets, not those that ext4 manages itself.
# Their numbers hold the size of a C long, which is 4 in a 32-bit Raspberry Pi OS.
_LONG = struct.calcsize("l") << 16
FS_IOC_GETFLAGS = 0x80006601 | _LONG
FS_IOC_SETFLAGS = 0x40006602 | _LONG
FLAGS_KEPT = (
    0x00000001  # secure deletion
    | 0x00000002  # undelete
    | 0x00000008  # synchronous
    | 0x00000010  # immutable
    | 0x00000020  # append only
    | 0x00000040  # no dump
    | 0x00000080  # no atime
    | 0x00010000  # synchronous folder
    | 0x00020000  # top of hierarchy
)
_LOCKING = 0x00000010 | 0x00000020
_HAS_FLAGS = (stat.S_IFREG, stat.S_IFDIR)

RSYNC = (
    "rsync", "--archive", "--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids",
    "--one-file-system", "--delete", "--inplace", "--whole-file", "--modify-window=-1",
)  # fmt: skip
# 24: a file vanished while it was copied; on a live system that is ordinary.
_RSYNC_OK = (0, 24)


def copy(source: Path, target: Path, without: Iterable[str] = ()) -> None:
    """Make `target` equal to `source`, flags excepted; only what differs is copied.

    What lies at the absolute names in `without` is left as it is in `target`.

    Times are compared to the nanosecond. What `copy_flags` has locked has to be unlocked before.
    Raises CommandError.
    """
    runner.run(
        [*RSYNC, *(f"--exclude={_literal(name)}" for name in without), f"{source}/", f"{target}/"],
        timeout=24 * 3600,
        ok=_RSYNC_OK,
        data="The card is untouched; the copy on the stick is not complete yet.",
    )


def _literal(name: str) -> str:
    """A name as a pattern of rsync that matches nothing else; see rsync(1), pattern rules."""
    return re.sub(r"([*?[\\])", r"\\\1", name) if re.search(r"[*?[]", name) else name


def unlock_tree(root: Path) -> None:
    """Clear immutable and append-only, which would keep a second pass from writing."""
    for _, path, facts in walk(root):
        if _carries_flags(facts):
            flags = get_flags(path)
            if flags & _LOCKING:
                set_flags(path, flags & ~_LOCKING)


def copy_flags(source: Path, target: Path) -> None:
    """Give the inode flags of `source` to the same names in `target`; parents after children."""
    later = []
    for name, path, facts in walk(source):
        if _carries_flags(facts):
            flags = get_flags(path) & FLAGS_KEPT
            later.append((os.path.join(os.fsencode(target), name), flags))
    for path, flags in reversed(later):
        there = get_flags(path)
        # Also where the source has none: an earlier pass may have set one.
        if there & FLAGS_KEPT != flags:
            set_flags(path, (there & ~FLAGS_KEPT) | flags)


def walk(root: Path) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Every entry below root on its filesystem: relative name, path, lstat. Sorted, parents first.

    Names are bytes: they need not be UTF-8. What vanishes meanwhile is left out.
    """
    top = os.fsencode(root)
    device = os.lstat(top).st_dev
    pending = [b""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(top, folder)) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        below = []
        for entry in found:
            name = os.path.join(folder, entry.name)
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield name, entry.path, facts
            if stat.S_ISDIR(facts.st_mode) and facts.st_dev == device:
                below.append(name)
        pending += reversed(below)


class Proven:
    """Files of the copy that were read back from the medium and found equal to their source.

    Each is kept as a hash of 64 bits of its name and of both sides' inode numbers, sizes and
    times. ctime is set by the kernel at every change and by nobody else: a file whose mark is
    here has not changed since, on either side. Eight bytes a file, however many there are.
    """

    def __init__(self) -> None:
        self._marks = array.array("Q")
        self._sorted = True

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, mark: int) -> None:
        self._marks.append(mark)
        self._sorted = False

    def __contains__(self, mark: int) -> bool:
        if not self._sorted:
            self._marks = array.array("Q", sorted(self._marks))
            self._sorted = True
        place = bisect_left(self._marks, mark)
        return place < len(self._marks) and self._marks[place] == mark


def _mark(name: bytes, facts: os.stat_result, against: os.stat_result) -> int:
    parts = [
        (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        for one in (facts, against)
    ]
    # The stage's device number depends on the order in which things are opened.
    text = repr((name, parts[0], parts[1][1:])).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


# The clock behind ctime ticks every few milliseconds: a change within the tick of the one before
# leaves no trace in it.
_RECENT_NS = 2 * 10**9
# What one thread compares at once.
_BATCH_FILES = 32
_BATCH_BYTES = 2**20


@dataclass(frozen=True)
class Pair:
    """One regular file, and its copy."""

    name: bytes
    path: bytes
    facts: os.stat_result
    other: bytes
    against: os.stat_result


def _pairs(source: Path, target: Path, skip: Callable[[bytes], bool]) -> Iterator[Pair]:
    """The files whose contents can be compared, of a source that is in use."""
    for name, path, facts in walk(source):
        other = os.path.join(os.fsencode(target), name)
        if stat.S_ISREG(facts.st_mode) and not skip(name):
            with contextlib.suppress(FileNotFoundError):
                against = os.lstat(other)
                if _comparable(facts, against):
                    yield Pair(name, path, facts, other, against)


def _comparable(facts: os.stat_result, against: os.stat_result) -> bool:
    both_files = stat.S_ISREG(facts.st_mode) and stat.S_ISREG(against.st_mode)
    return both_files and facts.st_size == against.st_size


def prove(
    source: Path, target: Path, skip: Callable[[bytes], bool], report: Callable[[int], None]
) -> tuple[Proven, int]:
    """Compare the contents of a copy with a source that is in use; return what is proven.

    A file that differs is emptied in the copy, so that the next `copy` brings it again; how many
    is returned too. `target` has to be mounted afresh, so that it is read from the medium.
    `report` gets the bytes read so far from the source.
    """
    proven, differing, read = Proven(), 0, 0
    for pair, equal in _compared(_pairs(source, target, skip)):
        if equal and abs(time.time_ns() - pair.facts.st_ctime_ns) > _RECENT_NS:
            proven.add(_mark(pair.name, pair.facts, pair.against))
        elif equal is False:
            os.truncate(pair.other, 0)
            differing += 1
        read += pair.facts.st_size
        report(read)
    return proven, differing


def _compared(pairs: Iterable[Pair]) -> Iterator[tuple[Pair, bool | None]]:
    """Each pair, and whether its contents are the same; None if a file has vanished meanwhile."""

    def compare_some(batch: list[Pair]) -> list[bool | None]:
        return [_same(pair) for pair in batch]

    for batch, equal in in_order(compare_some, _batches(pairs)):
        yield from zip(batch, equal, strict=True)


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """A few small files together: to hand each over to a thread takes longer than to read it."""
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += pair.facts.st_size
        if size >= _BATCH_BYTES or len(batch) == _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _same(pair: Pair) -> bool | None:
    try:
        return _same_content(pair.path, pair.other)
    except FileNotFoundError:
        return None


@dataclass
class Difference:
    """What a comparison found; `examples` are the first few, for the message."""

    entries: int = 0
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: bytes, what: str) -> None:
        self.count += 1
        if len(self.examples) < 10:
            self.examples.append(f"{os.fsdecode(name)!r}: {what}")


def compare(
    source: Path,
    target: Path,
    skip: Callable[[bytes], bool],
    report: Callable[[int], None],
    proven: Proven,
) -> Difference:
    """Compare all metadata of two trees, and the contents of what is not proven yet.

    `skip` names what may differ. `report` gets the bytes handled so far of the source.
    """
    result = Difference()
    handled = 0

    def to_read() -> Iterator[Pair]:
        nonlocal handled
        for pair in _compare_metadata(source, target, skip, result):
            if _mark(pair.name, pair.facts, pair.against) in proven:
                handled += pair.facts.st_size
                report(handled)
            else:
                yield pair

    # The walk compares the metadata while a few files are being read.
    for pair, equal in _compared(to_read()):
        if not equal:
            result.add(pair.name, "has other contents")
        handled += pair.facts.st_size
        report(handled)
    return result


def _compare_metadata(
    source: Path, target: Path, skip: Callable[[bytes], bool], result: Difference
) -> Iterator[Pair]:
    """Compare everything but contents; yield the files whose contents are to be compared."""
    links: dict[tuple[int, int], int] = {}
    tops = os.fsencode(source), os.fsencode(target)
    for what in _metadata_differences(tops[0], os.lstat(tops[0]), tops[1], os.lstat(tops[1])):
        result.add(b".", what)
    _find_extra(b"", *tops, skip, result)
    for name, path, facts in walk(source):
        if skip(name):
            continue
        result.entries += 1
        other = os.path.join(tops[1], name)
        try:
            against = os.lstat(other)
        except FileNotFoundError:
            result.add(name, "is missing")
            continue
        if stat.S_ISDIR(facts.st_mode) and stat.S_ISDIR(against.st_mode):
            _find_extra(name, path, other, skip, result)
        for what in _metadata_differences(path, facts, other, against):
            result.add(name, what)
        if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
            key = (facts.st_dev, facts.st_ino)
            if links.setdefault(key, against.st_ino) != against.st_ino:
                result.add(name, "is no longer a hard link to the same file")
        if _comparable(facts, against):
            yield Pair(name, path, facts, other, against)


def _find_extra(
    name: bytes, path: bytes, other: bytes, skip: Callable[[bytes], bool], result: Difference
) -> None:
    """What a folder of the copy has and its source does not."""
    for extra in sorted({*os.listdir(other)} - {*os.listdir(path)}):
        if not skip(os.path.join(name, extra)):
            result.add(os.path.join(name, extra), "is in the copy only")


def _metadata_differences(
    path: bytes, facts: os.stat_result, other: bytes, against: os.stat_result
) -> Iterator[str]:
    for what in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        if getattr(facts, what) != getattr(against, what):
            yield f"{what}: {getattr(facts, what)} became {getattr(against, what)}"
    kind = stat.S_IFMT(facts.st_mode)
    if kind != stat.S_IFDIR:
        for what in ("st_size", "st_nlink"):
            if getattr(facts, what) != getattr(against, what):
                yield f"{what}: {getattr(facts, what)} became {getattr(against, what)}"
    if kind in (stat.S_IFBLK, stat.S_IFCHR) and facts.st_rdev != against.st_rdev:
        yield "another device number"
    if kind == stat.S_IFLNK and os.readlink(path) != os.readlink(other):
        yield "another target of the link"
    if _xattrs(path) != _xattrs(other):
        yield "other extended attributes"
    if _carries_flags(facts) and _carries_flags(against):
        mine, theirs = get_flags(path) & FLAGS_KEPT, get_flags(other) & FLAGS_KEPT
        if mine != theirs:
            yield f"inode flags {mine:#x} became {theirs:#x}"


def _xattrs(path: bytes) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


def _same_content(left: bytes, right: bytes) -> bool:
    with open(left, "rb", buffering=0) as one, open(right, "rb", buffering=0) as two:
        while True:
            a, b = one.read(2**20), two.read(2**20)
            if a != b:
                return False
            if not a:
                return True


def _carries_flags(facts: os.stat_result) -> bool:
    return stat.S_IFMT(facts.st_mode) in _HAS_FLAGS


def get_flags(path: bytes) -> int:
    """Inode flags of a file or folder. Raises OSError."""
    descriptor = _open(path)
    try:
        flags = fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(struct.calcsize("l")))
        return int.from_bytes(flags, sys.byteorder) & 0xFFFFFFFF
    finally:
        os.close(descriptor)


def set_flags(path: bytes, flags: int) -> None:
    """Set the inode flags of a file or folder. Raises OSError."""
    descriptor = _open(path)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flags))
    finally:
        os.close(descriptor)


def _open(path: bytes) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME)


def explain(difference: Difference) -> DisagreementError:
    """The error to raise for a comparison that found differences."""
    return DisagreementError(
        f"The copy differs from its source in {difference.count} places.\n  "
        + "\n  ".join(difference.examples),
        data="The card is untouched.",
        advice="'sudo crfs resume' copies again; if it happens again, the stick is failing: "
        "replace it",
    )
