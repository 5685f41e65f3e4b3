"""A stop because a disk fails names the disk, and what is still possible."""

from __future__ import annotations

import dataclasses

import pytest

from crfs import failing
from crfs.model import Halt
from tests.unit.pi import FakePi, record

HALT = Halt(19, "Reading failed.", "Nothing was given up.", "'sudo crfs resume'")
SAID = "[ 12.3] blk_update_request: {}, dev {}, sector 4096 op 0x0:(READ) flags 0x0\n"


@pytest.fixture(autouse=True)
def card_is_mmcblk0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "_disk_of_boot_partition", lambda mount: "mmcblk0")


@pytest.mark.parametrize(
    ("said", "device", "destroyed", "word", "advice"),
    [
        ("I/O error", "sda", False, "of the stick (sda)", "another stick"),
        ("critical medium error", "sda", True, "of the stick (sda)", "ddrescue"),
        ("device offline error", "sda", True, "of the stick (sda)", "another port"),
        ("I/O error", "mmcblk0", False, "of the card (mmcblk0)", "crfs rollback"),
        ("timeout error", "mmcblk0", True, "of the card (mmcblk0)", "ddrescue"),
    ],
)
def test_the_disk_is_named(
    pi: FakePi, said: str, device: str, destroyed: bool, word: str, advice: str
) -> None:
    pi.kernel_log = "usb 1-1: new device\n" + SAID.format(said, device)
    halt = failing.blame(HALT, dataclasses.replace(record(), destroyed=destroyed))
    assert halt.what.startswith(HALT.what)
    assert word in halt.what
    assert advice in halt.advice
    assert "sudo crfs" in halt.advice
    assert (halt.code, halt.data) == (HALT.code, HALT.data)


@pytest.mark.parametrize(
    "log", ["", "Buffer I/O error on dev dm-0, logical block 4", "no I/O error, sir"]
)
def test_nobody_is_blamed_for_nothing(pi: FakePi, log: str) -> None:
    pi.kernel_log = log
    assert failing.blame(HALT, record()) == HALT


def test_the_card_may_be_gone(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("crfs.probe.mount_of", lambda target: None)
    assert failing._disk_of_boot_partition("/boot/firmware") == ""
