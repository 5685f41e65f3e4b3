"""Facts: everything crfs reads of the machine, in one place, as plain data.

Nothing here changes anything. Devices are enumerated once into `Disk` and `Part`; whoever acts
later finds them again by identity (`find_card`, `find_stick`), never by a remembered name.
"""

from __future__ import annotations

import configparser
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyudev

from crfs import bootconfig, runner
from crfs.errors import CARD_UNTOUCHED, DisagreementError, HostError, LayoutError, StickError
from crfs.model import ROOT_MAPPING, STAGE_MAPPING, Card, Stick

CONFIG = Path("/etc/crfs.conf")
RUN = Path("/run/crfs")
# Left by the keyscript in the initramfs: "<mapping> <boot id>" of an unlock by HSM or TPM.
UNLOCKED = RUN / "unlocked"
# Where the initramfs leaves the stage's filesystem below the overlay.
STAGE_BELOW = RUN / "below"
BOOT_MOUNTS = (Path("/boot/firmware"), Path("/boot"))
EXTLINUX = Path("/boot/extlinux/extlinux.conf")

_LSBLK = (
    "NAME,PATH,TYPE,SIZE,RO,RM,FSTYPE,LABEL,UUID,PARTUUID,PARTLABEL,PTUUID,MODEL,SERIAL,TRAN,"
    "MOUNTPOINTS"
)


@dataclass(frozen=True)
class Block:
    """One row of lsblk with what is stacked on it; sizes in bytes, absent texts are ""."""

    path: str
    kind: str  # disk, part, crypt, lvm ...
    size: int
    read_only: bool
    removable: bool
    fstype: str
    label: str
    uuid: str
    partuuid: str
    partlabel: str
    table_id: str
    model: str
    serial: str
    transport: str
    mounts: tuple[str, ...]
    children: tuple[Block, ...]

    @property
    def number(self) -> int:
        """The partition's number, 0 for what is no partition."""
        found = re.search(r"(\d+)$", self.path)
        return int(found[1]) if found and self.kind == "part" else 0

    def walk(self) -> Iterator[Block]:
        yield self
        for child in self.children:
            yield from child.walk()

    def describe(self) -> str:
        """Model, size and serial, as a user can read them off the thing on the table."""
        name = self.model or ("USB stick" if self.transport == "usb" else "disk")
        serial = f", serial {self.serial}" if self.serial else ""
        return f"{self.path}: {name}, {human(self.size)}{serial}"


def human(size: float) -> str:
    """Bytes in the units that are printed on cards and sticks."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB" if size < 1000 else f"{size / 1000:.1f} TB"


def parse_lsblk(text: str) -> list[Block]:
    """The disks in lsblk's JSON. Raises HostError where it is not what lsblk writes."""
    try:
        return [_block(row) for row in json.loads(text)["blockdevices"]]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as problem:
        raise HostError(
            f"The output of lsblk cannot be understood ({problem}).",
            advice="check that util-linux 2.37 or later is installed",
        ) from None


def _block(row: Any) -> Block:
    def text(name: str) -> str:
        value = row.get(name)
        return value.strip() if isinstance(value, str) else ""

    size = int(row["size"] or 0)
    if size.bit_length() > 64:
        raise ValueError(f"a size of {size.bit_length()} bits")
    return Block(
        path=str(row["path"]),
        kind=str(row["type"]),
        size=size,
        read_only=bool(row["ro"]),
        removable=bool(row["rm"]),
        fstype=text("fstype"),
        label=text("label"),
        uuid=text("uuid"),
        partuuid=text("partuuid"),
        partlabel=text("partlabel"),
        table_id=text("ptuuid"),
        model=text("model"),
        serial=text("serial"),
        transport=text("tran"),
        mounts=tuple(str(one) for one in row.get("mountpoints") or () if one),
        children=tuple(_block(one) for one in row.get("children") or ()),
    )


def disks() -> list[Block]:
    """All disks with their partitions and mappings, serials completed from udev."""
    text = runner.query(["lsblk", "--json", "--bytes", "--tree", "--output", _LSBLK])
    return [_with_identity(disk) for disk in parse_lsblk(text) if disk.kind in ("disk", "loop")]


