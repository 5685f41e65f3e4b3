"""May this machine be migrated? Facts in, a plan or a clear refusal out; nothing is changed.

`gather` reads the machine once; `make_plan` decides from that alone, so every refusal is tested
without a device.
"""

from __future__ import annotations

import dataclasses
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from crfs import bootfiles, keys, luks, probe, tpm2
from crfs.errors import HostError, LayoutError, StateError, StickError
from crfs.journal import Journal
from crfs.model import HSM6, TPM2, Boot, Card, Cipher, Plan, Stick, Uuids
from crfs.probe import Block, Mount, human

DEFAULT_DISK = "/dev/mmcblk0"
DEFAULT_ROOT = 2
DEFAULT_STICK = "/dev/sda"
UNIT = "cfg_SD_crfs.service"

# Commands that the migration calls, and the Debian package of each.
COMMANDS = {
    "blkid": "util-linux", "blkdiscard": "util-linux", "cryptsetup": "cryptsetup-bin",
    "debugfs": "e2fsprogs", "dumpe2fs": "e2fsprogs", "e2fsck": "e2fsprogs", "lsblk": "util-linux",
    "lsinitramfs": "initramfs-tools", "mkfs.ext4": "e2fsprogs", "mkinitramfs": "initramfs-tools",
    "rsync": "rsync", "systemctl": "systemd", "udevadm": "udev",
    "wipefs": "util-linux",
}  # fmt: skip
CRYPTROOT_HOOK = Path("/usr/share/initramfs-tools/hooks/cryptroot")
DRACUT = Path("/usr/bin/dracut")
# A new initramfs is at most about this much larger than the largest that is there now.
INITRAMFS_ROOM = 24 * 2**20
# The filesystem's own tables take a part of the stick.
_FILESYSTEM_SHARE = 0.05
_DESKTOP_MOUNTS = ("/media/", "/run/media/")


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for; None means the FAQ's default, found and checked."""

    disk: str | None = None
    root_number: int | None = None
    stick: str | None = None
    erase_stick: bool = False
    recovery_key: bool = True
    binding: str = HSM6


@dataclass(frozen=True)
class Facts:
    """All that the decision rests on."""

    disks: tuple[Block, ...]
    root: str  # the device under /
    root_mount: Mount
    boot_folder: Path | None
    boot_mount: Mount | None
    boot_free: int
    boot_largest: int  # the largest initramfs there now
    config: bytes
    cmdline_exists: bool
    cmdline: str  # the running kernel's
    missing_commands: tuple[str, ...]
    has_cryptroot: bool
    has_dracut: bool
    missing_tools: tuple[str, ...]  # of the vendor
    has_state_folder: bool
    has_tpm: bool
    has_tpm_tools: bool
    unit_enabled: bool  # cfg_SD_crfs starts at each boot
    has_journal: bool
    used: int
    inodes: int
    files: int
    tryboot: bool
    kernel: str
    services: tuple[str, ...]
    kept_units: tuple[str, ...]


def gather() -> Facts:
    """Read the machine. Raises HostError or CommandError if it cannot be read."""
    folder: Path | None
    try:
        folder = probe.boot_mount()
    except LayoutError:
        folder = None
    mount = probe.mount_of(str(folder)) if folder else None
    config = (folder / "config.txt").read_bytes() if folder else b""
    cmdline = folder / cmdline_name(config) if folder else None
    sizes = [path.stat().st_size for path in folder.glob("init*")] if folder else []
    usage = probe.usage()
    return Facts(
        disks=tuple(probe.disks()),
        root=probe.root_source(),
        root_mount=probe.mount_of("/") or Mount("/", "", "", ()),
        boot_folder=folder,
        boot_mount=mount,
        boot_free=_free(folder) if folder else 0,
        boot_largest=max(sizes, default=0),
        config=config,
        cmdline_exists=cmdline is not None and cmdline.exists(),
        cmdline=probe.kernel_cmdline(),
        missing_commands=tuple(name for name in COMMANDS if not probe.command_exists(name)),
        has_cryptroot=CRYPTROOT_HOOK.exists(),
        has_dracut=DRACUT.exists(),
        missing_tools=tuple(name for name in keys.TOOLS if not Path("/sbin", name).exists()),
        has_state_folder=keys.STATE_FOLDER.is_dir(),
        has_tpm=tpm2.DEVICE.exists(),
        has_tpm_tools=probe.command_exists(tpm2.COMMAND),
        unit_enabled=probe.unit_enabled(UNIT),
        has_journal=bool(folder and Journal(folder).exists()),
        used=usage.used,
        inodes=usage.inodes,
        files=usage.files,
        tryboot=probe.firmware_has_tryboot(),
        kernel=probe.kernel_release(),
        services=keys.active_services(),
        kept_units=probe.kept_units(),
    )


