"""Writing to the boot partition so that a power cut leaves the old content or the new.

FAT has no journal. `replace` writes the new content under a new name, flushes it, and renames.
The Linux FAT driver turns the rename into one write of the directory entry, and frees the old
clusters when the last descriptor on them is closed. Holding the old file open until the entry is
on the medium keeps "entry still old, clusters already free" from ever being there.
Sectors of 512 bytes are taken to be written whole or not at all.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SUFFIX = ".crfs-new"


def replace(path: Path, content: bytes) -> None:
    """Give `path` the content, atomically against power cuts. Raises OSError."""
    fresh = path.with_name(path.name + SUFFIX)
    write_synced(fresh, content)
    old = os.open(path, os.O_RDONLY) if path.exists() else None
    try:
        fresh.rename(path)
        sync_folder(path.parent)
    finally:
        if old is not None:
            os.close(old)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there, and see it through to the medium."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


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