def _with_identity(disk: Block) -> Block:
    """Cards tell serial and name through udev's or sysfs' attributes, not through lsblk."""
    try:
        device = pyudev.Devices.from_device_file(pyudev.Context(), disk.path)
    except (pyudev.DeviceNotFoundError, OSError, ValueError):
        return disk
    serial = disk.serial or device.properties.get("ID_SERIAL_SHORT", "") or _sysfs(device, "cid")
    model = disk.model or device.properties.get("ID_NAME", "") or _sysfs(device, "name")
    return Block(**{**disk.__dict__, "serial": printable(serial), "model": printable(model)})


def _sysfs(device: Any, attribute: str) -> str:
    parent = device.parent
    if parent is None or attribute not in parent.attributes.available_attributes:
        return ""
    return str(parent.attributes.asstring(attribute)).strip()


def printable(text: str) -> str:
    """Names come from the device's maker, or an attacker: only printable characters."""
    return "".join(one if one.isprintable() else "?" for one in text)[:64]


def printable_line(text: str) -> str:
    """Several lines as one."""
    return "".join(one if one.isprintable() else " " for one in " ".join(text.split()))


def lsblk_tree() -> str:
    """What the user would see by typing lsblk."""
    return runner.query(["lsblk", "--output", "NAME,MAJ:MIN,RM,SIZE,RO,TYPE,MOUNTPOINTS"])


@dataclass(frozen=True)
class Mount:
    target: str
    source: str
    fstype: str
    options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether nobody can write through it."""
        return "ro" in self.options


def parse_mounts(text: str) -> list[Mount]:
    """/proc/self/mounts as data; the kernel writes blanks in names as octal escapes."""
    mounts = []
    # Not splitlines: a mount point may have a vertical tab in its name, for example.
    for line in text.split("\n"):
        fields = line.split(" ")
        if len(fields) >= 4:
            source, target = (unescape(one) for one in fields[:2])
            mounts.append(Mount(target, source, fields[2], tuple(fields[3].split(","))))
    return mounts


def unescape(text: str) -> str:
    """A name from /proc/self/mounts or fstab: \\040 is a blank there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def mount_of(target: str) -> Mount | None:
    """What is mounted at exactly this place, the topmost if there are several."""
    text = Path("/proc/self/mounts").read_text(errors="surrogateescape")
    found = [one for one in parse_mounts(text) if one.target == target]
    return found[-1] if found else None


def is_read_only(target: str) -> bool:
    """Whether what is mounted there cannot be written to."""
    mount = mount_of(target)
    return mount is not None and mount.read_only


def boot_mount() -> Path:
    """The mount point of the boot partition. Raises LayoutError where there is none."""
    for folder in BOOT_MOUNTS:
        mount = mount_of(str(folder))
        if mount and mount.fstype == "vfat" and (folder / "config.txt").exists():
            return folder
    raise LayoutError(
        "No boot partition is mounted: neither /boot/firmware nor /boot is a FAT filesystem "
        "with a config.txt.",
        data="Nothing was changed by this. What a migration has done so far is noted there.",
        advice="mount it ('sudo mount /boot/firmware'), check /etc/fstab, then try again",
    )


def extlinux_conf() -> Path | None:
    """The boot configuration of a board that extlinux boots; None on a Raspberry Pi."""
    try:
        boot_mount()
    except LayoutError:
        return EXTLINUX if EXTLINUX.is_file() else None
    return None


def root_source() -> str:
    """The device under /; in phase 2 the one under the overlay."""
    mount = mount_of("/")
    if mount is not None and mount.fstype == "overlay":
        mount = mount_of(str(STAGE_BELOW)) or mount
    if mount is None:
        return ""
    if mount.source == "/dev/root":
        number = os.stat("/").st_dev
        link = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
        return f"/dev/{link.name}"
    return os.path.realpath(mount.source) if mount.source.startswith("/") else mount.source


def mapping_path(name: str) -> Path:
    return Path("/dev/mapper") / name


def partitions_below(mapping: str) -> list[Block]:
    """The partitions that a mapping is made of, none if it is not open."""
    path = str(mapping_path(mapping))
    parts = [part for disk in disks() for part in disk.children]
    return [part for part in parts if any(child.path == path for child in part.children)]


def running_from(plan_root: str, plan_stage: str) -> str:
    """Which root this boot runs from: stage, root, or plain. Decided by the LUKS UUIDs."""
    source = root_source()
    for name, luks, kind in (
        (STAGE_MAPPING, plan_stage, bootconfig.STAGE),
        (ROOT_MAPPING, plan_root, bootconfig.ROOT),
    ):
        path = mapping_path(name)
        if path.exists() and os.path.realpath(path) == source and luks_of_mapping(name) == luks:
            return kind
    return bootconfig.PLAIN


