"""Writing to the boot partition so that a power cut leaves the old content or the new.

FAT has no journal. `replace` writes the new content under a new name, flushes it, and renames.
The Linux FAT driver turns the rename into a write of each name's directory entry, and frees the old
clusters when the last descriptor on them is closed. Holding the old file open until the entry is
on the medium keeps "entry still old, clusters already free" from ever being there. Sectors of 512
bytes are taken to be written whole or not at all.

The two entries may lie in two sectors, and a cut between them leaves two names with the same
clusters. fsck.vfat, which the next boot runs, then empties the name that stands second in the
folder (dosfstools 4.2, tried). So the new name always stands behind the one it replaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
from pathlib import Path

SUFFIX = ".crfs-new"
_MOST_GAPS = 64  # left by removed files before the name to be replaced
_ENTRIES = 32  # more than crfs's own names take in a folder at one time
_ROOM = "CRFS"  # with four figures a name of one entry: capitals, no longer than eight characters
_FIBMAP = 1  # from linux/fs.h


def replace(path: Path, content: bytes) -> None:
    """Give `path` the content, atomically against power cuts. Raises OSError."""
    *fillers, fresh = _behind(path)
    write_synced(fresh, content)
    old = os.open(path, os.O_RDONLY) if path.exists() else None
    try:
        fresh.rename(path)
        sync_folder(path.parent)
    finally:
        if old is not None:
            os.close(old)
    for filler in fillers:
        filler.unlink()
    sync_folder(path.parent)


def _behind(path: Path) -> list[Path]:
    """New empty files, the last of which stands behind `path` in its folder."""
    made: list[Path] = []
    matters = path.exists() and _is_fat(path.parent)
    for number in range(_MOST_GAPS):
        fresh = path.with_name(f"{path.name}{f'.{number}' if number else ''}{SUFFIX}")
        if fresh.exists():
            remove(fresh)
        if fresh.exists():
            continue
        fresh.touch()
        made.append(fresh)
        # In the order of the folder; FAT finds `path` in whatever case it is written there.
        place = {name.lower(): number for number, name in enumerate(os.listdir(path.parent))}
        if not matters or place[fresh.name.lower()] > place.get(path.name.lower(), -1):
            break
    return made


def make_room(folder: Path) -> None:
    """Have the names that come to a folder stand where names have been. Raises OSError.

    A FAT folder ends at the first entry that was never used. A long name takes several entries; if
    a cut lets only the later of them through, names behind the gap are there for Linux, but not
    for the firmware, and a kernel as new as 7.2 does not write to the folder any more. fsck.vfat
    (4.2) leaves it so. Names of one entry leave no gap, and once removed no end either.
    """
    if not _is_fat(folder):
        return
    made: list[Path] = []
    while len(made) < _MOST_GAPS:
        made.append(folder / f"{_ROOM}{len(made):04}")
        made[-1].touch()
        sync_folder(folder)
        last = os.listdir(folder)[-_ENTRIES:]
        if len(last) == _ENTRIES and all(name.startswith(_ROOM) for name in last):
            break
    remove_room(folder)


def remove_room(folder: Path) -> None:
    """Remove the names that `make_room` was cut off with."""
    for path in folder.glob(f"{_ROOM}[0-9][0-9][0-9][0-9]"):
        path.unlink()
    sync_folder(folder)


def _is_fat(folder: Path) -> bool:
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return any(line.split(" ")[2] == number and " - vfat " in line for line in file)


def remove(path: Path) -> None:
    """Remove a file if it is there, and see it through to the medium.

    Not one that a cut has left with the clusters of the name that it was to replace: they would be
    free for others, and in use. fsck.vfat parts the two at the next boot.
    """
    replaced = path.with_name(re.sub(rf"(\.\d+)?{re.escape(SUFFIX)}$", "", path.name))
    if replaced != path and _sector(path) and _sector(path) == _sector(replaced):
        return
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def _sector(path: Path) -> int:
    """Where a file begins on its partition; 0 for an empty one, and where nobody can tell."""
    try:
        with path.open("rb") as file:
            answer = fcntl.ioctl(file, _FIBMAP, struct.pack("i", 0))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


def read_back(path: Path) -> bytes:
    """What the medium holds, not what memory remembers. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    with open(descriptor, "rb") as file:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and flush it to the medium (not atomic)."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the whole filesystem that a folder is on. Raises OSError.

    syncfs(2), since fsync of a folder writes neither FAT's table nor a renamed file's entry. And
    fsync, since only that has the card empty its own write cache: the FAT driver's syncfs does not.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
