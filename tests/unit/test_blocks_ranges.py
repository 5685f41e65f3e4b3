"""Used and free ranges together are the filesystem: no byte is missed, none is taken twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import blocks
from crfs.blocks import PIECE, Range
from crfs.errors import HostError
from tests.unit.hostile import file_text

INODES = 32  # per group, 256 bytes each


@st.composite
def filesystems(draw: st.DrawFn) -> tuple[int, int, set[int], str]:
    """Block size, count, blocks that need no copy, and what dumpe2fs says, group by group."""
    size = draw(st.sampled_from([1024, 4096]))
    per_group = draw(st.integers(min_value=8, max_value=40))
    groups = draw(st.integers(min_value=1, max_value=6))
    count = per_group * groups
    free = draw(st.sets(st.integers(min_value=0, max_value=count - 1)))
    spare = set(free)
    lines = [
        "Filesystem volume name:   rootfs",
        f"Block count:              {count}",
        f"Free blocks:              {len(free)}",
        f"Block size:               {size}",
        f"Inodes per group:         {INODES}",
        "Inode size:               256",
        "Journal start:            0",
        "",
    ]
    for first in range(0, count, per_group):
        group = range(first, min(first + per_group, count))
        zeroed = draw(st.booleans())
        unused = draw(st.integers(min_value=0, max_value=INODES))
        table = range(first, first + INODES * 256 // size)
        flags = " [INODE_UNINIT, ITABLE_ZEROED]" if zeroed else ""
        lines.append(f"Group {first // per_group}: (Blocks {group[0]}-{group[-1]}) csum 0x1{flags}")
        lines.append(f"  Inode table at {table[0]}-{table[-1]} (+5)")
        lines.append(
            f"  {len(free & set(group))} free blocks, 10 free inodes, 2 directories"
            + (f", {unused} unused inodes" if unused else "")
        )
        lines.append(f"  Free blocks: {_runs(sorted(free & set(group)))}")
        lines.append("  Free inodes: 12-20")
        if not zeroed:
            begun = -(-(INODES - unused) * 256 // size)
            spare |= set(table[begun:]) if unused else set()
    return size, count, spare, "\n".join(lines) + "\n"


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
    size, count, spare, text = made
    found = blocks.parse_layout(text)
    assert found.size == size * count
    used, empty = _blocks_in(found.used, size), _blocks_in(found.free, size)
    assert empty == sorted(spare)
    assert sorted(used + empty) == list(range(count))
    assert used == sorted(used)


JOURNAL = """\
Level Entries       Logical            Physical Length Flags
 0/ 0   1/  2     0 -     3      20 -      23      4
 0/ 0   2/  2     4 -     9      40 -      45      6
"""


@pytest.mark.parametrize(
    ("start", "copied"), [("0", [20]), ("17", [*range(20, 24), *range(40, 46)])]
)
def test_a_journal_is_copied_whole_only_if_something_waits_in_it(
    start: str, copied: list[int]
) -> None:
    text = f"Block count: 60\nBlock size: 4096\nJournal start: {start}\n"
    used = _blocks_in(blocks.parse_layout(text, JOURNAL).used, 4096)
    assert [one for one in used if 20 <= one < 24 or 40 <= one < 46] == copied
    assert len(used) == 50 + len(copied)


def test_runs_outside_of_the_filesystem_are_not_believed() -> None:
    with pytest.raises(HostError):
        blocks.parse_layout("Block count: 60\nBlock size: 4096\n  Free blocks: 50-70\n")


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
        blocks.parse_layout(text, text)
    assert caught.value.advice


@given(st.binary(min_size=1, max_size=64))
def test_blank_is_all_zeros_or_all_ones(content: bytes) -> None:
    assert blocks.is_blank(content) == (len(set(content)) == 1 and content[0] in (0, 255))
