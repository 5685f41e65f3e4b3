"""Used and free ranges together are the filesystem: no byte is missed, none is taken twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import blocks
from crfs.blocks import PIECE, Range
from crfs.errors import HostError
from tests.unit.hostile import file_text


@st.composite
def filesystems(draw: st.DrawFn) -> tuple[int, int, set[int], str]:
    """Block size, count, free blocks, and what dumpe2fs says of them, group by group."""
    size = draw(st.sampled_from([1024, 4096]))
    per_group = draw(st.integers(min_value=1, max_value=40))
    count = draw(st.integers(min_value=1, max_value=200))
    free = draw(st.sets(st.integers(min_value=0, max_value=count - 1)))
    lines = [
        "Filesystem volume name:   rootfs",
        f"Block count:              {count}",
        f"Free blocks:              {len(free)}",
        f"Block size:               {size}",
        "",
    ]
    for first in range(0, count, per_group):
        group = range(first, min(first + per_group, count))
        lines.append(f"Group {first // per_group}: (Blocks {group[0]}-{group[-1]}) csum 0x1")
        lines.append(f"  {len(free & set(group))} free blocks, 10 free inodes, 2 directories")
        lines.append(f"  Free blocks: {_runs(sorted(free & set(group)))}")
        lines.append("  Free inodes: 12-20")
    return size, count, free, "\n".join(lines) + "\n"


def _runs(numbers: list[int]) -> str:
    """As dumpe2fs writes them: 3-7, 9, 11-12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)


def _blocks_in(ranges: list[Range], size: int) -> list[int]:
    assert all(begin % size == end % size == 0 and begin < end for begin, end in ranges)
    return [number for a, b in ranges for number in range(a // size, b // size)]


@given(filesystems())
def test_used_and_free_are_the_filesystem(made: tuple[int, int, set[int], str]) -> None:
    size, count, free, text = made
    assert blocks.filesystem_bytes(text) == size * count
    used = _blocks_in(blocks.used_ranges(text), size)
    empty = _blocks_in(blocks.free_ranges(text), size)
    assert empty == sorted(free)
    assert sorted(used + empty) == list(range(count))
    assert used == sorted(used)


@given(
    st.lists(st.integers(min_value=0, max_value=5 * PIECE), min_size=2, max_size=8, unique=True),
    st.integers(min_value=0, max_value=5 * PIECE),
)
def test_pieces_from_an_offset_are_the_rest(places: list[int], offset: int) -> None:
    places = sorted(places)[: len(places) // 2 * 2]
    ranges = list(zip(places[::2], places[1::2], strict=True))
    found = list(blocks.pieces(ranges, offset))
    assert all(0 < end - begin <= PIECE for begin, end in found)
    expected = [(max(begin, offset), end) for begin, end in ranges if end > offset]
    merged: list[Range] = []
    for begin, end in found:
        if merged and merged[-1][1] == begin and begin not in [start for start, _ in expected]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    assert merged == expected
    assert blocks.total(found) == blocks.total(expected)


@given(file_text)
def test_any_text_is_refused_or_harmless(text: str) -> None:
    with pytest.raises(HostError) as caught:
        blocks.parse_dumpe2fs(text)
    assert caught.value.advice


@given(st.binary(min_size=1, max_size=64))
def test_blank_is_all_zeros_or_all_ones(content: bytes) -> None:
    assert blocks.is_blank(content) == (len(set(content)) == 1 and content[0] in (0, 255))
