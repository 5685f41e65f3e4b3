"""Copying asks rsync for everything; flags are carried over."""

from __future__ import annotations

import array
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import proof, runner, trees

IMMUTABLE, APPEND, NODUMP = 0x10, 0x20, 0x40

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


def names(root: Path) -> list[bytes]:
    return [name for name, _, _ in trees.walk(root)]


def differences(pair: tuple[Path, Path]) -> int:
    return proof.compare(*pair, lambda name: False, lambda done: None, proof.Proven()).count


def test_walk_stays_on_its_filesystem_and_follows_no_link(pair: tuple[Path, Path]) -> None:
    (pair[0] / "away").symlink_to("/proc")
    names = [name for name, _, _ in trees.walk(pair[0])]
    assert b"away" in names
    assert not any(name.startswith(b"away/") for name in names)
    assert names.index(b"folder") < names.index(b"folder/file")
    assert len(names) == len(set(names)) == 12


def test_flags_are_carried_over_and_can_be_lifted(pair: tuple[Path, Path]) -> None:
    source, target = pair
    flags = {"other": IMMUTABLE | NODUMP, "empty": APPEND, "folder": IMMUTABLE, "hard": NODUMP}
    for name, wanted in flags.items():
        path = os.fsencode(source / name)
        trees.set_flags(path, trees.get_flags(path) | wanted)
    assert differences(pair)
    trees.copy_flags(source, target, names(source))
    assert differences(pair) == 0
    with pytest.raises(PermissionError):
        (target / "other").write_bytes(b"x")
    trees.unlock_tree(target)
    (target / "other").write_bytes(b"x")
    shutil.rmtree(target / "folder")


def test_flags_go_where_the_source_has_none(pair: tuple[Path, Path]) -> None:
    """A flag that was taken away between two passes."""
    path = os.fsencode(pair[1] / "other")
    trees.set_flags(path, trees.get_flags(path) | NODUMP)
    trees.copy_flags(*pair, names(pair[0]))
    assert differences(pair) == 0


def test_calls_for_flags_are_those_of_linux_headers() -> None:
    size = array.array("L").itemsize
    assert {8: 0x80086601, 4: 0x80046601}[size] == trees.FS_IOC_GETFLAGS
    assert {8: 0x40086602, 4: 0x40046602}[size] == trees.FS_IOC_SETFLAGS


def test_copy_asks_rsync_for_everything(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(argv: Sequence[str], **options: Any) -> bytes:
        seen.append(list(argv))
        return b""

    monkeypatch.setattr(runner, "run", run)
    trees.copy(*pair)
    for option in ("--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids", "--delete"):
        assert option in seen[0]
    assert seen[0][-2:] == [f"{pair[0]}/", f"{pair[1]}/"]


def test_copy_of_some_names_tells_rsync_which(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with its entries: only so what is too much in it goes."""
    given: list[object] = []
    monkeypatch.setattr(runner, "run", lambda argv, **options: given.extend([argv, options]))
    trees.copy(*pair, only=[b".", b"folder", b"link", b"na\xffme\n"])
    assert {"--from0", "--files-from=-"} < set(given[0])  # type: ignore[call-overload]
    assert given[1]["stdin"] == b"././\0./folder/\0./link\0./na\xffme\n\0"  # type: ignore[index]


def test_copy_asks_rsync_for_sums_where_somebody_wants_them(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [b" " * 33 + b"folder/", b"deleting old", b"0" * 31 + b"1 folder/file"]

    def run(argv: Sequence[str], **options: Any) -> bytes:
        if "--out-format=%C %n" in argv:
            for line in told:
                options["heard"](line)
        return b""

    monkeypatch.setattr(runner, "run", run)
    heard: list[tuple[bytes, bytes]] = []
    trees.copy(*pair)
    trees.copy(*pair, sums=lambda *one: heard.append(one))
    assert heard == [(b"folder/file", bytes(15) + b"\x01")]


def as_rsync_writes_it(name: bytes, printed: set[int]) -> bytes:
    """Bytes that cannot be printed, and backslashes that would look like them, in octal."""
    text = b""
    for place, one in enumerate(name):
        after = name[place + 1 : place + 5]
        like = one == ord("\\") and after[:1] == b"#" and after[1:].isdigit() and len(after) == 4
        text += b"\\#%03o" % one if like or one not in printed else bytes([one])
    return text


@given(st.binary(min_size=1) | st.from_regex(rb"(\\|#|[0-9]|\n| )+", fullmatch=True), st.booleans())
def test_every_name_is_read_from_a_line_of_rsync(name: bytes, eight_bits: bool) -> None:
    printed = {9, *range(32, 127), *(range(128, 256) if eight_bits else ())}
    line = b"d41d8cd98f00b204e9800998ecf8427e " + as_rsync_writes_it(name, printed)
    assert trees.parse_sum(line) == (name, bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e"))


@given(st.binary())
def test_any_line_of_rsync_is_read_or_passed_over(line: bytes) -> None:
    found = trees.parse_sum(line)
    assert found is None or len(found[1]) == 16


@pytest.mark.parametrize(
    ("made", "then", "kept"),
    [
        # One of two names has become a file of its own, whichever of them.
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a"}),
        # Two files have exchanged names.
        ({"a": 1, "b": 2, "c": 1, "d": 2}, {"a": 1, "b": 2, "c": 2, "d": 1}, {"a", "b"}),
        # More names, fewer names, gone: nothing that rsync cannot mend.
        ({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}, {"a", "b"}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1}, {"a", "b", "c"}),
        ({"a": 1, "b": 1}, {}, {"a", "b"}),
    ],
)
def test_names_that_are_one_file_no_more_are_parted(
    tmp_path: Path, made: dict[str, int], then: dict[str, int], kept: set[str]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for root, groups in ((source, then), (target, made)):
        root.mkdir()
        for name, group in groups.items():
            first = next(one for one in groups if groups[one] == group)
            if name == first:
                (root / name).write_text("x")
            else:
                os.link(root / first, root / name)
    trees.part_links(source, target)
    assert {path.name for path in target.iterdir()} == kept


def test_the_top_can_be_unlocked_too(pair: tuple[Path, Path]) -> None:
    top = os.fsencode(pair[1])
    trees.set_flags(top, trees.get_flags(top) | IMMUTABLE)
    trees.unlock_tree(pair[1])
    assert not trees.get_flags(top) & IMMUTABLE
