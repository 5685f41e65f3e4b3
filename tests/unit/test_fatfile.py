"""A file on the boot partition has the old content or the new, whenever the power goes."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

import pytest

from crfs import fatfile
from crfs.journal import Journal


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


class Trace:
    """The calls that matter for FAT, in their order; the power goes before number `cut`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, cut: int = -1) -> None:
        self.calls: list[str] = []
        self._cut = cut
        self._old = path
        self._opened: dict[int, str] = {}
        real_open, real_close, real_fsync = os.open, os.close, os.fsync
        real_rename, real_sync = Path.rename, fatfile.sync_folder

        def opened(name: str | Path, flags: int, *rest: int) -> int:
            descriptor = real_open(name, flags, *rest)
            if name == path:
                self._note("open old")
                self._opened[descriptor] = "old"
            return descriptor

        def close(descriptor: int) -> None:
            if self._opened.pop(descriptor, ""):
                self._note("close old")
            real_close(descriptor)

        def fsync(descriptor: int) -> None:
            # That of a folder belongs to "flush all".
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                self._note("flush new")
            real_fsync(descriptor)

        def rename(self_: Path, target: Path) -> Path:
            self._note("rename")
            return real_rename(self_, target)

        def sync(folder: Path) -> None:
            self._note("flush all")
            real_sync(folder)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "close", close)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setattr(fatfile, "sync_folder", sync)

    def _note(self, what: str) -> None:
        if len(self.calls) == self._cut:
            raise PowerCut
        self.calls.append(what)


def test_order_for_an_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old clusters are freed by the close, so it has to come after the entry is out."""
    path = tmp_path / "config.txt"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        trace = Trace(patch, path)
        fatfile.replace(path, b"new")
    expected = ["flush new", "open old", "rename", "flush all", "close old", "flush all"]
    assert trace.calls == expected
    assert path.read_bytes() == b"new"


def test_order_for_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.txt"
    with monkeypatch.context() as patch:
        trace = Trace(patch, path)
        fatfile.replace(path, b"new")
    assert trace.calls == ["flush new", "rename", "flush all", "flush all"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("old", [b"old" * 1000, None])
@pytest.mark.parametrize("cut", range(6))
def test_old_or_new_at_every_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None, cut: int
) -> None:
    path = tmp_path / "config.txt"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        Trace(patch, path, cut)
        if cut < (6 if old is not None else 4):
            with pytest.raises(PowerCut):
                fatfile.replace(path, b"new")
    found = path.read_bytes() if path.exists() else None
    assert found in (old, b"new")
    fatfile.replace(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [one.name for one in tmp_path.iterdir()] == ["config.txt"]


def test_a_failing_medium_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        fatfile.replace(tmp_path / "absent" / "config.txt", b"new")
    with pytest.raises(OSError, match="No such file"):
        fatfile.sync_folder(tmp_path / "absent")


def test_remove(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.touch()
    fatfile.remove(path)
    fatfile.remove(path)
    assert not path.exists()


def test_the_card_empties_its_cache_after_everything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The FAT driver asks the card for that at fsync only, not at syncfs."""
    calls: list[str] = []

    class Library:
        def syncfs(self, descriptor: int) -> int:
            calls.append("syncfs")
            return 0

    def fsync(descriptor: int) -> None:
        calls.append(f"fsync {os.path.samestat(os.fstat(descriptor), tmp_path.stat())}")

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library())
    monkeypatch.setattr(os, "fsync", fsync)
    fatfile.sync_folder(tmp_path)
    assert calls == ["syncfs", "fsync True"]


def test_fat_knows_a_name_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.txt made on a PC may stand in its folder as CONFIG.TXT."""
    path = tmp_path / "config.txt"
    path.write_bytes(b"old")
    monkeypatch.setattr(fatfile, "_is_fat", lambda folder: True)
    monkeypatch.setattr(os, "listdir", lambda folder: [one.name.upper() for one in made])
    made: list[Path] = [path]
    touch = Path.touch

    def touched(self: Path) -> None:
        touch(self)
        # As if a removed file had left a gap before it.
        made.insert(0 if len(made) == 1 else len(made), self)

    monkeypatch.setattr(Path, "touch", touched)
    fatfile.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert [one.name for one in made] == [
        "config.txt.crfs-new",
        "config.txt",
        "config.txt.1.crfs-new",
    ]
    assert [one.name for one in made if one.exists()] == ["config.txt"]


def test_room_is_made_name_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the medium one after the other: two that come at a time could leave a gap between."""
    (tmp_path / "config.txt").write_bytes(b"mine")
    found: list[int] = []
    monkeypatch.setattr(fatfile, "_is_fat", lambda folder: True)
    monkeypatch.setattr(os, "listdir", lambda folder: [one.name for one in room_names(tmp_path)])
    monkeypatch.setattr(
        fatfile, "sync_folder", lambda folder: found.append(len(room_names(tmp_path)))
    )
    fatfile.make_room(tmp_path)
    assert found == [*range(1, fatfile._ENTRIES + 1), 0]
    assert [path.name for path in tmp_path.glob("*")] == ["config.txt"]


def room_names(folder: Path) -> list[Path]:
    return sorted(folder.glob("CRFS*"))


def test_no_room_is_made_where_it_is_no_fat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda self: pytest.fail("a file was made"))
    fatfile.make_room(tmp_path)


def test_what_a_cut_has_left_of_making_room_goes(tmp_path: Path) -> None:
    own = tmp_path / "crfs"
    own.mkdir()
    for folder in (tmp_path, own):
        (folder / "CRFS0003").touch()
        (folder / "CRFS.TXT").touch()
    Journal(tmp_path).remove_empty_folder()
    assert room_names(own) == [own / "CRFS.TXT"]
    (own / "CRFS.TXT").unlink()
    Journal(tmp_path).remove_empty_folder()
    assert not own.exists()
