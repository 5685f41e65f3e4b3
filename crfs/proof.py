"""Proving that a copy is equal to its source, to the last attribute.

Most is proven while the source is in use (`prove`). What has not changed since, by times that
only the kernel sets, is not looked at again (`unproven`, `compare`).

The source is changing under `prove`: between two looks a file can become a folder, a link or
gone. So nothing is followed but folders that are folders on both sides, and what cannot be
compared is not proven.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import stat
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from crfs.errors import CARD_UNTOUCHED, DisagreementError
from crfs.streams import in_order
from crfs.trees import FLAGS_KEPT, TOP, Links, carries_flags, get_flags, open_inode, walk

OTHER_CONTENTS = "has other contents"
# The clock behind ctime ticks every few milliseconds: a change within the tick of the one before
# leaves no trace in it.
_RECENT_NS = 2 * 10**9
# What one thread compares at once.
_BATCH_ENTRIES = 32
_BATCH_BYTES = 2**20
_READ_BYTES = 2**20
_MARKS_SORTED_AT_ONCE = 2**16


# Names, each with in what it differs.
Found = list[tuple[bytes, str]]


@dataclass(frozen=True)
class Pair:
    """An entry of the source, and what has its name in the copy; `against` is None if nothing."""

    name: bytes
    path: bytes
    facts: os.stat_result
    other: bytes
    against: os.stat_result | None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder in the source."""
        return stat.S_ISDIR(self.facts.st_mode)

    @property
    def bytes(self) -> int:
        """How much there is to read of the source, holes apart."""
        facts = self.facts
        return min(facts.st_size, 512 * facts.st_blocks) if stat.S_ISREG(facts.st_mode) else 0


def _pairs(source: Path, target: Path) -> Iterator[Pair]:
    """The top, and all that is below it."""
    top, other_top = os.fsencode(source), os.fsencode(target)
    yield Pair(TOP, top, os.lstat(top), other_top, os.lstat(other_top))
    # Folders of the source that are none in the copy. A link there may lead anywhere, back into
    # the system that is in use too.
    without: set[bytes] = set()
    for name, path, facts in walk(source):
        other = os.path.join(other_top, name)
        against = None
        if os.path.dirname(name) not in without:
            with contextlib.suppress(FileNotFoundError):
                against = os.lstat(other)
        pair = Pair(name, path, facts, other, against)
        if pair.is_folder and (against is None or not stat.S_ISDIR(against.st_mode)):
            without.add(name)
        yield pair


class Proven:
    """Entries of the copy that were found equal to their source, contents read from the medium.

    Each is kept as a hash of 64 bits of its name and of both sides' inode numbers, sizes and
    times. ctime is set by the kernel and by nobody else: an entry whose mark is here has not
    changed since, on either side (`prove` says what that takes). Eight bytes an entry, however
    many there are.
    """

    def __init__(self) -> None:
        self._sorted: list[array.array[int]] = []
        self._new: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._sorted)) + len(self._new)

    def add(self, pair: Pair) -> None:
        """Take a pair for proven, as it was when its facts were asked for."""
        self._new.append(_mark(pair))
        if len(self._new) == _MARKS_SORTED_AT_ONCE:
            self._sort()

    def _sort(self) -> None:
        self._sorted.append(array.array("Q", sorted(self._new)))
        self._new.clear()

    def __contains__(self, pair: Pair) -> bool:
        if self._new:
            self._sort()
        mark = _mark(pair)
        for marks in self._sorted:
            place = bisect_left(marks, mark)
            if place < len(marks) and marks[place] == mark:
                return True
        return False


def _mark(pair: Pair) -> int:
    one, two = pair.facts, pair.against
    facts = [one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns]
    if two is not None:
        # The stage's device number depends on the order in which things are opened.
        facts += [two.st_ino, two.st_size, two.st_mtime_ns, two.st_ctime_ns]
    # Times before 1970 are negative, those after 2262 do not fit into a signed number.
    text = struct.pack(f"{len(facts)}Q", *(fact % 2**64 for fact in facts)) + pair.name
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def prove(
    source: Path, target: Path, skip: Callable[[bytes], bool], report: Callable[[int], None]
) -> tuple[Proven, int]:
    """Compare a copy with a source that is in use; return what is proven.

    A file whose contents differ is emptied in the copy, so that the next `copy` brings it again;
    how many is returned too. `skip` names what may differ. `target` has to be mounted afresh, so
    that it is read from the medium. `report` gets the bytes read so far from the source.

    Whatever changed since shortly before all of this began is not proven: within one tick of the
    clock a second change leaves no trace. Neither does writing to a page that a program has
    mapped, as long as the page waits to be written out; so all are written out first.
    """
    proven, emptied, read = Proven(), 0, 0
    old = time.time_ns() - _RECENT_NS
    os.sync()
    wanted = (pair for pair in _pairs(source, target) if not skip(pair.name))
    for pair, found in _judged(wanted, skip):
        old = min(old, time.time_ns() - _RECENT_NS)  # the clock may be set back meanwhile
        if not found and pair.facts.st_ctime_ns < old:
            proven.add(pair)
        emptied += _empty_if_wrong(pair, found)
        read += pair.bytes
        report(read)
    return proven, emptied


