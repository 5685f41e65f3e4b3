"""What /etc/fstab and /etc/crypttab ask of each boot. Sources: fstab(5), crypttab(5),
systemd.mount(5).

A device that is named there without `nofail`, and is not there, keeps a boot waiting, and then
ends it in emergency mode: no network, and on Raspberry Pi OS no root password to log in with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from crfs.probe import Block, unescape

FSTAB = "/etc/fstab"
CRYPTTAB = "/etc/crypttab"

# With these a boot goes on without the device.
_OPTIONAL = {"nofail", "noauto", "x-systemd.automount"}
_TAG = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL)=(.*)")
_BY_TAG = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.*)")


@dataclass(frozen=True)
class Line:
    """One entry; `name` is where it is mounted, or the mapping that it is opened as."""

    file: str
    device: str  # a path, or UUID=... and the like, without quotes
    name: str
    options: tuple[str, ...]

    @property
    def optional(self) -> bool:
        """Whether a boot goes on without the device."""
        return not _OPTIONAL.isdisjoint(self.options)


def parse_fstab(text: str) -> tuple[Line, ...]:
    """The entries of an fstab; what is no entry is passed over."""
    return tuple(
        Line(FSTAB, fields[0].replace('"', ""), os.path.normpath(fields[1]), _options(fields))
        for fields in _fields(text)
    )


def parse_crypttab(text: str) -> tuple[Line, ...]:
    """The entries of a crypttab; what is no entry is passed over."""
    return tuple(
        Line(CRYPTTAB, fields[1].replace('"', ""), fields[0], _options(fields))
        for fields in _fields(text)
    )


def _fields(text: str) -> list[list[str]]:
    lines = (line.split() for line in text.split("\n"))
    return [
        [unescape(field) for field in fields]
        for fields in lines
        if len(fields) >= 2 and not fields[0].startswith("#")
    ]


def _options(fields: list[str]) -> tuple[str, ...]:
    return tuple(fields[3].split(",")) if len(fields) > 3 else ()


def needs(
    disk: Block,
    card: Block,
    fstab: Iterable[Line],
    crypttab: Iterable[Line],
    resolve: Callable[[str], str],
) -> Line | None:
    """The first entry without which no boot goes on, and which names the disk or a part of it.

    What the card has as well, by the same label perhaps, is there without the disk. `resolve`
    follows the links to a device. None if every boot can do without the disk.
    """

    def only_on_disk(device: str) -> bool:
        return _is_on(disk, device, resolve) and not _is_on(card, device, resolve)

    opened = [line for line in crypttab if only_on_disk(line.device)]
    mappings = {f"/dev/mapper/{line.name}" for line in opened}
    mounted = [
        line
        for line in fstab
        # A boot waits for swap, and goes on without.
        if line.name not in ("none", "swap")
        and (line.device in mappings or only_on_disk(line.device))
    ]
    return next((line for line in (*opened, *mounted) if not line.optional), None)


def _is_on(disk: Block, device: str, resolve: Callable[[str], str]) -> bool:
    """Whether fstab's name of a device leads to a disk, or to a part of it.

    Names are compared without regard to case: rather a line too many than one too few.
    """
    tag, value = _tag(device)
    if tag:
        names = {getattr(block, tag).lower() for block in disk.walk()}
        return value.lower() in names - {""}
    if not device.startswith("/dev/"):
        return False
    # A partition that the stick does not have today may be meant as well: /dev/sda1 of /dev/sda.
    if re.fullmatch(re.escape(disk.path) + r"p?\d+", device):
        return True
    return resolve(device) in [resolve(block.path) for block in disk.walk()]


def _tag(device: str) -> tuple[str, str]:
    """The field of Block that a name is about, and its value; "" for any other name."""
    if found := _TAG.fullmatch(device):
        return found[1].lower(), found[2]
    if found := _BY_TAG.fullmatch(os.path.normpath(device)):
        # udev's way to write what a file name cannot have.
        value = re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), found[2])
        return found[1], value
    return "", ""
