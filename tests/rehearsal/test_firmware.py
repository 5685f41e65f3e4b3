"""What the firmware takes from a FAT partition."""

from __future__ import annotations

from pathlib import Path

import pytest

from crfs.errors import RehearsalError
from crfs.rehearsal import firmware, layout

CMDLINE = "console=serial0,115200 root=PARTUUID=12345678-02 rootwait"


class Card:
    """A small card whose FAT a test fills."""

    def __init__(self, path: Path) -> None:
        self.path = path
        layout.make_empty(path, 48 * layout.MIB)
        layout.partition_disk(path, [(layout.MIB, 40 * layout.MIB, "c")], "0x12345678")
        layout.make_fat(path, layout.MIB, 40 * layout.MIB, "bootfs")

    def put(self, name: str, text: str) -> None:
        source = self.path.with_name("source")
        source.write_text(text)
        layout.run(["mcopy", "-o", "-i", f"{self.path}@@{layout.MIB}", str(source), f"::/{name}"])

    def choose(self, *, trial: bool = False) -> firmware.BootFiles:
        fat = firmware.BootPartition(self.path)
        return firmware.choose(fat, "pi4", "kernel8.img", trial=trial)


@pytest.fixture
def card(tmp_path: Path) -> Card:
    card = Card(tmp_path / "card.img")
    card.put("config.txt", "# a comment\nauto_initramfs=1\n[all]\nenable_uart=1\n")
    card.put("cmdline.txt", CMDLINE + "\n")
    card.put("kernel8.img", "kernel")
    card.put("initramfs8", "initramfs")
    return card


def test_defaults_of_raspberry_pi_os(card: Card) -> None:
    files = card.choose()
    assert files == firmware.BootFiles("kernel8.img", "initramfs8", CMDLINE, "config.txt")
    assert not files.trial


def test_a_trial_boot_reads_the_other_configuration(card: Card) -> None:
    card.put("try.txt", "root=/dev/mapper/cryptrfs")
    card.put("tryboot.txt", "[all]\ncmdline=try.txt\ninitramfs try.img followkernel\n")
    files = card.choose(trial=True)
    assert files.trial
    assert (files.initramfs, files.cmdline) == ("try.img", "root=/dev/mapper/cryptrfs")
    assert card.choose().initramfs == "initramfs8"


def test_the_last_value_wins_and_other_models_are_passed_over(card: Card) -> None:
    card.put(
        "config.txt",
        "kernel=one.img\n[pi5]\nkernel=five.img\n[pi4]\nkernel=four.img # mine\n[cm4]\nkernel=x\n",
    )
    assert card.choose().kernel == "four.img"


def test_includes_are_followed(card: Card) -> None:
    card.put("config.txt", "include more.txt\n")
    card.put("more.txt", "cmdline=other.txt\ninclude more.txt\n")
    card.put("other.txt", "root=/dev/other")
    assert card.choose().cmdline == "root=/dev/other"


def test_automatic_initramfs_follows_the_kernel(card: Card) -> None:
    card.put("config.txt", "auto_initramfs=1\nkernel=kernel_2712.img\n")
    assert card.choose().initramfs == ""
    card.put("initramfs_2712", "other")
    assert card.choose().initramfs == "initramfs_2712"


def test_a_missing_configuration_or_kernel_is_said(card: Card, tmp_path: Path) -> None:
    with pytest.raises(RehearsalError, match=r"tryboot\.txt"):
        card.choose(trial=True)
    card.put("config.txt", "kernel=nothing.img\n")
    fat = firmware.BootPartition(card.path)
    with pytest.raises(RehearsalError, match=r"nothing\.img"):
        firmware.extract(fat, card.choose(), tmp_path)


def test_what_is_no_card_is_said(tmp_path: Path) -> None:
    path = tmp_path / "nothing.img"
    path.write_bytes(bytes(4096))
    with pytest.raises(RehearsalError, match="boot partition"):
        firmware.BootPartition(path)


def test_serial0_becomes_the_boards_console(card: Card) -> None:
    text = firmware.final_cmdline(card.choose(), "ttyAMA0", ["zksim=ttyS0"])
    assert text == CMDLINE.replace("serial0", "ttyAMA0") + " zksim=ttyS0"
