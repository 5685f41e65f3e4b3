"""Which files count as swap, and what the kernel tells of it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import probe, runner, swapfiles
from tests.unit.pi import plan

SWAPS = (
    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    "/var/swap                               file\t\t102396\t\t0\t\t-2\n"
    "/dev/zram0                              partition\t51196\t0\t\t100\n"
    "/home/my\\040swap\\040file                 file\t\t102396\t\t0\t\t-3\n"
    "/dev/mmcblk0p3                          partition\t51196\t0\t\t-4\n"
)


def test_what_the_kernel_tells() -> None:
    assert probe.parse_swaps(SWAPS) == ["/var/swap", "/home/my swap file", "/dev/mmcblk0p3"]
    assert probe.parse_swaps("Filename\n") == []


@given(st.text())
def test_any_text_is_understood(text: str) -> None:
    probe.parse_swaps(text)


def test_only_what_is_still_swap_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that names another file does not empty it."""
    swap, letter = tmp_path / "swap", tmp_path / "letter"
    swap.touch()
    letter.touch()
    kinds = {(str(swap), "TYPE"): "swap"}
    monkeypatch.setattr(probe, "blkid", lambda path, tag: kinds.get((path, tag), ""))
    names = (str(swap), str(letter), str(tmp_path / "gone"))
    assert swapfiles.of(dataclasses.replace(plan(), swap_files=names)) == [str(swap)]


def test_made_anew_with_its_size_and_identity(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = disk_path / "swap"
    swap.write_bytes(b"piece of memory" * 4096)
    known = {"TYPE": "swap", "UUID": "the-uuid", "LABEL": ""}
    commands: list[list[str]] = []
    monkeypatch.setattr(probe, "blkid", lambda path, tag: known[tag])
    monkeypatch.setattr(runner, "run", lambda argv: commands.append(argv))
    copy = disk_path / "copy"
    made = copy / str(swap).lstrip("/")
    made.parent.mkdir(parents=True)
    made.symlink_to("/etc/passwd")
    os.utime(made.parent, ns=(5, 5))
    swapfiles.make(copy, dataclasses.replace(plan(), swap_files=(str(swap),)))
    assert not made.is_symlink()
    assert made.stat().st_size == swap.stat().st_size
    assert made.stat().st_mode & 0o777 == 0o600
    assert b"memory" not in made.read_bytes()
    assert made.parent.stat().st_mtime_ns == 5
    assert commands == [["mkswap", "--uuid", "the-uuid", str(made)]]
