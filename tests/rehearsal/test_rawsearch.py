"""Strings in raw images are found wherever they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from crfs.rehearsal import rawsearch

NEEDLE = b"marker-7f3a"


@pytest.mark.parametrize("offset", [0, 4091, 4096 - len(NEEDLE), 60_000])
def test_a_needle_is_found_also_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    monkeypatch.setattr(rawsearch, "CHUNK", 4096)
    image = tmp_path / "image"
    content = bytearray(b"\x55" * 70_000)
    content[offset : offset + len(NEEDLE)] = NEEDLE
    image.write_bytes(content)
    assert rawsearch.find_in_image(image, [NEEDLE, b"absent"]) == {NEEDLE: [offset]}


def test_holes_are_passed_over(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.seek(1 << 30)
        file.write(NEEDLE)
        file.truncate(1 << 31)
    assert rawsearch.find_in_image(image, [NEEDLE]) == {NEEDLE: [1 << 30]}
