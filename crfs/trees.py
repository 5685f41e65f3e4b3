"""Copying a live directory tree with rsync.

rsync carries contents, holes, hard links, ACLs and extended attributes; inode flags (immutable,
append-only ...), which it does not know, are set here afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from crfs import runner

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
# Have it tell of each file that it has copied what it read, as a checksum, and the name.
_TELL_SUMS = ("--checksum-choice=md5", "--out-format=%C %n")
_SUM = re.compile(rb"([0-9a-f]{32}) (.+)")
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
# The name of a tree's top, next to those of `walk`.
TOP = b"."
# 24: a file vanished while it was copied; on a live system that is ordinary.
_RSYNC_OK = (0, 24)


def copy(
    source: Path,
    target: Path,
    without: Iterable[str] = (),
    only: Iterable[bytes] | None = None,
    sums: Callable[[bytes, bytes], None] | None = None,
) -> None:
    """Make `target` equal to `source`, flags excepted; only what differs is copied.

    What lies at the absolute names in `without` is left as it is in `target`. With `only`, other
    names are not looked at; a folder among them stands for its entries, not for theirs. `sums` is
    given the name of each file whose contents were copied, and the MD5 of what was read of it.

    Times are compared to the nanosecond. What `copy_flags` has locked has to be unlocked before.
    Raises CommandError.
    """
    options = [f"--exclude={_literal(name)}" for name in without]
    names = None
    if only is not None:
        options += ["--from0", "--files-from=-"]
        names = b"".join(_listed(source, name) + b"\0" for name in only)

    def hear(line: bytes) -> None:
        if sums and (found := parse_sum(line)):
            sums(*found)

    runner.run(
        [*RSYNC, *options, *(_TELL_SUMS if sums else ()), f"{source}/", f"{target}/"],
        stdin=names,
        timeout=24 * 3600,
        ok=_RSYNC_OK,
        data="The card is untouched; the copy on the stick is not complete yet.",
        heard=hear,
    )


def parse_sum(line: bytes) -> tuple[bytes, bytes] | None:
    """Name and MD5 of a file that rsync has copied; None if the line tells of something else.

    rsync writes bytes that cannot be printed as \\#ooo, octal; and a backslash, where that could
    be taken for one of them (rsync(1), --8-bit-output).
    """
    found = _SUM.fullmatch(line)
    if not found:
        return None
    name = _ESCAPED.sub(lambda byte: bytes([int(byte[1], 8) & 0xFF]), found[2])
    return name, bytes.fromhex(found[1].decode())


def _listed(source: Path, name: bytes) -> bytes:
    """A name as it has to be listed.

    Only a folder that ends in / is rid of what is too much; a name that begins with # or ; would
    be taken for a comment.
    """
    facts = os.lstat(os.path.join(os.fsencode(source), name))
    return b"./" + name + (b"/" if stat.S_ISDIR(facts.st_mode) else b"")


def _literal(name: str) -> str:
    """A name as a pattern of rsync that matches nothing else; see rsync(1), pattern rules."""
    return re.sub(r"([*?[\\])", r"\\\1", name) if re.search(r"[*?[]", name) else name


class Links:
    """Names that are one file in the copy, and not in the source any more.

    rsync would write one through the other, again at each pass.
    """

    def __init__(self) -> None:
        self._owners: dict[int, tuple[int, int]] = {}

    def part(self, path: bytes, facts: os.stat_result, there: os.stat_result) -> bool:
        """Remove a name of the copy if it is one of them; `there` is what the source has."""
        if facts.st_nlink == 1 or stat.S_ISDIR(facts.st_mode):
            return False
        owner = there.st_dev, there.st_ino
        if self._owners.setdefault(facts.st_ino, owner) == owner:
            return False
        os.unlink(path)
        return True


def part_links(source: Path, target: Path) -> None:
    """Do so with all of a copy that rsync is going to look at."""
    links = Links()
    for name, path, facts in walk(target):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            links.part(path, facts, os.lstat(os.path.join(os.fsencode(source), name)))


def unlock_tree(root: Path) -> None:
    """Clear immutable and append-only, which would keep a second pass from writing."""
    _unlock(os.fsencode(root))
    for _, path, facts in walk(root):
        if carries_flags(facts):
            _unlock(path)


def _unlock(path: bytes) -> None:
    flags = get_flags(path)
    if flags & _LOCKING:
        set_flags(path, flags & ~_LOCKING)


def copy_flags(source: Path, target: Path, names: Iterable[bytes]) -> None:
    """Give the inode flags of `source` to these names in `target`."""
    for name in names:
        path, other = (os.path.join(os.fsencode(top), name) for top in (source, target))
        if carries_flags(os.lstat(path)):
            flags, there = get_flags(path) & FLAGS_KEPT, get_flags(other)
            # Also where the source has none: an earlier pass may have set one.
            if there & FLAGS_KEPT != flags:
                set_flags(other, (there & ~FLAGS_KEPT) | flags)


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
        except (FileNotFoundError, NotADirectoryError):
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


def carries_flags(facts: os.stat_result) -> bool:
    """Whether this kind of inode has flags."""
    return stat.S_IFMT(facts.st_mode) in _HAS_FLAGS


def get_flags(path: bytes) -> int:
    """Inode flags of a file or folder. Raises OSError."""
    descriptor = open_inode(path)
    try:
        flags = fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(struct.calcsize("l")))
        return int.from_bytes(flags, sys.byteorder) & 0xFFFFFFFF
    finally:
        os.close(descriptor)


def set_flags(path: bytes, flags: int) -> None:
    """Set the inode flags of a file or folder. Raises OSError."""
    descriptor = open_inode(path)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flags))
    finally:
        os.close(descriptor)


def open_inode(path: bytes) -> int:
    """Open what has this name for reading: follow no link, wait for nobody. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC)