def _free(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def cmdline_name(config: bytes) -> str:
    return bootfiles.setting(bootfiles.without_block(config), "cmdline") or "cmdline.txt"


@dataclass(frozen=True)
class Decision:
    plan: Plan
    card: Block
    stick: Block
    warnings: tuple[str, ...]
    found_on_stick: tuple[str, ...]


def make_plan(facts: Facts, wanted: Wanted, cipher: Cipher = luks.AES) -> Decision:
    """The plan for these facts. Raises the error that fits; the order is from outside in."""
    if facts.has_journal:
        raise StateError(
            "A migration of this card is under way already.",
            data="Its state is kept; nothing was changed by this.",
            advice="'sudo crfs status' shows it, 'sudo crfs resume' goes on, "
            "'sudo crfs rollback' goes back",
        )
    card, root = _card_and_root(facts, wanted)
    _check_root(facts, root)
    boot = _check_boot(facts, card)
    _check_host(facts)
    if wanted.binding == TPM2:
        _check_tpm(facts)
    else:
        _check_hsm(facts)
    stick = _find_stick(facts, card, wanted)
    found = _check_stick(facts, stick, wanted)
    warnings = _warnings(facts, wanted, card, stick)
    plan = Plan(
        run_id=str(uuid.uuid4()),
        binding=wanted.binding,
        card=Card(
            path=card.path,
            table_id=card.table_id,
            serial=card.serial,
            model=card.model,
            size=card.size,
            root_partuuid=root.partuuid,
            root_number=root.number,
            root_size=root.size,
            boot_partuuid=boot.partuuid,
        ),
        stick=Stick(stick.path, stick.serial, stick.model, stick.size),
        uuids=Uuids(str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())),
        cipher=_fitting(cipher, root, stick),
        boot=Boot(
            mount=str(facts.boot_folder),
            tryboot=facts.tryboot,
            kernel=facts.kernel,
            cmdline_name=cmdline_name(facts.config),
        ),
        used=facts.used,
        inodes=facts.inodes,
        files=facts.files,
        label=probe.printable(root.label)[:16],
        recovery_key=wanted.recovery_key,
        services=facts.services if wanted.binding == HSM6 else (),
        kept_units=facts.kept_units,
    )
    return Decision(plan, card, stick, tuple(warnings), found)


def _fitting(cipher: Cipher, *devices: Block) -> Cipher:
    """LUKS sectors of 4096 bytes are quicker, but have to divide the size of the device."""
    divides = all(device.size % cipher.sector == 0 for device in devices)
    return cipher if divides else dataclasses.replace(cipher, sector=512)


def _card_and_root(facts: Facts, wanted: Wanted) -> tuple[Block, Block]:
    if facts.root_mount.fstype == "overlay":
        raise LayoutError(
            "The root filesystem is an overlay: changes live in memory, not on the card.",
            advice="switch the overlay off (raspi-config, Performance Options), reboot, try again",
        )
    owners = [
        (disk, block) for disk in facts.disks for block in disk.walk() if _is(block, facts.root)
    ]
    if not owners:
        raise LayoutError(
            f"The device under / ({facts.root or 'unknown'}) is not among the disks.",
            advice="look at 'lsblk'; crfs needs / on a partition of the card",
        )
    disk, root = owners[0]
    if root.kind == "crypt":
        raise LayoutError(
            f"The root filesystem is encrypted already ({root.path}).",
            advice="'sudo crfs verify' tells whether everything is as it should be",
        )
    if root.kind != "part":
        raise LayoutError(
            f"The root filesystem lies on {root.kind} ({root.path}), not directly on a partition.",
            advice="crfs needs / as ext4 directly on a partition of the card",
        )
    wanted_disk = os.path.realpath(wanted.disk or DEFAULT_DISK)
    wanted_number = DEFAULT_ROOT if wanted.root_number is None else wanted.root_number
    if disk.path != wanted_disk or root.number != wanted_number:
        raise LayoutError(
            f"/ is on {root.path}, not on partition {wanted_number} of {wanted_disk}.",
            advice=f"if {root.path} is what you want to encrypt, say "
            f"'--disk {disk.path} --root-part {root.number}'",
        )
    if not disk.table_id or not root.partuuid:
        raise LayoutError(
            f"{disk.path} has no partition table with an identity.",
            advice="crfs needs an MBR or GPT card, as Raspberry Pi OS images have it",
        )
    return disk, root


