"""Proving that a copy is equal to its source, to the last attribute.

Most is proven while the source is in use (`prove`). What has not changed since, by times that
only the kernel sets, is not looked at again (`unproven`, `compare`).

The source is changing under `prove`: between two looks a file can become a folder, a link or
gone. So nothing is followed but folders that are folders on both sides, and what cannot be
compared is not proven.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path

from crfs.errors import CARD_UNTOUCHED, DisagreementError
from crfs.marks import Marks
from crfs.trees import FLAGS_KEPT, TOP, Links, carries_flags, get_flags, open_inode, walk

OTHER_CONTENTS = "has other contents"
# The clock behind ctime ticks every few milliseconds: a change within the tick of the one before
# leaves no trace in it.
_RECENT_NS = 2 * 10**9
# How many names are fetched at a time, while as many that were before are compared.
_BATCH = 256
# How many large files may wait for being compared. Many: small ones keep the processor busy, large
# ones the medium, and where one kind lies together, the other has to come from elsewhere.
_LARGE_AHEAD = 1024
# How many large files are read at a time: while one is opened, the medium has another to read.
_LARGE_STREAMS = 2
# The kernel reads ahead by itself in files that are larger (its read_ahead_kb is 128).
_SMALL_BYTES = 2**17
_READ_BYTES = 2**20


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
    def is_small(self) -> bool:
        """Whether it is too small for the kernel to read ahead in it by itself, holes and all."""
        return self.facts.st_size <= _SMALL_BYTES

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

    Each is kept as a mark of its name and of both sides' inode numbers, sizes and times. ctime is
    set by the kernel and by nobody else: an entry whose mark is here has not changed since, on
    either side (`Moment` says what that takes).
    """

    def __init__(self) -> None:
        self._marks = Marks()

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, pair: Pair) -> None:
        """Take a pair for proven, as it was when its facts were asked for."""
        self._marks.add(_facts(pair))

    def __contains__(self, pair: Pair) -> bool:
        return _facts(pair) in self._marks


def _facts(pair: Pair) -> bytes:
    one, two = pair.facts, pair.against
    facts = [one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns]
    if two is not None:
        # The stage's device number depends on the order in which things are opened.
        facts += [two.st_ino, two.st_size, two.st_mtime_ns, two.st_ctime_ns]
    # Times before 1970 are negative, those after 2262 do not fit into a signed number.
    return struct.pack(f"{len(facts)}Q", *(fact % 2**64 for fact in facts)) + pair.name


class Moment:
    """Now; what has not changed since can be told later, by times that only the kernel sets.

    Within one tick of the clock a second change leaves no trace, so what changed shortly before
    counts as changed. Neither does writing to a page that a program has mapped, as long as the
    page waits to be written out; so all are written out here.
    """

    def __init__(self) -> None:
        self._since_boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._ns = time.time_ns()
        os.sync()

    def look(self) -> None:
        """Look at the clock. Where it has been set back, the moment was earlier by as much."""
        passed = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._since_boot
        self._ns = min(self._ns, time.time_ns() - passed)

    def unchanged(self, *facts: os.stat_result) -> bool:
        """Whether none of these things had changed between the moment and its being looked at."""
        self.look()
        return all(one.st_ctime_ns < self._ns - _RECENT_NS for one in facts)


class Copied:
    """What rsync has read of the source, by the checksums that it makes as it copies.

    Where the copy has the same, and the source has not changed since rsync began, the source need
    not be read a second time. To be made just before rsync is started.
    """

    def __init__(self) -> None:
        self._names = Marks()
        self._sums = Marks()
        self._begun = Moment()

    def add(self, name: bytes, md5: bytes) -> None:
        """Take the MD5 of what was read of a file."""
        self._begun.look()
        self._names.add(name)
        self._sums.add(md5 + name)

    def may_know(self, pair: Pair) -> bool:
        """Whether rsync has read what had this name."""
        return pair.name in self._names

    def knows(self, pair: Pair, folders: dict[bytes, bool]) -> bool:
        """Whether it is this file that rsync has read, unchanged, and under its name all the time.

        A folder that is moved takes along what is in it, whose times stay; its own do not. They
        are asked for after the file's: whatever is moved later has other facts under that name.
        `folders` keeps what was found, for more files whose facts were there when it was begun.
        """
        if not self.may_know(pair):
            return False
        folder = os.path.dirname(pair.path)
        if folder not in folders:
            folders[folder] = self._is_in_place(folder, pair.name.count(b"/"))
        return folders[folder] and self._begun.unchanged(pair.facts)

    def _is_in_place(self, folder: bytes, depth: int) -> bool:
        """Whether a folder, so many levels below the top, is what it was, and all above it.

        Each is asked for after what is in it, or that might have been moved away and back.
        """
        above = []
        try:
            for _ in range(depth + 1):
                above.append(os.lstat(folder))
                folder = os.path.dirname(folder)
        except OSError as problem:
            if problem.errno == errno.EIO:
                raise
            return False
        return self._begun.unchanged(*above)

    def is_whole(self, pair: Pair) -> bool:
        """Whether the copy of a file that it `knows` holds what the source does.

        Reads the copy only. False does not say that it is not so. Raises OSError.
        """
        return _md5(pair.other, pair.facts.st_size) + pair.name in self._sums