def unproven(
    source: Path, target: Path, skip: Callable[[bytes], bool], proven: Proven
) -> list[bytes]:
    """The names that are not proven, or have changed since; nothing may write to the source.

    What rsync would take for equal, by size and times, and is not, is emptied in the copy; what it
    would write through another name is removed there.
    """
    names = []
    links = Links()
    parted = 0

    def to_judge() -> Iterator[Pair]:
        nonlocal parted
        for pair in _pairs(source, target):
            if pair.against is not None and links.part(pair.other, pair.against, pair.facts):
                parted += 1
            elif pair not in proven:
                names.append(pair.name)
                if not skip(pair.name):
                    yield pair

    for pair, found in _judged(to_judge(), skip):
        _empty_if_wrong(pair, found)
    # A name less is a change of the names that are left, and some were looked at before.
    return unproven(source, target, skip, proven) if parted else names


def _empty_if_wrong(pair: Pair, found: Found) -> bool:
    """Empty a file of the copy that has other contents; whether it was one."""
    if (pair.name, OTHER_CONTENTS) not in found:
        return False
    descriptor = os.open(pair.other, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    return True


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
    """Compare two trees, all metadata and contents, but for what is proven.

    `skip` names what may differ. `report` gets the bytes handled so far of the source.
    """
    result = Difference()
    handled = 0
    links: dict[tuple[int, int], int] = {}

    def handle(pair: Pair) -> None:
        nonlocal handled
        handled += pair.bytes
        report(handled)

    def to_judge() -> Iterator[Pair]:
        for pair in _pairs(source, target):
            if skip(pair.name):
                continue
            result.entries += 1
            if not _linked_alike(pair, links):
                result.add(pair.name, "is no longer a hard link to the same file")
            if pair in proven:
                handle(pair)
            else:
                yield pair

    for pair, found in _judged(to_judge(), skip):
        for name, what in found:
            result.add(name, what)
        handle(pair)
    return result


def _linked_alike(pair: Pair, links: dict[tuple[int, int], int]) -> bool:
    """Whether names of one file in the source are names of one file in the copy."""
    facts, against = pair.facts, pair.against
    if against is None or facts.st_nlink == 1 or pair.is_folder:
        return True
    return links.setdefault((facts.st_dev, facts.st_ino), against.st_ino) == against.st_ino


def _judged(pairs: Iterable[Pair], skip: Callable[[bytes], bool]) -> Iterator[tuple[Pair, Found]]:
    """Each pair, and in what it differs."""

    def judge(batch: list[Pair]) -> list[Found]:
        return [_judge(pair, skip) for pair in batch]

    for batch, found in in_order(judge, _batches(pairs)):
        yield from zip(batch, found, strict=True)


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """A few small files together: to hand each over to a thread takes longer than to read it."""
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += pair.bytes
        if size >= _BATCH_BYTES or len(batch) == _BATCH_ENTRIES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _judge(pair: Pair, skip: Callable[[bytes], bool]) -> Found:
    if pair.against is None:
        return [(pair.name, "is missing")]
    try:
        found = [(pair.name, what) for what in _differences(pair, pair.against)]
        if pair.is_folder and stat.S_ISDIR(pair.against.st_mode):
            found += [(name, "is in the copy only") for name in _surplus(pair) if not skip(name)]
    except OSError as problem:
        if problem.errno == errno.EIO:
            raise
        return [(pair.name, f"cannot be compared: {problem.strerror}")]
    return found


def _surplus(pair: Pair) -> Iterator[bytes]:
    """What a folder of the copy has and its source does not."""
    folder = b"" if pair.name == TOP else pair.name
    for extra in sorted({*os.listdir(pair.other)} - {*os.listdir(pair.path)}):
        yield os.path.join(folder, extra)


def _differences(pair: Pair, against: os.stat_result) -> Iterator[str]:
    path, facts, other = pair.path, pair.facts, pair.other
    for what in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        if getattr(facts, what) != getattr(against, what):
            yield f"{what}: {getattr(facts, what)} became {getattr(against, what)}"
    kind = stat.S_IFMT(facts.st_mode)
    if kind != stat.S_IFMT(against.st_mode):
        return
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
    if carries_flags(facts):
        mine, theirs = get_flags(path) & FLAGS_KEPT, get_flags(other) & FLAGS_KEPT
        if mine != theirs:
            yield f"inode flags {mine:#x} became {theirs:#x}"
    readable = kind == stat.S_IFREG and facts.st_size == against.st_size
    if readable and not _same_content(path, other, facts.st_size):
        yield OTHER_CONTENTS


def _xattrs(path: bytes) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


def _same_content(left: bytes, right: bytes, size: int) -> bool:
    with (
        open(open_inode(left), "rb", buffering=0) as one,
        open(open_inode(right), "rb", buffering=0) as two,
    ):
        while size > 0:
            # Room for what is left, and no more: most files are small.
            room = min(size, _READ_BYTES)
            a, b = one.read(room), two.read(room)
            if a != b:
                return False
            if not a:
                break
            size -= len(a)
    return True


def explain(difference: Difference) -> DisagreementError:
    """The error to raise for a comparison that found differences."""
    return DisagreementError(
        f"The copy differs from its source in {difference.count} places.\n  "
        + "\n  ".join(difference.examples),
        data=CARD_UNTOUCHED,
        advice="'sudo crfs resume' copies again; if it happens again, the stick is failing: "
        "replace it",
    )
