"""The boot partition during a migration, on a temporary folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import bootconfig, bootfiles, fatfile
from crfs.bootconfig import ROOT, STAGE
from crfs.bootfiles import BootFiles
from crfs.rehearsal import firmware
from tests.unit.pi import CMDLINE, CONFIG, plan, snapshot

TRYBOOT = b"# the user tries a kernel\nkernel=test.img\n"


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


def make(folder: Path, *, tryboot: bool, users_tryboot: bool = False) -> BootFiles:
    """A boot partition as phase 1 has it before the first trial boot."""
    (folder / "config.txt").write_bytes(CONFIG)
    (folder / "cmdline.txt").write_text(CMDLINE + "\n")
    (folder / "initramfs8").write_bytes(b"image")
    if users_tryboot:
        (folder / "tryboot.txt").write_bytes(TRYBOOT)
    boot = BootFiles(folder, plan(str(folder), tryboot=tryboot))
    boot.own.mkdir()
    boot.initramfs.write_bytes(b"our image")
    boot.sealed_key.write_bytes(b"sealed")
    return boot


def initramfs_puts_back(boot: BootFiles) -> None:
    """What local-top does in a one-shot boot without tryboot."""
    good = boot.own / "good-config.txt"
    if good.exists() and b"-trial.txt" in boot.config.read_bytes():
        boot.config.write_bytes(good.read_bytes())


def assert_bootable(boot: BootFiles) -> None:
    """What config.txt and tryboot.txt name is there, and complete."""
    for name in ("config.txt", "tryboot.txt"):
        path = boot.folder / name
        if not path.exists():
            assert name != "config.txt"
            continue
        config = path.read_bytes()
        cmdline = boot.folder / (bootfiles.setting(config, "cmdline") or "cmdline.txt")
        assert cmdline.read_text().endswith("\n"), name
        assert "root=" in cmdline.read_text()
        if b"initramfs crfs-initramfs" in config:
            assert boot.initramfs.read_bytes() == b"our image"


@pytest.mark.parametrize("target", [STAGE, ROOT])
def test_trial_with_tryboot_leaves_the_default_alone(tmp_path: Path, target: str) -> None:
    boot = make(tmp_path, tryboot=True)
    boot.failure_note.write_text("hsm: an old failure")
    boot.arm(target)
    assert boot.config.read_bytes() == CONFIG
    trial = (tmp_path / "tryboot.txt").read_bytes()
    assert bootfiles.setting(trial, "cmdline") == f"crfs-{target}-trial.txt"
    assert trial.startswith(CONFIG)
    assert "crfs.trial=1" in (tmp_path / f"crfs-{target}-trial.txt").read_text()
    assert not boot.failure_note.exists()
    assert_bootable(boot)


@pytest.mark.parametrize("target", [STAGE, ROOT])
def test_trial_without_tryboot_can_be_put_back(tmp_path: Path, target: str) -> None:
    boot = make(tmp_path, tryboot=False)
    boot.arm(target)
    assert (boot.own / "good-config.txt").read_bytes() == CONFIG
    assert bootfiles.setting(boot.config.read_bytes(), "cmdline") == f"crfs-{target}-trial.txt"
    assert "crfs.oneshot=1" in (tmp_path / f"crfs-{target}-trial.txt").read_text()
    initramfs_puts_back(boot)
    assert boot.config.read_bytes() == CONFIG


def test_good_config_is_never_a_trial(tmp_path: Path) -> None:
    """Armed twice without a boot in between, the good configuration is still the good one."""
    boot = make(tmp_path, tryboot=False)
    boot.arm(STAGE)
    boot.arm(STAGE)
    initramfs_puts_back(boot)
    assert boot.config.read_bytes() == CONFIG


@pytest.mark.parametrize("tryboot", [True, False])
@pytest.mark.parametrize("target", [STAGE, ROOT])
def test_default(tmp_path: Path, target: str, tryboot: bool) -> None:
    boot = make(tmp_path, tryboot=tryboot)
    assert not boot.is_default(target)
    boot.arm(target)
    initramfs_puts_back(boot)
    assert not boot.is_default(target)
    boot.make_default(target)
    assert boot.is_default(target)
    assert "crfs.trial" not in (tmp_path / f"crfs-{target}.txt").read_text()
    assert_bootable(boot)


@pytest.mark.parametrize("tryboot", [True, False])
@pytest.mark.parametrize("users", [True, False])
def test_final_is_the_users_own(tmp_path: Path, tryboot: bool, users: bool) -> None:
    boot = make(tmp_path, tryboot=tryboot, users_tryboot=users)
    for target in (STAGE, ROOT):
        boot.arm(target)
        initramfs_puts_back(boot)
        boot.make_default(target)
    for _ in range(2):
        boot.make_final()
        assert boot.config.read_bytes() == bootfiles.with_block(CONFIG, "cmdline.txt")
        final = bootconfig.final_cmdline(CMDLINE, keep_shell=False)
        assert (tmp_path / "cmdline.txt").read_text() == final
        assert boot.leftovers() == [boot.own]
        found = tmp_path / "tryboot.txt"
        assert (found.read_bytes() if found.exists() else None) == (TRYBOOT if users else None)
    boot.remove_own()
    assert list(boot.own.iterdir()) == []
    assert_bootable(boot)


MOVES: dict[str, Callable[[BootFiles], None]] = {
    "arm stage": lambda boot: boot.arm(STAGE),
    "stage is default": lambda boot: boot.make_default(STAGE),
    "arm root": lambda boot: boot.arm(ROOT),
    "boot": initramfs_puts_back,
}


@given(
    st.booleans(), st.booleans(), st.lists(st.sampled_from(sorted(MOVES)), max_size=6), st.binary()
)
def test_restore_is_byte_for_byte(
    new_folder: Callable[[], Path],
    tryboot: bool,
    users_tryboot: bool,
    moves: list[str],
    config: bytes,
) -> None:
    folder = new_folder()
    boot = make(folder, tryboot=tryboot, users_tryboot=users_tryboot)
    boot.config.write_bytes(config)
    before = snapshot(folder)
    for name in ("crfs", "crfs/key.bin.lock", "crfs-initramfs"):
        del before[name]
    for move in moves:
        MOVES[move](boot)
    for _ in range(2):
        boot.restore()
        boot.remove_own()
    boot.own.rmdir()
    assert snapshot(folder) == before


ACTS: dict[str, Callable[[BootFiles], None]] = {
    "arm stage": lambda boot: boot.arm(STAGE),
    "stage is default": lambda boot: boot.make_default(STAGE),
    "arm root": lambda boot: boot.arm(ROOT),
    "root is default": lambda boot: boot.make_default(ROOT),
    "final": lambda boot: boot.make_final(),
    "restore": lambda boot: boot.restore(),
}


PLAIN_ROOT, STAGE_ROOT, CRYPT_ROOT = (
    "PARTUUID=cafe0001-02",
    "/dev/mapper/cryptstage",
    "/dev/mapper/cryptrfs",
)
# Where the ordinary boot may lead at any cut of an act: to a root that is whole then.
LEADS_TO = {
    "arm stage": {PLAIN_ROOT},
    "stage is default": {PLAIN_ROOT, STAGE_ROOT},
    "arm root": {STAGE_ROOT},
    "root is default": {STAGE_ROOT, CRYPT_ROOT},
    "final": {CRYPT_ROOT},
    "restore": {CRYPT_ROOT, PLAIN_ROOT},  # done here after all the others
}


def default_root(boot: BootFiles) -> str | None:
    name = bootfiles.setting(boot.config.read_bytes(), "cmdline") or "cmdline.txt"
    return bootconfig.token((boot.folder / name).read_text(), "root")


@pytest.mark.parametrize("tryboot", [True, False])
@pytest.mark.parametrize("act", list(ACTS))
def test_bootable_at_every_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, tryboot: bool
) -> None:
    """Cut before each write to the boot partition: whatever is named is there; then go on."""
    writes = {name: getattr(fatfile, name) for name in ("replace", "remove")}
    cut = done = 0
    finished = False

    def counted(name: str) -> Callable[..., None]:
        def call(*args: object) -> None:
            nonlocal done
            if done == cut:
                raise PowerCut
            done += 1
            writes[name](*args)

        return call

    while not finished:
        folder = tmp_path / str(cut)
        folder.mkdir()
        boot = make(folder, tryboot=tryboot, users_tryboot=True)
        for name, move in ACTS.items():
            if name == act or name == "final":
                break
            move(boot)
            initramfs_puts_back(boot)
        done = 0
        with monkeypatch.context() as patch:
            for name in writes:
                patch.setattr(fatfile, name, counted(name))
            try:
                ACTS[act](boot)
                finished = True
            except PowerCut:
                pass
        assert_bootable(boot)
        initramfs_puts_back(boot)
        assert_bootable(boot)
        assert default_root(boot) in LEADS_TO[act]
        ACTS[act](boot)
        assert_bootable(boot)
        cut += 1
    assert cut > 1


def test_command_line_need_not_be_utf8(tmp_path: Path) -> None:
    boot = make(tmp_path, tryboot=True)
    (tmp_path / "cmdline.txt").write_bytes(b"root=x name=\xff\xfe quiet\n")
    boot.make_final()
    expected = b"name=\xff\xfe quiet panic=10 root=/dev/mapper/cryptrfs\n"
    assert (tmp_path / "cmdline.txt").read_bytes() == expected


def test_other_name_of_the_command_line_file(tmp_path: Path) -> None:
    boot = make(tmp_path, tryboot=True)
    (tmp_path / "cmdline.txt").rename(tmp_path / "mine.txt")
    boot.config.write_bytes(b"cmdline=mine.txt\n")
    named = dataclasses.replace(boot.plan.boot, cmdline_name="mine.txt")
    boot = BootFiles(tmp_path, dataclasses.replace(boot.plan, boot=named))
    boot.arm(STAGE)
    boot.make_default(STAGE)
    boot.make_final()
    assert bootfiles.setting(boot.config.read_bytes(), "cmdline") == "mine.txt"
    assert "cryptrfs" in (tmp_path / "mine.txt").read_text()
    assert not (tmp_path / "cmdline.txt").exists()


class Folder(firmware.BootPartition):
    """What the firmware reads, in a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes | None:
        path = self._path / name
        return path.read_bytes() if path.exists() else None