def _is(block: Block, path: str) -> bool:
    """Whether a device is the one at a path; lsblk shows mappings by their links' names."""
    return path in (block.path, os.path.realpath(block.path))


def _check_root(facts: Facts, root: Block) -> None:
    if facts.root_mount.fstype != "ext4":
        raise LayoutError(
            f"The root filesystem is {facts.root_mount.fstype}; crfs can migrate ext4 only.",
            advice="use an image with an ext4 root, as Raspberry Pi OS has it",
        )
    if "init_resize" in facts.cmdline or "resize" in bootfiles.tokens(facts.cmdline):
        raise LayoutError(
            "The card still waits for its first-boot resize.",
            advice="let the Pi finish its first boot, reboot, then try again",
        )
    if root.size <= luks.HEADER_BYTES * 4:
        raise LayoutError(
            f"{root.path} is too small ({human(root.size)}).",
            advice=f"crfs needs at least {human(luks.HEADER_BYTES * 4)} for an encrypted root",
        )


def _check_boot(facts: Facts, card: Block) -> Block:
    if facts.boot_folder is None or facts.boot_mount is None:
        raise LayoutError(
            "No boot partition is mounted: neither /boot/firmware nor /boot is a FAT filesystem "
            "with a config.txt.",
            advice="mount it ('sudo mount /boot/firmware'), check /etc/fstab, then try again",
        )
    source = os.path.realpath(facts.boot_mount.source)
    parts = [part for part in card.children if part.path == source]
    if not parts:
        raise LayoutError(
            f"The boot partition ({source}) is not on the card {card.path}.",
            advice="crfs needs the boot partition on the same card as /",
        )
    if "ro" in facts.boot_mount.options:
        raise LayoutError(
            f"The boot partition ({facts.boot_folder}) is mounted read-only.",
            advice=f"'sudo mount -o remount,rw {facts.boot_folder}'; if that fails, check it: "
            f"'sudo umount {facts.boot_folder} && sudo fsck.vfat -a {source}'",
        )
    needed = facts.boot_largest + INITRAMFS_ROOM
    if facts.boot_free < needed:
        raise LayoutError(
            f"The boot partition has {human(facts.boot_free)} free; a second initramfs needs "
            f"{human(needed)}.",
            advice=f"remove what is not needed from {facts.boot_folder} (old kernels, backups)",
        )
    if not facts.cmdline_exists:
        raise LayoutError(
            f"{facts.boot_folder / cmdline_name(facts.config)} does not exist.",
            advice="restore it: the Pi would not boot without it",
        )
    if bootfiles.setting(facts.config, "os_prefix"):
        raise LayoutError(
            "config.txt uses os_prefix, which crfs does not handle yet.",
            advice="move the boot files out of the prefix folder and remove the line",
        )
    return parts[0]


def _check_host(facts: Facts) -> None:
    if facts.has_dracut:
        raise HostError(
            "This system builds its initramfs with dracut, which crfs does not handle.",
            advice="install initramfs-tools ('sudo apt install initramfs-tools "
            "cryptsetup-initramfs') and remove dracut",
        )
    if facts.missing_commands:
        packages = " ".join(sorted({COMMANDS[name] for name in facts.missing_commands}))
        raise HostError(
            f"Commands are missing: {', '.join(facts.missing_commands)}.",
            advice=f"'sudo apt install {packages}'",
        )
    if not facts.has_cryptroot:
        raise HostError(
            "The package cryptsetup-initramfs is not installed.",
            advice="'sudo apt install cryptsetup-initramfs'",
        )
    if not facts.unit_enabled:
        raise HostError(
            f"{UNIT} is not enabled, so the work could not go on after a reboot.",
            advice=f"'sudo systemctl enable {UNIT}'",
        )


def _check_hsm(facts: Facts) -> None:
    if facts.missing_tools:
        raise HostError(
            f"Zymbit's tools are missing: {', '.join(facts.missing_tools)}.",
            advice="install Zymbit's host software and wait until the blue LED blinks once every "
            "3 seconds, then try again",
        )
    if not facts.has_state_folder:
        raise HostError(
            f"{keys.STATE_FOLDER} does not exist: the HSM is not bound to this Pi.",
            advice="install Zymbit's host software and wait until the blue LED blinks once every "
            "3 seconds, then try again",
        )