def luks_of_mapping(name: str) -> str:
    """The LUKS UUID that an open mapping belongs to, "" if it is not open or no LUKS."""
    path = mapping_path(name)
    if not path.exists():
        return ""
    number = os.stat(path).st_rdev
    uuid = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/dm/uuid")
    found = re.fullmatch(r"CRYPT-LUKS2-([0-9a-f]{32})-.*", uuid.read_text().strip())
    if not found:
        return ""
    digits = found[1]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def unlocked_by_itself(mapping: str) -> bool:
    """Whether HSM or TPM unlocked this mapping in this very boot, and nobody's recovery key."""
    try:
        lines = UNLOCKED.read_text().splitlines()
    except OSError:
        return False
    return f"{mapping} {boot_id()}" in lines


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Swap(NamedTuple):
    """A place that the kernel writes memory to."""

    path: str
    on_root: bool  # a file of the root filesystem


def parse_swaps(text: str) -> list[str]:
    """The paths in /proc/swaps, without those in memory (zram)."""
    lines = text.split("\n")[1:]
    paths = [unescape(line.split(" ", 1)[0].rstrip("\t")) for line in lines if line]
    return [path for path in paths if not re.fullmatch(r"/dev/zram\d+", path)]


def swaps() -> list[Swap]:
    """Active swap on any medium."""
    paths = parse_swaps(Path("/proc/swaps").read_text(errors="surrogateescape"))
    root = os.stat("/").st_dev
    return [Swap(path, os.path.isfile(path) and os.stat(path).st_dev == root) for path in paths]


def unwritten_bytes() -> int:
    """What the kernel has yet to write to any disk."""
    text = Path("/proc/meminfo").read_text()
    return 1024 * sum(int(found) for found in re.findall(r"(?:Dirty|Writeback): +(\d+) kB", text))


def kernel_log() -> str:
    """What the kernel said in this boot; "" where it cannot be read."""
    argv = ["journalctl", "--dmesg", "--quiet", "--no-pager", "--output=cat"]
    return runner.query(argv, timeout=10, ok=(0, 1))


def kernel_cmdline() -> str:
    return Path("/proc/cmdline").read_text(errors="surrogateescape").strip()


def kernel_release() -> str:
    return platform.release()


def cpu_has_aes() -> bool:
    """Whether the CPU has AES instructions ("Features" on ARM, "flags" on x86)."""
    text = Path("/proc/cpuinfo").read_text(errors="replace")
    return any(
        "aes" in line.split(":", 1)[1].split()
        for line in text.splitlines()
        if line.startswith(("Features", "flags")) and ":" in line
    )


def firmware_has_tryboot() -> bool:
    """Whether the firmware knows one-shot boots; /etc/crfs.conf may say it ([boot] tryboot)."""
    config = configparser.ConfigParser()
    try:
        config.read(CONFIG)
        chosen = config.get("boot", "tryboot", fallback="auto")
    except configparser.Error:
        chosen = "auto"
    if chosen in ("yes", "no"):
        return chosen == "yes"
    return Path("/proc/device-tree/chosen/bootloader/tryboot").exists()


def command_exists(name: str) -> bool:
    return shutil.which(name, path=runner.PATH) is not None


def unit_active(unit: str) -> bool:
    return runner.query(["systemctl", "is-active", unit], ok=(0, 3, 4)).strip() == "active"


def system_state() -> str:
    """systemd's own word for the whole: starting, running, degraded, stopping ..."""
    codes = (0, 1, 2, 3, 4)
    return runner.query(["systemctl", "is-system-running"], ok=codes).strip()


def unit_enabled(unit: str) -> bool:
    return runner.query(["systemctl", "is-enabled", unit], ok=(0, 1, 4)).strip() == "enabled"


def stopping_units() -> tuple[str, ...]:
    """The units that systemd is still to stop."""
    listing = runner.query(["systemctl", "list-jobs", "--plain", "--no-legend"])
    jobs = [line.split() for line in listing.splitlines()]  # number, unit, type, state
    return tuple(job[1] for job in jobs if len(job) == 4 and job[2] == "stop")