BY_BOARD = b"[pi4]\ncmdline=four.txt\n[pi5]\ncmdline=five.txt\n"
INCLUDED = b"cmdline=cmdline.txt\ninclude more.txt\n"


@pytest.mark.parametrize("board", ["pi4", "pi5", "cm4"])
@pytest.mark.parametrize("config", [BY_BOARD, INCLUDED, BY_BOARD + b"[all]\n", BY_BOARD + b"[cm4]"])
def test_firmware_reads_the_command_line_that_was_written(
    tmp_path: Path, board: str, config: bytes
) -> None:
    """Whichever of the user's files crfs took: at the end every board reads that one."""
    boot = make(tmp_path, tryboot=True)
    for name in ("four.txt", "five.txt", "other.txt"):
        (tmp_path / name).write_text(CMDLINE + "\n")
    (tmp_path / "more.txt").write_text("cmdline=other.txt\n")
    boot.config.write_bytes(config)
    named = dataclasses.replace(boot.plan.boot, cmdline_name=bootfiles.setting(config, "cmdline"))
    boot = BootFiles(tmp_path, dataclasses.replace(boot.plan, boot=named))
    boot.make_default(ROOT)
    boot.make_final()
    chosen = firmware.choose(Folder(tmp_path), board, "kernel8.img", trial=False)
    assert bootconfig.token(chosen.cmdline, "root") == CRYPT_ROOT
    assert chosen.initramfs == "crfs-initramfs"
