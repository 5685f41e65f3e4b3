"""When a disk fails: whether it is the card or the stick, and what is still possible.

The kernel names the device of each request that failed. Source of its words: Linux,
block/blk-core.c (`blk_errors`).
"""

from __future__ import annotations

import dataclasses
import os
import re

from crfs import probe
from crfs.model import Halt, Record

_FAILED = re.compile(r"(?:I/O|timeout|transport|medium|offline) error, dev (\w+), sector")
_COPY_IT = "power off, copy it on a PC to another of at least its size ('ddrescue'), plug that in"


def blame(halt: Halt, record: Record) -> Halt:
    """The reason for stopping, with the disk that fails and the way out, if one does."""
    devices = set(_FAILED.findall(probe.kernel_log()))
    if not devices:
        return halt
    card = _disk_of_boot_partition(record.plan.boot.mount)
    name = "card" if card in devices else "stick"
    what = f"{halt.what} The kernel reports errors of the {name} ({', '.join(sorted(devices))})."
    return dataclasses.replace(halt, what=what, advice=_way_out(name, destroyed=record.destroyed))


def _disk_of_boot_partition(mount: str) -> str:
    """The kernel's name of the disk that is the card in this boot, "" if that cannot be told."""
    found = probe.mount_of(mount)
    if found is None:
        return ""
    part = os.path.basename(os.path.realpath(found.source))
    return os.path.basename(os.path.realpath(f"/sys/class/block/{part}/.."))


def _way_out(name: str, *, destroyed: bool) -> str:
    if not destroyed and name == "stick":
        return "'sudo crfs rollback', then 'sudo crfs encrypt' with another stick"
    if not destroyed:
        return "'sudo crfs rollback'; then copy the card to a new one and encrypt that"
    return (
        f"'sudo crfs resume' tries again, the stick perhaps at another port; if the {name} fails "
        f"again: {_COPY_IT} in its place, and power on"
    )
