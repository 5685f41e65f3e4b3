"""The journal: what crfs intends, in two alternating slots on the boot partition.

Each slot is a file of fixed size, overwritten in place: one line of header with sequence number,
length and SHA-256, then JSON. The newer intact slot counts; a torn one is the older state's
loss only. The devices, not the journal, tell what is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from crfs import fatfile, model
from crfs.errors import JournalError
from crfs.model import Record

FOLDER = "crfs"
SLOTS = ("journal.0", "journal.1")
SLOT_SIZE = 16384  # bytes; a record takes about 4 KiB
_MAGIC = b"crfs-journal-1"
_HEADER = re.compile(rb"crfs-journal-1 (\d{1,18}) (\d{1,6}) ([0-9a-f]{64})\n")
_INTACT = "Nothing was changed by this: the disks are as the last boot left them."


@dataclass(frozen=True)
class Entry:
    sequence: int
    record: Record


def encode(sequence: int, record: Record) -> bytes:
    """One slot's bytes. Raises JournalError if the record does not fit or cannot be read back."""
    body = json.dumps(model.dump(record), sort_keys=True).encode()
    digest = hashlib.sha256(b"%d\n" % sequence + body).hexdigest().encode()
    slot = b"%s %d %d %s\n" % (_MAGIC, sequence, len(body), digest) + body
    if len(slot) > SLOT_SIZE:
        raise JournalError(
            "The journal record is too large for its slot.",
            data=_INTACT,
            advice="report this, with the output of 'lsblk --json --output-all'",
        )
    slot = slot.ljust(SLOT_SIZE, b"\0")
    if decode(slot) != Entry(sequence, record):
        raise JournalError(
            "The journal record cannot be read back.",
            data=_INTACT,
            advice="report this, with the output of 'lsblk --json --output-all'",
        )
    return slot


def decode(slot: bytes) -> Entry | None:
    """The entry in a slot, or None where it is torn, empty or not ours."""
    header = _HEADER.match(slot)
    if header is None:
        return None
    sequence, length = int(header[1]), int(header[2])
    body = slot[header.end() : header.end() + length]
    if hashlib.sha256(b"%d\n" % sequence + body).hexdigest().encode() != header[3]:
        return None
    try:
        return Entry(sequence, model.load(Record, json.loads(body)))
    except (ValueError, RecursionError):
        return None


class Journal:
    """The two slots under `boot`, the mount point of the boot partition."""

    def __init__(self, boot: Path) -> None:
        self.folder = boot / FOLDER
        self._sequence = 0

    def exists(self) -> bool:
        """Whether there is a slot at all, intact or not."""
        return any((self.folder / name).exists() for name in SLOTS)

    def read(self) -> Record | None:
        """The newest intact record, None if there is no journal.

        Raises JournalError where slots are there and none is intact.
        """
        entries = [entry for name in SLOTS if (entry := decode(_read(self.folder / name)))]
        if entries:
            newest = max(entries, key=lambda entry: entry.sequence)
            self._sequence = newest.sequence
            return newest.record
        if not self.exists():
            return None
        raise JournalError(
            f"Both slots of the journal in {self.folder} are damaged.",
            data=_INTACT,
            advice="look at 'lsblk --fs'. With / on the card's plain partition nothing was given "
            f"up: remove {self.folder}, then 'sudo crfs encrypt' begins anew. With / on a mapping "
            f"keep {self.folder} and the stick as they are, and ask for help",
        )

    def write(self, record: Record) -> None:
        """Make the record durable in the slot that does not hold the newest one.

        The first time in both, so that later ones need no more room than there is. Raises OSError.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._write(record)
        if not (self.folder / SLOTS[1 - self._sequence % 2]).exists():
            self._write(record)

    def _write(self, record: Record) -> None:
        sequence = self._sequence + 1
        path = self.folder / SLOTS[sequence % 2]
        slot = encode(sequence, record)
        if path.exists() and path.stat().st_size == SLOT_SIZE:
            _overwrite(path, slot)
        else:
            fatfile.replace(path, slot)
        # Only now: after a failure the newest record must not be the one that is overwritten.
        self._sequence = sequence

    def remove(self) -> None:
        """Forget the run. The newest slot goes last, so that a cut leaves a readable journal.

        The folder stays until `remove_empty_folder`: as long as it is there, the next boot looks
        whether something was left to be done.
        """
        if not self.folder.is_dir():
            return
        newest = self._sequence % 2
        for name in (SLOTS[1 - newest], SLOTS[newest]):
            fatfile.remove(self.folder / name)
        for unfinished in self.folder.glob(f"*{fatfile.SUFFIX}"):
            unfinished.unlink()

    def remove_empty_folder(self) -> None:
        """Also what a cut in `remove`, or before the first `write`, has left."""
        if not self.folder.is_dir():
            return
        fatfile.remove_room(self.folder)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
            fatfile.sync_folder(self.folder.parent)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SLOT_SIZE)
    except OSError:
        return b""


def _overwrite(path: Path, slot: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, slot, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
