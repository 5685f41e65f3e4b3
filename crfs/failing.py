"""When a disk fails: whether it is the card or the stick, and what is still possible.

The kernel names the device of each request that failed. Source of its words: Linux,
block/blk-core.c (`blk_errors`).
"""

from __future__ import annotations

import dataclasses
import os
import re

from crfs import probe
from crfs.errors import CrfsError
from crfs.model import Halt, Plan, Record

_FAILED = re.compile(r"(?:I/O|timeout|transport|medium|offline) error, dev (\w+), sector")


def blame(halt: Halt, record: Record) -> Halt:
    """The reason for stopping, with the disk that fails and the way out, if one does."""
    try:
        devices = set(_FAILED.findall(probe.kernel_log()))
    except CrfsError:
        return halt  # a failing disk may be the very one that the log is on
    if not devices:
        return halt
    for name, device in (("card", _card(record.plan)), ("stick", _stick(record.plan))):
        if device in devices:
            return dataclasses.replace(
                halt,
                what=f"{halt.what} The kernel reports errors of the {name} ({device}).",
                advice=f"{_way_out(name, record)}; {halt.advice}",
            )
    return halt


def _card(plan: Plan) -> str:
    """The kernel's name of the disk with the boot partition, "" if that is not there any more."""
    mount = probe.mount_of(plan.boot.mount)
    part = os.path.basename(os.path.realpath(mount.source)) if mount else ""
    place = os.path.realpath(f"/sys/class/block/{part}")
    return os.path.basename(os.path.dirname(place)) if part and os.path.exists(place) else ""


def _stick(plan: Plan) -> str:
    """The kernel's name of the stick, "" if it is not there any more."""
    try:
        return os.path.basename(probe.find_stage(plan.uuids.stage_luks).path)
    except CrfsError:
        pass  # it may have no header of ours yet, or be unreadable
    try:
        return os.path.basename(probe.find_stick(plan.stick, plan.card).path)
    except CrfsError:
        return ""


def _way_out(name: str, record: Record) -> str:
    """What to do about a failing card or stick: which of them still has the only whole root?"""
    # As in crfs/steps, which is above this.
    match name, record.state, record.destroyed:
        case "stick", "finishing", _:
            return (
                "pull the stick, which is not needed any more, 'sudo crfs resume', and destroy the "
                "stick: its keys may still be on it"
            )
        case "stick", "rolling_back", _:
            return (
                "pull the stick and destroy it: it could not be erased; then 'sudo crfs resume', "
                "which puts the rest back without it"
            )
        case "stick", _, False:
            return "'sudo crfs rollback', then 'sudo crfs encrypt' with another stick"
        case "stick", _, True:
            return (
                "try another port, then 'sudo crfs resume'; if it fails again: power off, copy "
                "the stick on a PC to another of at least its size ('ddrescue'), plug that in in "
                "its place, power on"
            )
        case _, "finishing", _:
            return "/ is on cryptrfs and in use: back up now, then replace the card"
        case _, _, False:
            return "power off and copy the card to a new one ('ddrescue'), before anything else"
    return (
        "'sudo crfs resume' tries again; the copy on the stick is whole and boots: keep stick and "
        "boot partition as they are"
    )
