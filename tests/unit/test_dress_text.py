"""crypttab and fstab: our line, and everybody else's as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import dress
from crfs.errors import HostError
from tests.unit.hostile import file_text
from tests.unit.pi import plan

UUID = "aaaaaaaa-0000-4000-8000-000000000003"
OTHER = "bbbbbbbb-0000-4000-8000-000000000003"
FSTAB = """\
proc            /proc           proc    defaults          0       0
PARTUUID=cafe0001-01  /boot/firmware  vfat    defaults          0       2
PARTUUID=cafe0001-02  /               ext4    defaults,noatime  0       1
# a swapfile is not a swap partition, no line here
"""


def is_ours(line: str) -> bool:
    return line.split()[:1] == ["cryptrfs"]


def lines_of(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


@given(file_text)
def test_crypttab_keeps_the_others(text: str) -> None:
    edited = dress.edit_crypttab(text, UUID)
    lines = lines_of(edited)
    assert lines[:-1] == [line for line in lines_of(text) if not is_ours(line)]
    assert lines[-1].split()[:2] == ["cryptrfs", f"UUID={UUID}"]


@given(file_text)
def test_crypttab_is_repeatable(text: str) -> None:
    once = dress.edit_crypttab(text, UUID)
    assert dress.edit_crypttab(once, UUID) == once
    assert dress.edit_crypttab(dress.edit_crypttab(text, OTHER), UUID) == once


@given(file_text)
def test_fstab_is_repeatable_and_keeps_the_lines(text: str) -> None:
    once = dress.edit_fstab(text)
    assert dress.edit_fstab(once) == once
    before, after = text.split("\n"), once.split("\n")
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert old == new or new.split()[:2] == ["/dev/mapper/cryptrfs", "/"]


@given(st.sampled_from(["PARTUUID=cafe0001-02", "/dev/mmcblk0p2", "LABEL=root"]), file_text)
def test_fstab_gets_the_mapping_as_root(device: str, rest: str) -> None:
    line = f"{device}\t/ \text4 defaults 0 1"
    edited = dress.edit_fstab(f"{line}\n{rest}")
    assert edited.startswith("/dev/mapper/cryptrfs\t/ \text4 defaults 0 1\n")


def test_fstab_of_raspberry_pi_os() -> None:
    expected = FSTAB.replace("PARTUUID=cafe0001-02", "/dev/mapper/cryptrfs")
    assert dress.edit_fstab(FSTAB) == expected


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("defaults,x-systemd.growfs", "defaults"),
        ("x-systemd.growfs,noatime", "noatime"),
        ("rw,x-systemd.growfs,noatime", "rw,noatime"),
        ("x-systemd.growfs", "defaults"),
        ("defaults,x-systemd.growfs-not", "defaults,x-systemd.growfs-not"),
    ],
)
def test_only_crfs_grows_the_new_root(options: str, left: str) -> None:
    """Over what it has not cleared yet nothing may grow."""
    text = f"LABEL=root  /  ext4  {options}  0 1\n/dev/sdb1 /data ext4 x-systemd.growfs 0 2\n"
    edited = dress.edit_fstab(text).splitlines()
    assert edited[0] == f"/dev/mapper/cryptrfs  /  ext4  {left}  0 1"
    assert edited[1] == text.splitlines()[1]


def test_fstab_comments_are_left_alone() -> None:
    text = "#PARTUUID=x / ext4 defaults 0 1\n  # y / ext4\n/dev/sda1 /data ext4\n"
    assert dress.edit_fstab(text) == text


def test_new_folders_leave_the_times_of_those_above_alone(tmp_path: Path) -> None:
    """The comparison with the card passes over the new folders only."""
    above = tmp_path / "etc"
    above.mkdir()
    os.utime(above, ns=(10**18, 10**18 + 1))
    dress._place(above / "initramfs/post-update.d/zz-crfs", b"x", 0o755)
    assert above.stat().st_mtime_ns == 10**18 + 1
    assert (above / "initramfs/post-update.d/zz-crfs").read_bytes() == b"x"


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    """The copy may hold links with absolute paths: outside of it they lead into the live root."""
    root, live = tmp_path / "copy", tmp_path / "live"
    (root / "etc").mkdir(parents=True)
    (root / "var").mkdir()
    live.mkdir()
    (root / "var/lib").symlink_to(live)
    with pytest.raises(HostError, match="/var/lib/zymbit is or lies behind a symbolic link"):
        dress.dress(root, plan(), b"sealed")
    assert not any(live.iterdir())
    (root / "var/lib").unlink()
    (root / "var/elsewhere").mkdir()
    (root / "var/lib").symlink_to("elsewhere")
    dress.dress(root, plan(), b"sealed")
    assert (root / "var/elsewhere/zymbit/key.bin.lock").read_bytes() == b"sealed"
