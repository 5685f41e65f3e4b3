"""Card and stick images, laid out as Raspberry Pi OS lays them out.

A card is a sparse copy of the base image, with what differs written into that copy.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from crfs.rehearsal.base import CACHE, build_base
from crfs.rehearsal.layout import (
    MIB,
    copy_sparse,
    make_empty,
    make_fat,
    partition_disk,
    run,
    write_files,
)

STICK_BYTES = 2048 * MIB


@dataclass(frozen=True)
class CardOptions:
    """What may differ between two cards of the same base.

    `tryboot` tells crfs whether the firmware has one-shot boot. `files` are put on the root as
    they are: path on the card -> file of the host.
    """

    tryboot: bool = True
    files: dict[str, Path] = field(default_factory=dict)

    def write_to(self, card: Path) -> None:
        """Put all of it on the plain root of `card`."""
        with tempfile.TemporaryDirectory() as name:
            conf = Path(name) / "crfs.conf"
            conf.write_text(f"[boot]\ntryboot = {'yes' if self.tryboot else 'no'}\n")
            write_files(card, {"/etc/crfs.conf": conf, **self.files})


def compose_card(
    card: Path,
    *,
    arch: str = "amd64",
    boot: str = "/boot/firmware",
    options: CardOptions | None = None,
    cache: Path = CACHE,
) -> None:
    """Make a new card at `card`: a copy of the base image, which is built if it is not there."""
    copy_sparse(build_base(arch=arch, boot=boot, cache=cache), card)
    (options or CardOptions()).write_to(card)


def compose_stick(stick: Path, size: int = STICK_BYTES) -> None:
    """Make a used stick at `stick`: one old FAT partition with a file on it."""
    make_empty(stick, size)
    partition_disk(stick, [(1 * MIB, size - 1 * MIB, "c")], "0x5713c0de")
    make_fat(stick, 1 * MIB, size - 1 * MIB, "OLDSTICK")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as note:
        note.write("Holiday pictures were here.\n")
        note.flush()
        run(["mcopy", "-i", f"{stick}@@{MIB}", note.name, "::/README.TXT"])