def _check_tpm(facts: Facts) -> None:
    if not facts.has_tpm:
        raise HostError(
            f"There is no TPM 2.0: {tpm2.DEVICE} does not exist.",
            advice="most TPMs for a Pi need a line in config.txt, for example "
            "'dtoverlay=tpm-slb9670', and a reboot; 'journalctl -k -g tpm' tells what was found",
        )
    if not facts.has_tpm_tools:
        raise HostError(
            "The package tpm2-tools is not installed.",
            advice="'sudo apt install tpm2-tools'",
        )


def _candidates(facts: Facts, card: Block) -> list[Block]:
    return [
        disk
        for disk in facts.disks
        if disk.kind == "disk"
        and disk.path != card.path
        and disk.size
        and (disk.transport == "usb" or disk.removable)
    ]


def _find_stick(facts: Facts, card: Block, wanted: Wanted) -> Block:
    candidates = _candidates(facts, card)
    if wanted.stick is None and len(candidates) > 1:
        listed = "; ".join(one.describe() for one in candidates)
        raise StickError(
            f"There are {len(candidates)} USB disks: {listed}.",
            advice="unplug all but one, or name the one to erase: '--usb /dev/sdX'",
        )
    path = os.path.realpath(wanted.stick or DEFAULT_STICK)
    if path in [block.path for block in card.walk()]:
        raise StickError(
            f"{path} is the card itself.",
            advice="name the USB stick: '--usb /dev/sdX' ('lsblk' shows it)",
        )
    found = [disk for disk in facts.disks if disk.path == path]
    if found and wanted.stick is None and found[0] not in candidates:
        raise StickError(
            f"{found[0].describe()} is no USB disk.",
            advice="plug in a blank USB stick; if that disk is what you want to have erased, "
            f"say '--usb {path}'",
        )
    if found:
        return found[0]
    if any(block.path == path for disk in facts.disks for block in disk.walk()):
        raise StickError(
            f"{path} is a part of a disk; crfs needs the whole stick.",
            advice="name the disk itself, for example '--usb /dev/sda'",
        )
    hint = f"; a USB disk is there as {candidates[0].describe()}" if candidates else ""
    raise StickError(
        f"There is no USB stick at {path}{hint}.",
        advice=f"'--usb {candidates[0].path}' takes that one"
        if candidates
        else "plug in a blank USB stick, at best twice the size of the card",
    )


def _check_stick(facts: Facts, stick: Block, wanted: Wanted) -> tuple[str, ...]:
    if stick.read_only:
        raise StickError(
            f"The stick is read-only ({stick.describe()}).",
            advice="slide its write lock, or take another stick",
        )
    for block in stick.walk():
        for mount in block.mounts:
            if not mount.startswith(_DESKTOP_MOUNTS):
                raise StickError(
                    f"{block.path} of the stick is in use, mounted at {mount}.",
                    advice=f"'sudo umount {mount}', or take another stick",
                )
        if block.kind not in ("disk", "part"):
            raise StickError(
                f"{block.path} on the stick is open ({block.kind}).",
                advice=f"close it, for example 'sudo cryptsetup close {Path(block.path).name}'",
            )
    needed = int(facts.used * (1 + _FILESYSTEM_SHARE)) + luks.HEADER_BYTES + 96 * 2**20
    needed += facts.files * luks.INODE_BYTES * 5 // 4
    if stick.size < needed:
        raise StickError(
            f"The stick is too small: {human(stick.size)}; the copy needs {human(needed)}.",
            advice="take a stick of twice the card's size, or remove files from the Pi",
        )
    found = tuple(_found(stick))
    if found and not wanted.erase_stick:
        raise StickError(
            "The stick is not blank: " + "; ".join(found) + ".",
            data="It was not touched, and neither was the card.",
            advice="save what you need from it, then add '--erase-usb' to have it erased",
        )
    return found


def _found(stick: Block) -> list[str]:
    found = []
    for block in stick.walk():
        label = f" '{probe.printable(block.label)}'" if block.label else ""
        where = f", mounted at {', '.join(block.mounts)}" if block.mounts else ""
        if block.fstype or block.mounts:
            found.append(f"{block.path} holds {block.fstype or 'data'}{label}{where}")
    if not found and stick.table_id:
        found.append(f"{stick.path} has a partition table")
    return found


def _warnings(facts: Facts, wanted: Wanted, card: Block, stick: Block) -> list[str]:
    warnings = []
    if stick.size < 2 * card.size:
        warnings.append(
            f"The stick ({human(stick.size)}) is smaller than twice the card "
            f"({human(card.size)}), which the vendor recommends. The copy fits."
        )
    if wanted.binding == HSM6 and keys.DAEMON not in facts.services:
        warnings.append("zkifc is not active: is the HSM bound (LED once every 3 seconds)?")
    return warnings
