"""What lsblk and the kernel say, also when it is not what they should say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crfs import probe
from crfs.errors import HostError
from tests.unit.hostile import file_text, json_values, paths, replaced
from tests.unit.pi import GB, card_row, stick_row

ROWS = {"blockdevices": [card_row("/boot/firmware"), stick_row()]}


def test_lsblk_of_a_pi() -> None:
    card, stick = probe.parse_lsblk(json.dumps(ROWS))
    assert [one.path for one in card.walk()] == [
        "/dev/mmcblk0",
        "/dev/mmcblk0p1",
        "/dev/mmcblk0p2",
    ]
    assert [one.number for one in card.walk()] == [0, 1, 2]
    assert card.children[1].mounts == ("/",)
    assert card.size == 32 * GB
    assert (stick.transport, stick.removable, stick.mounts) == ("usb", True, ())


@given(st.text(max_size=100))
def test_lsblk_any_text(text: str) -> None:
    with pytest.raises(HostError):
        probe.parse_lsblk(text)


@given(st.sampled_from(paths(ROWS)), json_values)
@example(("blockdevices", 0, "size"), float("inf"))
@example(("blockdevices", 0, "size"), 10**400)
@example(("blockdevices", 0, "size"), "many")
@example(("blockdevices", 0, "mountpoints"), 5)
@example(("blockdevices", 0, "children"), [None])
@example(("blockdevices", 0), "text")
def test_lsblk_hostile_value_in_one_place(path: tuple[Any, ...], value: Any) -> None:
    try:
        found = probe.parse_lsblk(json.dumps(replaced(ROWS, path, value)))
    except HostError:
        return
    for disk in found:
        for block in disk.walk():
            assert isinstance(block.size, int)
            assert isinstance(block.describe(), str)


def test_lsblk_too_deep() -> None:
    with pytest.raises(HostError):
        probe.parse_lsblk("[" * 100000)


# The kernel escapes these four in /proc/self/mounts, and `#` in newer versions.
ESCAPED = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134", "#": "\\043"}
mount_names = file_text.filter(lambda text: "\0" not in text and text != "")


def escape(text: str) -> str:
    return "".join(ESCAPED.get(one, one) for one in text)


@given(st.lists(st.tuples(mount_names, mount_names), max_size=4))
@example([("/dev/sda1", "/media/pi/a\x0bb\x85c\u2028d\x1ee")])
def test_mounts_round_trip(names: list[tuple[str, str]]) -> None:
    """A stick's label becomes a mount point's name: any character may be in there."""
    text = "".join(
        f"{escape(source)} {escape(target)} ext4 rw,noatime 0 0\n" for source, target in names
    )
    found = probe.parse_mounts(text)
    assert [(one.source, one.target) for one in found] == names
    assert all(one.options == ("rw", "noatime") for one in found)


@given(file_text)
def test_mounts_any_text(text: str) -> None:
    for one in probe.parse_mounts(text):
        assert isinstance(one.target, str)


@given(st.text(max_size=200))
def test_printable(text: str) -> None:
    for shown in (probe.printable(text), probe.printable_line(text)):
        assert shown.isprintable()
    assert len(probe.printable(text)) <= 64


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (32 * 10**9, "32.0 GB"), (2e12, "2.0 TB")],
)
def test_human(size: float, shown: str) -> None:
    assert probe.human(size) == shown
