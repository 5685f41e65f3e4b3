"""May this machine be migrated? A plan or a clear refusal; nothing is changed.

What `crfs doctor` can look at as well is a check there (crfs/checks); here is what depends on the
card and the stick that the user asks for.
"""

from __future__ import annotations

import dataclasses
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from crfs import bindings, bootconfig, checks, fstab, live, luks, probe
from crfs.checks import Machine, storage
from crfs.errors import LayoutError, StateError, StickError
from crfs.model import HSM6, TPM2, Boot, Card, Cipher, Plan, Stick, Uuids
from crfs.probe import Block, human

DEFAULT_DISK = "/dev/mmcblk0"
DEFAULT_ROOT = 2
DEFAULT_STICK = "/dev/sda"
# Characters that a kernel takes: COMMAND_LINE_SIZE of Linux, arch/arm and arch/arm64, asm/setup.h,
# less the zero behind them.
_CMDLINE_32, _CMDLINE_64 = 1023, 2047
# No system fits into less, and below it cryptrfs's header would be a share of it that counts.
_LEAST_ROOT = 64 * 2**20
# The filesystem's own tables take a part of the stick.
_FILESYSTEM_SHARE = 0.05


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for; None means the FAQ's default, found and checked."""

    disk: str | None = None
    root_number: int | None = None
    stick: str | None = None
    erase_stick: bool = False
    recovery_key: bool = True
    keep_stage: bool = False
    keep_shell: bool = False
    binding: str = HSM6


@dataclass(frozen=True)
class Decision:
    plan: Plan
    card: Block
    stick: Block
    warnings: tuple[str, ...]
    found_on_stick: tuple[str, ...]


def make_plan(machine: Machine, wanted: Wanted, cipher: Cipher = luks.AES) -> Decision:
    """The plan for this machine. Raises the error that fits; the order is from outside in."""
    if live.has_journal():
        raise StateError(
            "A migration of this card is under way already.",
            data="Its state is kept; nothing was changed by this.",
            advice="'sudo crfs status' shows it, 'sudo crfs resume' goes on, "
            "'sudo crfs rollback' goes back",
        )
    checks.require(machine, "Storage")
    card, root = _card_and_root(machine, wanted)
    of_binding = ("TPM",) if wanted.binding == TPM2 else ("Zymbit's software", "HSM")
    checks.require(machine, "Boot chain", "Host software", *of_binding)
    boot = _boot_partition(machine, card)
    usage = probe.usage()
    stick = _find_stick(machine, card, wanted)
    found = _check_stick(machine, stick, card, wanted, usage)
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
            mount=str(machine.boot_folder),
            tryboot=probe.firmware_has_tryboot(),
            kernel=machine.kernel,
            cmdline_name=machine.cmdline_name,
        ),
        used=usage.used,
        inodes=usage.inodes,
        files=usage.files,
        label=probe.printable(root.label)[:16],
        swap_files=tuple(swap.path for swap in machine.swaps if swap.on_root),
        recovery_key=wanted.recovery_key,
        keep_stage=wanted.keep_stage,
        keep_shell=wanted.keep_shell,
        services=bindings.named(wanted.binding).active_services(),
        kept_units=probe.kept_units(),
    )
    _require_short_cmdline(machine, plan)
    return Decision(plan, card, stick, tuple(_warnings(machine, wanted, card, stick)), found)


def _require_short_cmdline(machine: Machine, plan: Plan) -> None:
    """A kernel cuts what is too long, and a trial without its words boots for ever.

    The firmware puts words of its own before those of the file. Raises LayoutError.
    """
    path = machine.boot_folder / machine.cmdline_name
    original = bootconfig.decode(path.read_bytes()).strip()
    of_firmware = max(len(machine.cmdline) - len(original), 0)
    longest = bootconfig.stage_cmdline(original, plan, trial=True).strip()
    room = _CMDLINE_64 if machine.kernel_is_64_bit else _CMDLINE_32
    too_much = of_firmware + len(longest) - room
    if too_much > 0:
        raise LayoutError(
            f"The kernel's command line would be {too_much} characters too long for a boot from "
            "the stick.",
            advice=f"shorten {path} by as much, reboot, then try again",
        )