def _md5(path: bytes, size: int) -> bytes:
    # Against what goes wrong, not against anyone: the stick is encrypted.
    digest = hashlib.md5(usedforsecurity=False)
    with closing(_content(path, size)) as pieces:
        for piece in pieces:
            digest.update(piece)
    return digest.digest()


def prove(
    source: Path,
    target: Path,
    skip: Callable[[bytes], bool],
    report: Callable[[int], None],
    copied: Copied | None = None,
) -> tuple[Proven, int]:
    """Compare a copy with a source that is in use; return what is proven.

    A file whose contents differ is emptied in the copy, so that the next `copy` brings it again;
    how many is returned too. `skip` names what may differ. `target` has to be mounted afresh, so
    that it is read from the medium. `report` gets the bytes handled so far of the source; what is
    as `copied` is not read there.

    Whatever changed since shortly before all of this began is not proven.
    """
    proven, emptied, handled = Proven(), 0, 0
    begun = Moment()
    wanted = (pair for pair in _pairs(source, target) if not skip(pair.name))
    for pair, found in _judged(wanted, skip, copied):
        if not found and begun.unchanged(pair.facts):
            proven.add(pair)
        emptied += _empty_if_wrong(pair, found)
        handled += pair.bytes
        report(handled)
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


def _judged(
    pairs: Iterable[Pair], skip: Callable[[bytes], bool], copied: Copied | None = None
) -> Iterator[tuple[Pair, Found]]:
    """Each pair, and in what it differs; not quite in their order.

    Large files are left to other threads, which do nothing but wait for the medium and compare.
    With small ones, threads would mostly wait for each other.
    """
    large: deque[tuple[Pair, Future[Found]]] = deque()
    with contextlib.ExitStack() as at_the_end:
        pool = ThreadPoolExecutor(_LARGE_STREAMS)
        at_the_end.callback(pool.shutdown, cancel_futures=True)
        for batch in _read_ahead(iter(pairs), copied):
            folders: dict[bytes, bool] = {}
            for pair in batch:
                known = copied if copied and copied.knows(pair, folders) else None
                if pair.is_small:
                    yield pair, _judge(pair, skip, known)
                else:
                    large.append((pair, pool.submit(_judge, pair, skip, known)))
                while large and (len(large) > _LARGE_AHEAD or large[0][1].done()):
                    first, found = large.popleft()
                    yield first, found.result()
        for first, found in large:
            yield first, found.result()


def _read_ahead(pairs: Iterator[Pair], copied: Copied | None) -> Iterator[list[Pair]]:
    """Have the kernel fetch the small files of a batch while the one before it is looked at.

    One by one, each costs the medium a request of its own, and those are few in a second. What
    waits in a queue, and lies side by side, becomes one.
    """
    batch: list[Pair] = []
    while following := list(islice(pairs, _BATCH)):
        for pair in following:
            against = pair.against
            if pair.bytes and pair.is_small and against and stat.S_ISREG(against.st_mode):
                with contextlib.suppress(OSError):  # whoever reads it will meet that
                    _fetch(pair.other)
                    if copied is None or not copied.may_know(pair):
                        _fetch(pair.path)
        yield batch
        batch = following
    yield batch


def _fetch(path: bytes) -> None:
    descriptor = open_inode(path)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def _judge(pair: Pair, skip: Callable[[bytes], bool], known: Copied | None) -> Found:
    if pair.against is None:
        return [(pair.name, "is missing")]
    try:
        found = [(pair.name, what) for what in _differences(pair, pair.against, known)]
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


def _differences(pair: Pair, against: os.stat_result, known: Copied | None) -> Iterator[str]:
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
    whole = readable and known is not None and known.is_whole(pair)
    if readable and not whole and not _same_content(path, other, facts.st_size):
        yield OTHER_CONTENTS


def _xattrs(path: bytes) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


def _same_content(left: bytes, right: bytes, size: int) -> bool:
    """Whether a file and its copy begin with the same."""
    with closing(_content(left, size)) as ours, closing(_content(right, size)) as theirs:
        return all(one == two for one, two in zip_longest(ours, theirs))


def _content(path: bytes, size: int) -> Generator[bytes]:
    """What a file begins with, in pieces; while one is looked at, the next two are fetched.

    With one, the medium would have nothing to do from its end until the next is asked for.
    """
    descriptor = open_inode(path)
    try:
        for begin in range(0, size, _READ_BYTES):
            end = min(begin + _READ_BYTES, size)
            content = _read(descriptor, end - begin)
            if end < size:
                os.posix_fadvise(descriptor, end, 2 * _READ_BYTES, os.POSIX_FADV_WILLNEED)
            yield content
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    """As much, unless the file ends before.

    Where a medium fails, the kernel gives what is before that first, and the error when it is
    asked again.
    """
    content = os.read(descriptor, size)
    while len(content) < size and (more := os.read(descriptor, size - len(content))):
        content += more
    return content


def explain(difference: Difference) -> DisagreementError:
    """The error to raise for a comparison that found differences."""
    return DisagreementError(
        f"The copy differs from its source in {difference.count} places.\n  "
        + "\n  ".join(difference.examples),
        data=CARD_UNTOUCHED,
        advice="'sudo crfs resume' copies again; if it happens again, the stick is failing: "
        "replace it",
    )
