"""`crfs header`: only the header of this very partition is ever written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crfs import live, luks, probe
from crfs.errors import CommandError
from tests.unit.pi import GB, FakePi, card_row, row

PART = "cafe0001-02"


@pytest.fixture
def done(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An encrypted Pi; the list tells what was done to headers."""
    acts: list[str] = []
    mapping = row(str(probe.mapping_path("cryptrfs")), "crypt", GB)
    part = row("/dev/mmcblk0p2", "part", GB, partuuid=PART, children=[mapping])
    other = row("/dev/sda1", "part", GB, partuuid="0badcafe-01")
    pi.rows[:] = [
        row("/dev/mmcblk0", "disk", GB, children=[part]),
        row("/dev/sda", "disk", GB, children=[other]),
    ]
    monkeypatch.setattr(
        luks, "back_up_header", lambda path, file: acts.append(f"{path} > {file.name}")
    )
    monkeypatch.setattr(
        luks, "restore_header", lambda path, file: acts.append(f"{path} < {file.name}")
    )
    monkeypatch.setattr(luks, "named_partition", lambda path: PART)
    return acts


def test_backup_goes_to_a_new_file(pi: FakePi, done: list[str], tmp_path: Path) -> None:
    result = pi.crfs("header", "backup", str(tmp_path / "copy"))
    assert (result.code, done) == (0, ["/dev/mmcblk0p2 > copy"])
    assert "Keep it elsewhere" in result.out


def test_backup_overwrites_nothing(pi: FakePi, done: list[str], tmp_path: Path) -> None:
    (tmp_path / "copy").touch()
    pi.refuses(["header", "backup", str(tmp_path / "copy")], 2, "exists")
    pi.refuses(["header", "backup", str(tmp_path / "no/copy")], 2, "no folder")
    assert not done


def test_restore_to_its_own_partition(pi: FakePi, done: list[str]) -> None:
    assert pi.crfs("header", "restore", "copy", "--yes").code == 0
    assert pi.crfs("header", "restore", "copy", "--yes", "--device", "/dev/mmcblk0p2").code == 0
    assert done == ["/dev/mmcblk0p2 < copy"] * 2


def test_restore_asks(pi: FakePi, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "no"

    monkeypatch.setattr("builtins.input", answer)
    pi.refuses(["header", "restore", "copy"], 23, "did not say yes")
    assert "/dev/mmcblk0p2" in asked[0]
    assert not done


OURS = "aaaaaaaa-0000-4000-8000-000000000003"
TWINS = "bbbbbbbb-0000-4000-8000-000000000003"
RESTORE = ["header", "restore", "copy", "--yes", "--device", "/dev/mmcblk0p2"]


def by_header(pi: FakePi) -> None:
    pi.superblocks["/dev/mmcblk0p2", "TYPE"] = "crypto_LUKS"
    pi.superblocks["/dev/mmcblk0p2", "UUID"] = OURS
    pi.rows[0]["children"][0]["children"] = []


def by_mapping(pi: FakePi) -> None:
    pi.mappings["cryptrfs"] = OURS


def by_other_mapping(pi: FakePi) -> None:
    """On a PC it may be open under any name."""
    pi.rows[0]["children"][0]["children"] = [row("/dev/mapper/mine", "crypt", GB)]
    pi.mappings["mine"] = OURS


def by_report(pi: FakePi) -> None:
    Path(live.REPORT).write_text(json.dumps({"state": "done", "uuids": {"root_luks": OURS}}))


KNOWN = [by_header, by_mapping, by_other_mapping, by_report]


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("backup", [TWINS, ""])
def test_header_of_another_encryption_is_refused(
    pi: FakePi, done: list[str], known: Callable[[FakePi], None], backup: str
) -> None:
    """A clone of the card has the same PARTUUID; with its header this one's data would be lost."""
    known(pi)
    pi.superblocks[str(Path("copy").absolute()), "UUID"] = backup
    result = pi.refuses(RESTORE, 12, "another encryption", OURS)
    assert "no key would open" in result.err
    assert not done


@pytest.mark.parametrize("known", KNOWN)
def test_header_of_this_encryption_is_restored(
    pi: FakePi, done: list[str], known: Callable[[FakePi], None]
) -> None:
    known(pi)
    pi.superblocks[str(Path("copy").absolute()), "UUID"] = OURS
    assert pi.crfs(*RESTORE).code == 0
    assert done == ["/dev/mmcblk0p2 < copy"]


def test_of_what_is_open_the_kernel_knows(pi: FakePi, done: list[str]) -> None:
    """Another one's header has come onto it: the right backup is the rescue, until it is closed."""
    by_mapping(pi)
    pi.superblocks["/dev/mmcblk0p2", "TYPE"] = "crypto_LUKS"
    pi.superblocks["/dev/mmcblk0p2", "UUID"] = TWINS
    pi.superblocks[str(Path("copy").absolute()), "UUID"] = OURS
    assert pi.crfs(*RESTORE).code == 0
    assert done == ["/dev/mmcblk0p2 < copy"]


@pytest.mark.parametrize(
    ("kind", "uuid"),
    [("", ""), ("ext4", TWINS), ("crypto_LUKS", "aaaa?\x01"), ("crypto_LUKS", "")],
)
def test_header_that_is_gone_or_torn_is_restored(
    pi: FakePi, done: list[str], kind: str, uuid: str
) -> None:
    """It is what the backup is for: also where a mkfs or garbage has taken the header's place."""
    by_report(pi)  # of the root that is running, which is another partition
    pi.rows[0]["children"][0]["children"] = []
    pi.superblocks["/dev/mmcblk0p2", "TYPE"] = kind
    pi.superblocks["/dev/mmcblk0p2", "UUID"] = uuid
    pi.superblocks[str(Path("copy").absolute()), "UUID"] = OURS[:-1] + "4"
    assert pi.crfs(*RESTORE).code == 0
    assert done == ["/dev/mmcblk0p2 < copy"]


@pytest.mark.parametrize("report", ["[]", "{}", '{"uuids": 3}', '{"uuids": {"root_luks": null}}'])
def test_report_that_tells_nothing_forbids_nothing(
    pi: FakePi, done: list[str], report: str
) -> None:
    Path(live.REPORT).write_text(report)
    assert pi.crfs(*RESTORE).code == 0
    assert done


@pytest.mark.parametrize("told", ["", "0badcafe-01"])
def test_a_header_of_something_else_is_refused(
    pi: FakePi, done: list[str], monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(luks, "named_partition", lambda path: told)
    pi.refuses(["header", "restore", "copy", "--yes"], 12, "another partition")
    assert not done


def test_another_device_is_refused(pi: FakePi, done: list[str]) -> None:
    for device, words in (("/dev/sda1", "another partition"), ("/dev/sdz1", "no partition")):
        pi.refuses(["header", "restore", "copy", "--yes", "--device", device], 12, words)
    assert not done


def test_what_is_mounted_is_no_damaged_root(pi: FakePi, done: list[str]) -> None:
    """A card and its twin have the same identity; the one in use must not be overwritten."""
    pi.rows[0] = card_row(str(pi.boot))
    pi.refuses(["header", "restore", "copy", "--yes", "--device", "/dev/mmcblk0p2"], 12, "mounted")
    assert not done


def test_any_other_file_is_refused(
    pi: FakePi, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> str:
        raise CommandError("Device copy is not a valid LUKS device.")

    monkeypatch.setattr(luks, "named_partition", fail)
    pi.refuses(["header", "restore", "copy", "--yes"], 2, "no backup")
    assert not done
