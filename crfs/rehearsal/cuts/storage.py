"""Disks that remember in which order they were written, or that fail: QEMU's storage daemon.

The card and the stick reach user-mode Linux as virtio disks. `blklogwrites` keeps every write and
flush outside of the Pi (in the format of the kernel's dm-log-writes), `blkdebug` fails requests.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crfs.rehearsal.layout import SECTOR
from crfs.rehearsal.programs import end_process_group, program, start_serving

START_S = 20.0
FLUSH, FUA, DISCARD = 1, 2, 4
# What may become of the writes that no flush has followed: all gone, some gone, some torn between
# two sectors, applied in another order.
CACHES = ("dropped", "partly", "torn", "reordered")


@dataclass(frozen=True)
class Disk:
    """One disk image. `log` is where writes are noted; `errors` are blkdebug's rules."""

    image: Path
    log: Path | None = None
    errors: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Write:
    """One entry of a log. `start` in bytes; `content` is empty for a discard or a mere flush."""

    start: int
    size: int
    flags: int
    content: bytes


class Storage:
    """The daemon, for the time of one boot."""

    def __init__(self, folder: Path, disks: Sequence[Disk]) -> None:
        """`folder` gets the sockets; its path has to be short."""
        self.sockets = [folder / f"disk{number}.sock" for number in range(len(disks))]
        arguments = [program("qemu-storage-daemon", "qemu-system-common")]
        for number, disk in enumerate(disks):
            for node in _nodes(number, disk):
                arguments += ["--blockdev", json.dumps(node)]
            export = {
                "type": "vhost-user-blk",
                "id": f"e{number}",
                "node-name": f"top{number}",
                "addr": {"type": "unix", "path": str(self.sockets[number])},
                "writable": True,
            }
            arguments += ["--export", json.dumps(export)]
        self._process = start_serving(arguments, folder / "storage.log", self.sockets)

    def stop(self) -> None:
        """End it at once, as the power does."""
        end_process_group(self._process)


def _nodes(number: int, disk: Disk) -> list[dict[str, Any]]:
    """QEMU's block nodes of one disk, the last of them called topN."""
    below = {
        "driver": "raw",
        "node-name": f"raw{number}",
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(disk.image), "discard": "unmap"},
    }
    nodes: list[dict[str, Any]] = [below]
    if disk.log is not None:
        disk.log.write_bytes(b"")
        nodes.append(
            {
                "driver": "blklogwrites",
                "node-name": f"log{number}",
                "file": nodes[-1]["node-name"],
                "log": {"driver": "file", "filename": str(disk.log)},
            }
        )
    if disk.errors:
        nodes.append(
            {
                "driver": "blkdebug",
                "node-name": f"failing{number}",
                "image": nodes[-1]["node-name"],
                "inject-error": [{"event": "none", "errno": 5, **rule} for rule in disk.errors],
            }
        )
    nodes[-1]["node-name"] = f"top{number}"
    return nodes


def read_log(path: Path) -> list[Write]:
    """The entries of a log, in their order, as far as they are whole."""
    found: list[Write] = []
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        at = SECTOR  # behind the superblock, whose count of entries may be old
        while at + SECTOR <= length:
            file.seek(at)
            first, count, flags, _ = struct.unpack("<4Q", file.read(32))
            at += SECTOR
            if not count and not flags:
                break
            size = count * SECTOR
            content = b""
            if not flags & DISCARD and size:
                file.seek(at)
                content = file.read(size)
                if len(content) < size:
                    break
                at += size
            found.append(Write(first * SECTOR, size, flags, content))
    return found


def flushed(writes: Sequence[Write]) -> int:
    """How many of the writes, from the first on, the medium is sure to hold."""
    return max((number + 1 for number, one in enumerate(writes) if one.flags & FLUSH), default=0)


def survivors(writes: Sequence[Write], cache: str, rng: random.Random) -> list[Write]:
    """What the medium holds after a cut: all up to the last flush, and what chance has kept."""
    sure = flushed(writes)
    kept = list(writes[:sure])
    tail = [one for one in writes[sure:] if one.size]
    kept += [one for one in tail if one.flags & FUA]
    tail = [one for one in tail if not one.flags & FUA]
    if cache == "partly":
        tail = [one for one in tail if rng.random() < 0.5]
    elif cache == "torn":
        tail = [_torn(one, rng) for one in tail[: rng.randint(0, len(tail))]]
    elif cache == "reordered":
        tail = rng.sample(tail, rng.randint(0, len(tail)))
    else:
        tail = []
    return kept + tail


def _torn(write: Write, rng: random.Random) -> Write:
    """A beginning of the write that ends between two sectors."""
    size = rng.randint(0, write.size // SECTOR) * SECTOR
    return Write(write.start, size, write.flags, write.content[:size])


def apply(image: Path, writes: Sequence[Write]) -> None:
    """Write them into an image of what was there before."""
    with image.open("r+b") as file:
        for one in writes:
            if not one.size:
                continue
            file.seek(one.start)
            # A discarded place reads as zeros here.
            file.write(one.content if not one.flags & DISCARD else bytes(one.size))
