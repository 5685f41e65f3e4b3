"""What a rehearsal refuses before it starts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from crfs.errors import RehearsalError
from crfs.rehearsal import layout
from crfs.rehearsal.rehearse import rehearse, require_card_image


def card(path: Path, *, root_type: str = "ext4") -> Path:
    """A small image: MBR, FAT, and a second partition made by mkfs.ROOT_TYPE."""
    layout.make_empty(path, 64 * layout.MIB)
    parts = [(layout.MIB, 40 * layout.MIB, "c"), (41 * layout.MIB, 20 * layout.MIB, "83")]
    layout.partition_disk(path, parts, "0x12345678")
    layout.make_fat(path, layout.MIB, 40 * layout.MIB, "bootfs")
    if root_type == "ext4":
        offset = f"offset={41 * layout.MIB}"
        layout.run(["mkfs.ext4", "-q", "-E", offset, str(path), "20M"])
    return path


def test_a_card_image_is_taken_and_not_touched(tmp_path: Path) -> None:
    image = card(tmp_path / "card.img")
    before = hashlib.sha256(image.read_bytes()).digest()
    require_card_image(image)
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_what_is_no_card_image_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.touch()
    noise = tmp_path / "noise.img"
    noise.write_bytes(b"no image at all" * 1000)
    cut = card(tmp_path / "cut.img")
    with cut.open("r+b") as file:
        file.truncate(50 * layout.MIB)
    plain = card(tmp_path / "no-root.img", root_type="none")
    for image in (empty, noise, cut, plain, tmp_path, tmp_path / "missing.img"):
        with pytest.raises(RehearsalError):
            require_card_image(image)


def test_a_missing_package_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(RehearsalError, match="no package"):
        rehearse(deb=tmp_path / "crfs.deb", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