def _fitting(cipher: Cipher, *devices: Block) -> Cipher:
    """LUKS sectors of 4096 bytes are quicker, but have to divide the size of the device."""
    divides = all(device.size % cipher.sector == 0 for device in devices)
    return cipher if divides else dataclasses.replace(cipher, sector=512)


def _card_and_root(machine: Machine, wanted: Wanted) -> tuple[Block, Block]:
    found = machine.root_block()
    if found is None:
        raise LayoutError(
            f"The device under / ({machine.root_device or 'unknown'}) is not among the disks.",
            advice="look at 'lsblk'; crfs needs / on a partition of the card",
        )
    disk, root = found
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
    if root.size < _LEAST_ROOT:
        raise LayoutError(
            f"{root.path} is too small ({human(root.size)}).",
            advice=f"crfs needs at least {human(_LEAST_ROOT)} for an encrypted root",
        )
    return disk, root


def _boot_partition(machine: Machine, card: Block) -> Block:
    """The boot partition, of which the checks have found that it is on the card."""
    source = os.path.realpath(machine.boot_mount.source)
    return next(part for part in card.children if part.path == source)


def _candidates(machine: Machine, card: Block) -> list[Block]:
    return [
        disk
        for disk in machine.disks
        if disk.kind == "disk"
        and disk.path != card.path
        and disk.size
        and (disk.transport == "usb" or disk.removable)
    ]


def _find_stick(machine: Machine, card: Block, wanted: Wanted) -> Block:
    candidates = _candidates(machine, card)
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
    found = [disk for disk in machine.disks if disk.path == path]
    if found and wanted.stick is None and found[0] not in candidates:
        raise StickError(
            f"{found[0].describe()} is no USB disk.",
            advice="plug in a blank USB stick; if that disk is what you want to have erased, "
            f"say '--usb {path}'",
        )
    if found:
        return found[0]
    if any(block.path == path for disk in machine.disks for block in disk.walk()):
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


def _check_stick(
    machine: Machine, stick: Block, card: Block, wanted: Wanted, usage: probe.Usage
) -> tuple[str, ...]:
    if stick.read_only:
        raise StickError(
            f"The stick is read-only ({stick.describe()}).",
            advice="slide its write lock, or take another stick",
        )
    for block in stick.walk():
        for mount in block.mounts:
            if not mount.startswith(storage.DESKTOP_MOUNTS):
                raise StickError(
                    f"{block.path} of the stick is in use, mounted at {mount}.",
                    advice=f"'sudo umount {mount}', or take another stick",
                )
        if block.kind not in ("disk", "part"):
            raise StickError(
                f"{block.path} on the stick is open ({block.kind}).",
                advice=f"close it, for example 'sudo cryptsetup close {Path(block.path).name}'",
            )
    if stick.table_id and stick.table_id == card.table_id:
        raise StickError(
            f"The stick has the card's disk id ({card.table_id}): it seems to be an image of it, "
            "and crfs tells the two apart by that.",
            advice=f"save what you need from it, then 'sudo wipefs --all {stick.path}'",
        )
    _require_boots_without(machine, stick, card)
    needed = int(usage.used * (1 + _FILESYSTEM_SHARE)) + luks.STAGE_DATA_OFFSET + 96 * 2**20
    needed += usage.files * luks.INODE_BYTES * 5 // 4
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


def _require_boots_without(machine: Machine, stick: Block, card: Block) -> None:
    """Erased, the stick is not what fstab looks for any more. Raises StickError."""
    line = fstab.needs(stick, card, machine.fstab, machine.crypttab, machine.device)
    if line is None:
        return
    device, name = probe.printable(line.device), probe.printable(line.name)
    raise StickError(
        f"{line.file} names the stick ({device}, for {name}) without nofail: once the stick is "
        "erased, every boot would wait for it in vain, and end in emergency mode.",
        advice=f"remove the line of {name} from {line.file}, or add nofail to its options "
        "('defaults,nofail'), then try again",
    )


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


def _warnings(machine: Machine, wanted: Wanted, card: Block, stick: Block) -> list[str]:
    warnings = []
    if stick.size < 2 * card.size:
        warnings.append(
            f"The stick ({human(stick.size)}) is smaller than twice the card "
            f"({human(card.size)}), which the vendor recommends. The copy fits."
        )
    return [*warnings, *checks.warnings(machine, wanted.binding)]
