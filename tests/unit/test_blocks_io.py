"""Copying, comparing and blanking on plain files, cut and resumed anywhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import blocks
from crfs.blocks import Range
from crfs.errors import DisagreementError

BLOCK = 4096
COUNT = 24


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small file has many pieces and several flushes."""
    monkeypatch.setattr(blocks, "PIECE", 2 * BLOCK)
    monkeypatch.setattr(blocks, "SYNC_EVERY", 4 * BLOCK)


def to_ranges(used: set[int]) -> list[Range]:
    return [(number * BLOCK, (number + 1) * BLOCK) for number in sorted(used)]


def merged(ranges: list[Range]) -> list[Range]:
    found: list[Range] = []
    for begin, end in ranges:
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def make(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


used_blocks = st.sets(st.integers(min_value=0, max_value=COUNT - 1), min_size=1)


@given(used_blocks, st.integers(min_value=0, max_value=8))
def test_copy_cut_and_resumed(new_folder: Callable[[], Path], used: set[int], cut: int) -> None:
    """From the offset that was reported last the result is the same as without a cut."""
    folder = new_folder()
    content = os.urandom(COUNT * BLOCK)
    old = os.urandom(COUNT * BLOCK)
    source, target = make(folder, "source", content), make(folder, "target", old)
    ranges = merged(to_ranges(used))
    reached = 0
    calls = 0

    def report(position: int, done: int) -> None:
        nonlocal reached, calls
        if calls == cut:
            raise PowerCut
        calls += 1
        reached = position

    try:
        blocks.copy(source, target, ranges, 0, report)
    except PowerCut:
        # What comes after the last flush may be lost.
        after = Path(target).read_bytes()
        Path(target).write_bytes(after[:reached] + old[reached:])
        blocks.copy(source, target, ranges, reached, lambda position, done: None)
    expected = bytearray(old)
    for begin, end in ranges:
        expected[begin:end] = content[begin:end]
    assert Path(target).read_bytes() == bytes(expected)
    assert Path(source).read_bytes() == content


@given(used_blocks)
def test_report_comes_after_the_flush(new_folder: Callable[[], Path], used: set[int]) -> None:
    """Everything before a reported position was written before the last flush began."""
    folder = new_folder()
    content = os.urandom(COUNT * BLOCK)
    source, target = make(folder, "a", content), make(folder, "b", bytes(COUNT * BLOCK))
    written: set[int] = set()
    flushed: set[int] = set()
    done_at: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        real_write, real_sync = os.pwrite, os.fdatasync

        def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
            size = real_write(descriptor, data, offset)
            written.update(range(offset // BLOCK, (offset + size) // BLOCK))
            return size

        def fdatasync(descriptor: int) -> None:
            nonlocal flushed
            before = set(written)
            real_sync(descriptor)
            flushed = before

        def report(position: int, done: int) -> None:
            assert {number for number in used if number * BLOCK < position} <= flushed
            done_at.append(done)

        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(os, "fdatasync", fdatasync)
        blocks.copy(source, target, to_ranges(used), 0, report)
    assert done_at == sorted(done_at)
    assert done_at[-1] == len(used) * BLOCK


def test_a_short_write_is_an_error(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(COUNT * BLOCK)
    source, target = make(disk_path, "a", content), make(disk_path, "b", bytes(COUNT * BLOCK))
    real_write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_write(fd, data[:BLOCK], offset))
    with pytest.raises(OSError, match="took less"):
        blocks.copy(source, target, [(0, COUNT * BLOCK)], 0, lambda position, done: None)


def test_source_that_ends_too_early(disk_path: Path) -> None:
    source, target = make(disk_path, "a", bytes(BLOCK)), make(disk_path, "b", bytes(4 * BLOCK))
    with pytest.raises(OSError, match="too early"):
        blocks.copy(source, target, [(0, 4 * BLOCK)], 0, lambda position, done: None)


@pytest.mark.parametrize("place", [0, 1, BLOCK, 5 * BLOCK + 17, COUNT * BLOCK - 1])
def test_compare_finds_one_bit(disk_path: Path, place: int) -> None:
    content = os.urandom(COUNT * BLOCK)
    changed = bytearray(content)
    changed[place] ^= 1
    left, right = make(disk_path, "a", content), make(disk_path, "b", bytes(changed))
    with pytest.raises(DisagreementError) as caught:
        blocks.compare(left, right, [(0, COUNT * BLOCK)], lambda position, done: None)
    assert caught.value.advice


def test_compare_reads_everything_and_only_that(disk_path: Path) -> None:
    content = os.urandom(COUNT * BLOCK)
    changed = bytearray(content)
    changed[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    left, right = make(disk_path, "a", content), make(disk_path, "b", bytes(changed))
    told: list[tuple[int, int]] = []
    ranges = [(0, BLOCK), (2 * BLOCK, COUNT * BLOCK)]
    blocks.compare(left, right, ranges, lambda position, done: told.append((position, done)))
    assert told[-1] == (COUNT * BLOCK, (COUNT - 1) * BLOCK)


def test_compare_with_a_device_that_ends_too_early(disk_path: Path) -> None:
    left = make(disk_path, "a", bytes(4 * BLOCK))
    right = make(disk_path, "b", bytes(3 * BLOCK))
    with pytest.raises(OSError, match="too early"):
        blocks.compare(left, right, [(0, 4 * BLOCK)], lambda position, done: None)


contents = st.lists(
    st.sampled_from([bytes(BLOCK), b"\xff" * BLOCK, b"secret".ljust(BLOCK, b"\0")]),
    min_size=COUNT,
    max_size=COUNT,
).map(b"".join)


@given(contents, used_blocks, st.integers(min_value=0, max_value=6))
def test_blank_cut_and_resumed(
    new_folder: Callable[[], Path], content: bytes, free: set[int], cut: int
) -> None:
    """Nothing readable is left in the ranges, and nothing else was touched."""
    path = make(new_folder(), "device", content)
    ranges = merged(to_ranges(free))
    reached = calls = 0

    def report(position: int, done: int) -> None:
        nonlocal reached, calls
        if calls == cut:
            raise PowerCut
        calls += 1
        reached = position

    try:
        blocks.blank(path, ranges, 0, report)
    except PowerCut:
        after = Path(path).read_bytes()
        Path(path).write_bytes(after[:reached] + content[reached:])
        blocks.blank(path, ranges, reached, lambda position, done: None)
    found = Path(path).read_bytes()
    for begin, end in ranges:
        assert b"secret" not in found[begin:end]
    for number in set(range(COUNT)) - free:
        place = slice(number * BLOCK, (number + 1) * BLOCK)
        assert found[place] == content[place]


def test_blank_leaves_erased_flash_alone(disk_path: Path) -> None:
    path = make(disk_path, "device", bytes(4 * BLOCK) + b"\xff" * 4 * BLOCK)
    assert blocks.blank(path, [(0, 8 * BLOCK)], 0, lambda position, done: None) == 0
    assert Path(path).read_bytes().endswith(b"\xff" * BLOCK)
    path = make(disk_path, "device", bytes(3 * BLOCK) + b"x".ljust(BLOCK, b"\0"))
    assert blocks.blank(path, [(0, 4 * BLOCK)], 0, lambda position, done: None) > 0


def test_blank_overwrites_what_cannot_be_read(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad sector where nothing is needed must not stop the run for good."""
    path = make(disk_path, "device", b"secret".ljust(8 * BLOCK, b"\0"))
    read = os.preadv

    def fail(descriptor: int, views: list[memoryview], begin: int) -> int:
        if begin == 0:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, views, begin)

    monkeypatch.setattr(os, "preadv", fail)
    assert blocks.blank(path, [(0, 8 * BLOCK)], 0, lambda position, done: None) > 0
    assert b"secret" not in Path(path).read_bytes()


def test_device_size(disk_path: Path) -> None:
    assert blocks.device_size(make(disk_path, "device", bytes(12345))) == 12345


def test_blank_asks_before_it_overwrites(disk_path: Path) -> None:
    content = bytes(4 * BLOCK) + b"secret".ljust(2 * BLOCK, b"\0")
    path = make(disk_path, "device", content)

    def refuse() -> None:
        raise PowerCut

    blocks.blank(path, [(0, 4 * BLOCK)], 0, lambda position, done: None, refuse)
    with pytest.raises(PowerCut):
        blocks.blank(path, [(0, 6 * BLOCK)], 0, lambda position, done: None, refuse)
    assert Path(path).read_bytes() == content
