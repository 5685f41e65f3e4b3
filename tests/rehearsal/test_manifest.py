"""Where two manifests differ, and what may lawfully differ."""

from __future__ import annotations

import os
from pathlib import Path

from crfs.rehearsal.manifest import Lawful, compare, dump, load, walk


def manifest(root: Path) -> dict[str, dict[str, object]]:
    return {entry["path"]: entry for entry in walk(root)}


def test_a_folder_equals_itself_and_survives_json(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    os.link(tmp_path / "plain", tmp_path / "second")
    (tmp_path / "link").symlink_to("plain")
    with open(os.fsencode(tmp_path) + b"/raw-\xff", "wb") as file:
        file.write(b"y")
    first = manifest(tmp_path)
    assert first["/second"]["same_as"] == "/plain"
    assert compare(first, load(dump(first).splitlines())) == []


def test_every_kind_of_change_is_named(tmp_path: Path) -> None:
    for name in ("content", "mode", "time", "gone", "unlinked"):
        (tmp_path / name).write_text("before")
    os.link(tmp_path / "unlinked", tmp_path / "other-name")
    before = manifest(tmp_path)
    (tmp_path / "content").write_text("after!")
    (tmp_path / "mode").chmod(0o600)
    os.utime(tmp_path / "time", ns=(1, 1))
    (tmp_path / "gone").unlink()
    (tmp_path / "other-name").unlink()
    (tmp_path / "new").touch()
    differences = compare(before, manifest(tmp_path))
    for start in ("'/content': sha256", "'/mode': mode", "'/time': mtime", "'/gone': is gone"):
        assert any(line.startswith(start) for line in differences), start
    assert "'/new': appeared" in differences
    assert any(line.startswith("'/unlinked': links") for line in differences)


def test_lawful_changes_are_not_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("1")
    before = manifest(tmp_path)
    (tmp_path / "log").write_text("22")
    (tmp_path / "other").touch()
    rules = [
        Lawful("/log", "written all the time", frozenset({"sha256", "size", "mtime", "blocks"})),
        Lawful("/other", "comes and goes"),
        Lawful("/", "its folder", frozenset({"mtime"})),
    ]
    assert compare(before, manifest(tmp_path), rules) == []


def test_a_hole_that_was_filled_is_a_difference(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(8 << 20)
    before = manifest(tmp_path)
    stamp = (tmp_path / "sparse").stat().st_mtime_ns
    (tmp_path / "sparse").write_bytes(bytes(8 << 20))
    with (tmp_path / "sparse").open("rb") as file:
        os.fsync(file.fileno())
    os.utime(tmp_path / "sparse", ns=(stamp, stamp))
    assert [line.split(" was")[0] for line in compare(before, manifest(tmp_path))] == [
        "'/sparse': blocks"
    ]
