"""A stop because a disk fails names the disk, and what is still possible."""

from __future__ import annotations

import dataclasses

import pytest

from crfs import failing
from crfs.errors import CommandError, StickError
from crfs.machine import STATES
from crfs.model import Halt
from crfs.probe import Mount
from tests.unit.pi import FakePi, record

HALT = Halt(19, "Reading failed.", "Nothing was given up.", "'sudo crfs resume'")
SAID = "[ 12.3] blk_update_request: {}, dev {}, sector 4096 op 0x0:(READ) flags 0x0\n"


@pytest.fixture(autouse=True)
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "_card", lambda plan: "mmcblk0")
    monkeypatch.setattr(failing, "_stick", lambda plan: "sda")


@pytest.mark.parametrize(
    ("said", "device", "destroyed", "word", "advice"),
    [
        ("I/O error", "sda", False, "of the stick (sda)", "another stick"),
        ("critical medium error", "sda", True, "of the stick (sda)", "ddrescue"),
        ("device offline error", "sda", True, "of the stick (sda)", "another port"),
        ("I/O error", "mmcblk0", False, "of the card (mmcblk0)", "ddrescue"),
        ("timeout error", "mmcblk0", True, "of the card (mmcblk0)", "keep stick and"),
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
    assert halt.advice.endswith(HALT.advice)
    assert (halt.code, halt.data) == (HALT.code, HALT.data)


@pytest.mark.parametrize(
    ("state", "device", "destroyed", "advice", "untrue"),
    [
        ("finishing", "mmcblk0", True, "back up now, then replace the card", "copy on the stick"),
        ("finishing", "sda", True, "destroy the stick", "ddrescue"),
        ("rolling_back", "sda", False, "destroy it", "encrypt"),
        ("rolling_back", "mmcblk0", False, "ddrescue", "stick"),
        ("trying_root", "mmcblk0", True, "copy on the stick is whole", "destroy"),
        ("trying_root", "sda", True, "ddrescue", "destroy"),
        ("restoring", "sda", True, "ddrescue", "destroy"),
        ("settling", "sda", False, "sudo crfs rollback", "destroy"),
    ],
)
def test_the_way_out_is_one_of_the_state(
    pi: FakePi, state: str, device: str, destroyed: bool, advice: str, untrue: str
) -> None:
    """In phase 3 the stick is erased, and the card is in use: neither is what it was."""
    assert state in STATES
    pi.kernel_log = SAID.format("I/O error", device)
    halt = failing.blame(HALT, record(state, destroyed=destroyed))
    assert advice in halt.advice
    assert untrue not in halt.advice
    assert "'sudo crfs resume'" in halt.advice


@pytest.mark.parametrize(
    "log", ["", "Buffer I/O error on dev dm-0, logical block 4", "no I/O error, sir"]
)
def test_nobody_is_blamed_for_nothing(pi: FakePi, log: str) -> None:
    pi.kernel_log = log
    assert failing.blame(HALT, record()) == HALT


@pytest.mark.parametrize("device", ["sdb", "mmcblk1", "block", "dm-0"])
def test_another_disk_is_nobodys(pi: FakePi, device: str) -> None:
    """A third disk, or one that is not there any more: neither the card nor the stick."""
    pi.kernel_log = SAID.format("I/O error", device)
    assert failing.blame(HALT, record()) == HALT


def test_what_is_gone_has_no_name(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    gone = Mount("/boot/firmware", "/dev/mmcblk0p1", "vfat", ("rw",))
    for mount in (None, gone):
        monkeypatch.setattr("crfs.probe.mount_of", lambda target, mount=mount: mount)
        assert failing._card(record().plan) == ""

    def missing(*args: object) -> None:
        raise StickError("It is not plugged in.", advice="plug it in")

    monkeypatch.setattr("crfs.probe.find_stage", missing)
    monkeypatch.setattr("crfs.probe.find_stick", missing)
    assert failing._stick(record().plan) == ""


def test_a_log_that_cannot_be_read(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on the failing disk; the reason for stopping is not lost over that."""

    def slow() -> str:
        raise CommandError("'journalctl' did not end within 10 s.", advice="look")

    monkeypatch.setattr("crfs.probe.kernel_log", slow)
    assert failing.blame(HALT, record()) == HALT