# What brings network, ssh and the name raspberrypi.local on Debian and Raspberry Pi OS, and rules
# that guard them. Not what keeps a file of the root open for writing (firewalld, fail2ban): it
# would bar the last copy.
_KEEPABLE = (
    "NetworkManager.service",
    "avahi-daemon.service",
    "dhcpcd.service",
    "netfilter-persistent.service",
    "networking.service",
    "nftables.service",
    "ssh.service",
    "ssh.socket",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "ufw.service",
    "wpa_supplicant.service",
)


def kept_units() -> tuple[str, ...]:
    """Those of network, ssh and firewall that this system starts, by itself or on demand."""
    return tuple(unit for unit in _KEEPABLE if unit_enabled(unit) or unit_active(unit))


def blkid(path: str, tag: str) -> str:
    """One tag of a device's superblock read from the medium, not from a cache; "" if none."""
    return runner.query(
        ["blkid", "--probe", "--match-tag", tag, "--output", "value", path], ok=(0, 2, 8)
    ).strip()


class Usage(NamedTuple):
    """What a mounted filesystem holds, and what it could."""

    used: int  # bytes
    free: int  # bytes, those kept for root included
    inodes: int  # used and free
    files: int  # inodes in use


def usage(folder: str = "/") -> Usage:
    """How full a mounted filesystem is."""
    facts = os.statvfs(folder)
    block, files = facts.f_frsize, facts.f_files - facts.f_ffree
    used = (facts.f_blocks - facts.f_bfree) * block
    return Usage(used, facts.f_bfree * block, facts.f_files, files)


def find_card(card: Card, *, given_up: bool = False) -> Block:
    """The planned card among today's disks. Raises LayoutError unless there is exactly one.

    With `given_up`, when all is on the stick and the card has nothing of its own to lose, a copy of
    it does on whatever disk, if its boot partition is the one in use.
    """

    def is_it(disk: Block) -> bool:
        same = disk.size == card.size and (not card.serial or disk.serial == card.serial)
        boots = any(part.mounts for part in disk.children if part.partuuid == card.boot_partuuid)
        return disk.table_id == card.table_id and (same or (given_up and boots))

    found = [disk for disk in disks() if is_it(disk)]
    if len(found) != 1:
        raise LayoutError(
            f"The card of this migration ({card.model or card.path}, {human(card.size)}, disk id "
            f"{card.table_id}) was found {len(found)} times.",
            data="No disk was written to.",
            advice="put in exactly the card that the migration began with, then 'sudo crfs resume'",
        )
    return found[0]


def root_partition(card: Card, *, given_up: bool = False) -> Block:
    """The card's root partition today. Raises LayoutError where it is not as planned."""
    for part in find_card(card, given_up=given_up).children:
        if part.partuuid == card.root_partuuid and part.size == card.root_size:
            return part
    raise LayoutError(
        f"The card has no partition {card.root_partuuid} of {human(card.root_size)} any more.",
        data="No disk was written to.",
        advice="do not write to the card; look at 'lsblk' and 'sudo crfs status'",
    )


def stages(luks_uuid: str) -> list[Block]:
    """Every disk that carries the stage's LUKS header: the stick, and copies of it."""
    return [disk for disk in disks() if blkid(disk.path, "UUID") == luks_uuid]


def find_stage(luks_uuid: str) -> Block:
    """The stick that carries our LUKS header. Raises StickError unless there is exactly one."""
    found = stages(luks_uuid)
    if len(found) != 1:
        raise StickError(
            f"The stick of this migration (LUKS {luks_uuid}) was found {len(found)} times.",
            data="No disk was written to.",
            advice="plug in exactly the stick that the migration began with, then "
            "'sudo crfs resume'",
        )
    return found[0]


def find_stick(stick: Stick, card: Card) -> Block:
    """The stick as planned, before it carries our header. Raises StickError, DisagreementError."""
    found = [
        disk
        for disk in disks()
        if disk.size == stick.size
        and disk.serial == stick.serial
        and disk.model == stick.model
        and disk.table_id != card.table_id
    ]
    if len(found) != 1:
        raise StickError(
            f"The stick of this migration ({stick.model or stick.path}, {human(stick.size)}, "
            f"serial {stick.serial or 'unknown'}) was found {len(found)} times.",
            data=CARD_UNTOUCHED,
            advice="plug in exactly that stick, then 'sudo crfs resume'",
        )
    if found[0].path == find_card(card).path:
        raise DisagreementError(
            "Stick and card are the same device.",
            data="No disk was written to.",
            advice="'sudo crfs rollback', then 'sudo crfs encrypt' with another stick",
        )
    return found[0]
