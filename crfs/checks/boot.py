"""The boot partition, and what the firmware finds there."""

from __future__ import annotations

import os

from crfs import bootconfig, bootfiles
from crfs.checks.base import Check, Finding, failure, ok
from crfs.checks.machine import Machine
from crfs.errors import LayoutError
from crfs.probe import human

# A new initramfs is at most about this much larger than the largest that is there now.
INITRAMFS_ROOM = 24 * 2**20
_OWN = "Raspberry Pi documentation, boot folder; what crfs needs"


def _mounted(machine: Machine) -> Finding:
    try:
        return ok(f"the boot partition is mounted at {machine.boot_folder}")
    except LayoutError as problem:
        return failure(problem.what, problem.advice)


def _on_card(machine: Machine) -> Finding:
    source = os.path.realpath(machine.boot_mount.source)
    found = machine.root_block()
    if found is None or source not in [part.path for part in found[0].children]:
        where = found[0].path if found else "that / is on"
        return failure(
            f"the boot partition ({source}) is not on the card {where}",
            "crfs needs the boot partition on the same card as /",
        )
    return ok("boot partition and root are on one card")


def _writable(machine: Machine) -> Finding:
    """Now, and after each boot: a run that begins goes on after two of them."""
    lines = [line for line in machine.fstab if line.name == str(machine.boot_folder)]
    options = {option for line in lines for option in line.options}
    for option, so in (
        ("ro", "write-protects it"),
        ("noauto", "does not mount it"),
        ("x-systemd.automount", "mounts it too late for crfs to be started"),
    ):
        if option in options:
            return failure(
                f"/etc/fstab has '{option}' for the boot partition ({machine.boot_folder}): each "
                f"boot {so}, and a migration could not go on after a reboot",
                f"take '{option}' out of its line in /etc/fstab (raspi-config sets 'ro' under "
                "Performance Options, Overlay File System), reboot, then try again",
            )
    if machine.boot_mount.read_only:
        folder, source = machine.boot_folder, machine.boot_mount.source
        return failure(
            f"the boot partition ({folder}) is mounted read-only",
            f"an error in FAT may have done that, so check it first: 'sudo umount {folder} && "
            f"{{ sudo fsck.vfat -a {source}; sudo mount -o rw {folder}; }}'",
        )
    return ok("the boot partition can be written to")


def _room(machine: Machine) -> Finding:
    sizes = [path.stat().st_size for path in machine.boot_folder.glob("init*")]
    needed = max(sizes, default=0) + INITRAMFS_ROOM
    free = machine.boot_free
    if free < needed:
        return failure(
            f"the boot partition has {human(free)} free; a second initramfs needs {human(needed)}",
            f"remove what is not needed from {machine.boot_folder} (old kernels, backups)",
        )
    return ok(f"the boot partition has {human(free)} free")


def _cmdline(machine: Machine) -> Finding:
    path = machine.boot_folder / machine.cmdline_name
    if not path.exists():
        return failure(f"{path} does not exist", "restore it: the Pi would not boot without it")
    return ok(f"{path.name} is there")


def _os_prefix(machine: Machine) -> Finding:
    if bootfiles.setting(machine.config, "os_prefix"):
        return failure(
            "config.txt uses os_prefix, which crfs does not handle yet",
            "move the boot files out of the prefix folder and remove the line",
        )
    return ok("the boot files are not in a folder of their own")


def _resized(machine: Machine) -> Finding:
    if "init_resize" in machine.cmdline or "resize" in bootconfig.tokens(machine.cmdline):
        return failure(
            "the card still waits for its first-boot resize",
            "let the Pi finish its first boot, reboot, then try again",
        )
    return ok("the first boot is over")


CHECKS = (
    Check("boot-mounted", "mounts", _OWN, _mounted, stops=LayoutError),
    Check("boot-on-card", "mounts, lsblk", _OWN, _on_card, stops=LayoutError),
    Check("boot-writable", "mounts, /etc/fstab", _OWN, _writable, stops=LayoutError),
    Check("boot-room", "space on the boot partition", _OWN, _room, stops=LayoutError),
    Check("cmdline", "cmdline.txt", _OWN, _cmdline, stops=LayoutError),
    Check("os-prefix", "config.txt", _OWN, _os_prefix, stops=LayoutError),
    Check("resized", "the running kernel's command line", _OWN, _resized, stops=LayoutError),
)
