"""Card, stick, and the filesystem that / is."""

from __future__ import annotations

import os
import re

from crfs import bootconfig, probe
from crfs.checks.base import Check, Finding, cannot_tell, failure, ok, warning
from crfs.checks.machine import Machine
from crfs.errors import LayoutError
from crfs.model import STAGE_MAPPING

# Where a desktop mounts what is plugged in, by itself.
DESKTOP_MOUNTS = ("/media/", "/run/media/")
# What has to be there when the copy of / builds its initramfs.
_OF_THE_ROOT = ("/etc", "/var", "/var/lib")
_FULL = 0.95
_TROUBLE = re.compile(
    r"(?m)^.*(?:I/O error, dev (?:mmcblk|sd|ubd)|Buffer I/O error|EXT4-fs error|mmc\d: error).*$"
)


def _filesystem(machine: Machine) -> Finding:
    fstype = machine.root_mount.fstype
    stage = probe.mapping_path(STAGE_MAPPING)
    if fstype == "overlay" and stage.exists() and machine.root_device == os.path.realpath(stage):
        return ok("/ is the copy on the stick, under an overlay")
    if fstype == "overlay":
        return failure(
            "the root filesystem is an overlay: changes live in memory, not on the card",
            "switch the overlay off (raspi-config, Performance Options), reboot, try again",
        )
    if fstype != "ext4":
        return failure(
            f"the root filesystem is {fstype or 'unknown'}; crfs can migrate ext4 only",
            "use an image with an ext4 root, as Raspberry Pi OS has it",
        )
    return ok(f"/ is ext4, on {machine.root_device}")


def _whole(machine: Machine) -> Finding:
    apart = [folder for folder in _OF_THE_ROOT if probe.mount_of(folder)]
    if apart:
        return failure(
            f"{apart[0]} is a filesystem of its own: the initramfs of a copy of / cannot be built",
            f"move its files to / and take it out of /etc/fstab, reboot, and try again; {apart[0]} "
            "would not be encrypted either",
        )
    return ok("configuration and state are on the root filesystem")


def _space(machine: Machine) -> Finding:
    usage = probe.usage()
    share = usage.used / ((usage.used + usage.free) or 1)
    if share > _FULL:
        return warning(
            f"/ is {share:.0%} full", "remove what is not needed ('sudo apt clean', old logs)"
        )
    return ok(f"/ is {share:.0%} full")


def _errors(machine: Machine) -> Finding:
    if not machine.kernel_log:
        return cannot_tell("the kernel's log cannot be read", needs_root=True)
    found = _TROUBLE.findall(machine.kernel_log)
    if found:
        last = probe.printable_line(found[-1])[:80]
        return warning(
            f"the kernel saw {len(found)} errors of card or stick, the last: {last}",
            "have a backup; look at the power supply, then replace the card or the stick",
        )
    return ok("the kernel saw no error of card or stick")


def _swap(machine: Machine) -> Finding:
    """Swap in the clear gets keys and secrets, for as long as it is there."""
    found = machine.root_block()
    parts = found[0].children if found else ()
    active = [swap.path for swap in machine.swaps if not swap.on_root]
    idle = [part.path for part in parts if part.fstype in ("swap", "swsuspend")]
    if active or idle:
        path = probe.printable([*active, *idle][0])
        return failure(
            f"{path} is swap outside of the root filesystem: what is in memory is written to it "
            "in the clear, whether / is encrypted or not",
            f"'sudo swapoff {path}', remove its line from /etc/fstab, then overwrite it "
            f"('sudo shred --iterations=1 {path}'); swap in a file on / is encrypted with it",
        )
    return ok("no memory is written to a place outside of the root filesystem")


def _resume(machine: Machine) -> Finding:
    image = bootconfig.token(machine.cmdline, "resume")
    if image:
        return failure(
            f"the kernel is told to resume from an image of the memory ({probe.printable(image)})",
            "remove 'resume=' from the kernel command line, reboot, try again",
        )
    return ok("the kernel resumes from no image of the memory")


def _automount(machine: Machine) -> Finding:
    mounted = [
        (block.path, mount)
        for disk in machine.disks
        for block in disk.walk()
        for mount in block.mounts
        if mount.startswith(DESKTOP_MOUNTS)
    ]
    if mounted:
        path, mount = mounted[0]
        return warning(
            f"the desktop has mounted {path} at {probe.printable(mount)}",
            f"'sudo umount {path}' before it is to be erased; in the file manager, Edit, "
            "Preferences, Volume Management, switch automatic mounting off",
        )
    return ok("no stick is mounted by the desktop")


CHECKS = (
    Check("root-filesystem", "mounts", "what crfs needs", _filesystem, stops=LayoutError),
    Check("root-whole", "mounts", "what crfs needs", _whole, stops=LayoutError),
    Check(
        "swap", "/proc/swaps, partitions of the card", "what crfs needs", _swap, stops=LayoutError
    ),
    Check("resume", "the kernel's command line", "initramfs-tools(7)", _resume, stops=LayoutError),
    Check("root-space", "space on /", "what crfs needs", _space),
    Check("disk-errors", "the kernel's log", "Linux, messages of block layer and ext4", _errors),
    Check("automount", "mounts below /media", "Raspberry Pi OS, desktop", _automount),
)
