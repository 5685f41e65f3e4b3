"""Fixtures of the unit tests."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from crfs import bootrecord, fatfile, live, trees
from tests.unit.pi import FakePi, build, card_row, record, row

# Speed differs between machines; a failing example is printed, so no database is needed.
settings.register_profile(
    "unit",
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("unit")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory, where there is such: thousands of files are made and removed here."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="crfs-unit-") as folder:
        yield Path(folder)


@pytest.fixture
def new_folder(disk_path: Path) -> Callable[[], Path]:
    """For properties: an empty folder on a disk for each example."""
    return lambda: Path(tempfile.mkdtemp(dir=disk_path))


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A folder on a disk, for what memory cannot do: direct reads, attributes, inode flags."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="crfs-unit-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def quick_sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing a whole filesystem may take seconds on a busy machine, and proves nothing here."""
    if request.path.name != "test_fatfile.py":
        # Like the real one it needs the folder.
        monkeypatch.setattr(fatfile, "sync_folder", lambda folder: os.listdir(folder) and None)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def pi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> FakePi:
    """A healthy Pi with the newer layout of the boot partition."""
    return build(tmp_path, monkeypatch, capsys)


@pytest.fixture(params=["boot/firmware", "boot"])
def any_pi(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> FakePi:
    """A healthy Pi, once with each layout of the boot partition."""
    return build(tmp_path, monkeypatch, capsys, str(request.param))


@pytest.fixture
def encrypted(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> FakePi:
    """A Pi on which everything is as it should be after a migration."""
    mapping = pi.folder / "mapper/cryptrfs"
    mapping.parent.mkdir()
    mapping.touch()
    pi.rows[0] = card_row(str(pi.boot))
    pi.rows[0]["children"][1]["children"] = [row(str(mapping), "crypt", 1, mountpoints=["/"])]
    pi.root = str(mapping)
    pi.mappings["cryptrfs"] = record().plan.uuids.root_luks
    pi.unlocked = {"cryptrfs"}
    report = {"state": "done", "card": {"root_partuuid": "cafe0001-02"}}
    Path(live.REPORT).write_text(json.dumps(report))
    state, at_that_time = pi.folder / "var/lib/zymbit", pi.folder / "in the initramfs"
    (state / "key.bin.lock").write_bytes(b"sealed")
    (pi.boot / "crfs-initramfs").write_bytes(b"image")
    (pi.boot / "kernel8.img").write_bytes(b"kernel")
    bootrecord.write(pi.boot)
    shutil.copytree(state, at_that_time)
    monkeypatch.setattr("crfs.probe.RUN", pi.folder / "run")
    query = pi.query

    def unpacks(argv: Any, **options: Any) -> str:
        if argv[0] != "unmkinitramfs":
            return query(argv, **options)
        shutil.copytree(at_that_time, Path(argv[2]) / "main/var/lib/zymbit")
        return ""

    monkeypatch.setattr("crfs.runner.query", unpacks)
    return pi


@pytest.fixture
def pair(disk_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two equal trees with a bit of everything."""
    source, target = disk_path / "source", disk_path / "target"
    for root in (source, target):
        _fill(root)
    yield source, target
    for root in (source, target):
        trees.unlock_tree(root)


def _fill(root: Path) -> None:
    (root / "folder/below").mkdir(parents=True)
    (root / "folder/file").write_bytes(b"content" * 1000)
    (root / "empty").touch()
    (root / "link").symlink_to("folder/file")
    os.link(root / "folder/file", root / "hard")
    os.link(root / "empty", root / "empty-hard")
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o020600, os.makedev(1, 3))
    (root / "other").write_bytes(b"other")
    with open(os.fsencode(root) + b"/na\xffme\n", "wb") as odd:
        odd.write(b"odd")
    os.setxattr(root / "other", "user.note", b"kept")
    os.setxattr(root / "link", "trusted.link", b"kept", follow_symlinks=False)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + 123456789), follow_symlinks=False)
    os.utime(root, ns=(10**18, 10**18))
