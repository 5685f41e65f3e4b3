"""The boards of Zymbit's HSM6 FAQ and their successors, and what crfs does on each.

A board is known by the model that its device tree tells: `/proc/device-tree/model`. Sources: Linux,
arch/arm64/boot/dts/broadcom (models of the Raspberry Pis); NVIDIA's L4T 32 and 35 (models of the
Jetsons); docs/how-it-works.md (trial boots, ciphers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PI = "Raspberry Pi"
EXTLINUX = "extlinux"
# Why boards with extlinux are planned for, and refused.
EXTLINUX_NEEDS = (
    "on a Jetson `/boot` lies inside the root, in the partition APP, and its loader reads it in "
    "the clear. It has to become a partition of its own first: make a small ext4 partition on the "
    "same disk, copy `/boot` there, have `extlinux.conf` and `/etc/fstab` name it. Besides, crfs "
    "needs Debian 12 (Python 3.11) and initramfs-tools there, and an initramfs that puts "
    "`extlinux.conf` back after a trial boot. `crfs encrypt --dry-run` shows the new file."
)


@dataclass(frozen=True)
class Board:
    name: str
    model: str  # a regular expression that the device tree's model begins with
    loader: str = PI  # what reads the boot configuration: PI or EXTLINUX
    listed: bool = True  # in Zymbit's FAQ
    aes: bool = False  # its CPU has AES instructions
    note: str = ""

    @property
    def encrypts(self) -> bool:
        """Whether `crfs encrypt` works on it; elsewhere only its dry run does."""
        return self.loader == PI


_OTG = "the stick needs an adapter for its one USB port"
_TOO_OLD = "its last system (L4T {}) is Ubuntu {}.04: too old for crfs"
_SMALL = f"32-bit programs only; slow; {_OTG}"
BOARDS = (
    Board("Raspberry Pi 3", r"Raspberry Pi 3 Model B(?! Plus|\+)"),
    Board("Raspberry Pi 3B+", r"Raspberry Pi 3 Model B(?: Plus|\+)"),
    Board("Raspberry Pi 4", r"Raspberry Pi 4 Model B"),
    Board("Raspberry Pi 400", r"Raspberry Pi 400", listed=False),
    Board("Raspberry Pi 5", r"Raspberry Pi 5 Model B", listed=False, aes=True),
    Board("Raspberry Pi 500", r"Raspberry Pi 500", listed=False, aes=True),
    Board("Raspberry Pi Zero", r"Raspberry Pi Zero(?! 2)", note=_SMALL),
    Board("Raspberry Pi Zero 2", r"Raspberry Pi Zero 2", listed=False, note=_OTG),
    Board("Compute Module 3", r"Raspberry Pi Compute Module 3"),
    Board("Compute Module 4", r"Raspberry Pi Compute Module 4(?!S)"),
    Board("Compute Module 5", r"Raspberry Pi Compute Module 5", listed=False, aes=True),
    Board("Jetson Nano", r"NVIDIA Jetson Nano", EXTLINUX, aes=True, note=_TOO_OLD.format(32, 18)),
    Board(
        "Jetson Xavier NX",
        r"NVIDIA Jetson Xavier NX",
        EXTLINUX,
        aes=True,
        note=_TOO_OLD.format(35, 20),
    ),
)


def recognise(model: str) -> Board | None:
    """The board with this model; None for one that crfs does not know."""
    found = [board for board in BOARDS if re.match(board.model, model)]
    return found[0] if found else None


def name(model: str) -> str:
    """What to call the board with this model."""
    board = recognise(model)
    return board.name if board else model or "unknown"
