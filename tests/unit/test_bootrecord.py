"""Hashes of the boot files: which changes are reported, and which the hooks know to be lawful."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crfs import bootrecord

HOOK = Path(__file__).resolve().parents[2] / "initramfs-hooks/kernel-installed"


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "boot"
    folder.mkdir()
    for name in ("config.txt", "cmdline.txt", "crfs-initramfs", "kernel8.img", "start4.elf"):
        (folder / name).write_text(name)
    monkeypatch.setattr(bootrecord, "FILE", tmp_path / "lib/boot.sha256")
    bootrecord.write(folder)
    return folder


def hook(boot: Path, installed: Path | None = None, *, mounted: bool = True) -> str:
    """Run a hook as an update does that has installed a file, on these folders; what it said."""
    text = HOOK.read_text()
    for word, path in {
        "/var/lib/crfs/boot.sha256": bootrecord.FILE,
        "/boot/firmware": boot,
        "/boot/initrd.img-": boot.parent / "initrd.img-",
        "/etc/initramfs/post-update.d/zz-crfs": boot.parent / "zz-crfs",
    }.items():
        assert word in text
        text = text.replace(word, str(path))
    mountpoint = f'mountpoint() {{ {str(mounted).lower()} && [ "$2" = "{boot}" ]; }}\n'
    argv = [
        "/bin/sh",
        "-c",
        mountpoint + text,
        HOOK.name,
        "6.12.47+rpt-rpi-v8",
        str(installed or ""),
    ]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stderr
    assert not list(bootrecord.FILE.parent.glob("*.new"))
    return said


def test_nothing_has_changed(boot: Path) -> None:
    (boot / "start4.elf").write_text("updated by the firmware's own package")
    assert bootrecord.changes(boot) == []


@pytest.mark.parametrize("name", ["config.txt", "cmdline.txt", "crfs-initramfs", "kernel8.img"])
def test_each_change_is_reported(boot: Path, name: str) -> None:
    (boot / name).write_text("changed")
    (change,) = bootrecord.changes(boot)
    assert change.startswith(f"{name} has changed")


def test_what_is_gone_and_what_is_new(boot: Path) -> None:
    """A kernel that is gone cannot be booted, and goes with its package."""
    (boot / "crfs-initramfs").unlink()
    (boot / "kernel8.img").unlink()
    (boot / "kernel_2712.img").touch()
    (boot / "vmlinuz-6.1.0-41-arm64").touch()
    gone, new, debians = bootrecord.changes(boot)
    assert gone.startswith("crfs-initramfs is gone")
    assert new.startswith("kernel_2712.img is new")
    assert debians.startswith("vmlinuz-6.1.0-41-arm64 is new")


def test_another_command_line_that_config_names(boot: Path) -> None:
    (boot / "evil.txt").write_text("init=/bin/sh")
    (boot / "config.txt").write_text("cmdline=evil.txt")
    told = " ".join(bootrecord.changes(boot))
    assert "config.txt has changed" in told
    assert "evil.txt is new" in told


KERNELS = ["kernel8.img", "vmlinuz-6.1.0-41-arm64"]


@pytest.mark.real_commands
@pytest.mark.parametrize("lawful", KERNELS)
def test_an_update_is_lawful_and_nothing_beside_it(boot: Path, tmp_path: Path, lawful: str) -> None:
    changed = {"config.txt", "cmdline.txt", "crfs-initramfs", "kernel8.img", lawful}
    for one in changed:
        (boot / one).write_text("changed by somebody")
    (tmp_path / "installed").write_text("installed")
    (boot / lawful).write_text("installed")
    said = hook(boot, tmp_path / "installed")
    told = bootrecord.changes(boot)
    assert [line.split()[0] for line in told] == sorted(changed - {lawful})
    beside = lawful.startswith("vmlinuz")
    assert ("kernel8.img has changed, but not by this update" in said) == beside


@pytest.mark.real_commands
@pytest.mark.parametrize("other", KERNELS)
def test_what_is_not_of_this_update_is_left_and_said(
    boot: Path, tmp_path: Path, other: str
) -> None:
    (tmp_path / "installed").write_text("installed")
    (boot / other).write_text("changed by somebody")
    before = bootrecord.FILE.read_bytes()
    assert f"{other} has changed, but not by this update" in hook(boot, tmp_path / "installed")
    assert bootrecord.FILE.read_bytes() == before


@pytest.mark.real_commands
def test_an_update_of_what_the_boot_partition_does_not_have(boot: Path, tmp_path: Path) -> None:
    """Of another flavour's image; and no kernel at all fails nothing."""
    (tmp_path / "installed").write_text("another flavour's")
    before = bootrecord.FILE.read_bytes()
    assert hook(boot, tmp_path / "installed") == ""
    (boot / "kernel8.img").unlink()
    (boot / "crfs-initramfs").unlink()
    assert hook(boot, tmp_path / "installed") == ""
    assert bootrecord.FILE.read_bytes() == before


@pytest.mark.real_commands
@pytest.mark.parametrize("code", [0, 1])
def test_the_initramfs_need_not_serve_the_kernel_before_any_more(boot: Path, code: int) -> None:
    called = boot.parent / "called"
    (boot.parent / "zz-crfs").write_text(f"#!/bin/sh\necho $* >{called}; exit {code}\n")
    (boot.parent / "zz-crfs").chmod(0o755)
    assert hook(boot) == ""
    assert not called.exists(), "of a kernel that has none"
    image = boot.parent / "initrd.img-6.12.47+rpt-rpi-v8"
    image.touch()
    assert ("stays as it was" in hook(boot)) == bool(code)
    assert called.read_text() == f"6.12.47+rpt-rpi-v8 {image}\n"


@pytest.mark.real_commands
def test_a_record_that_cannot_be_written_fails_no_update(boot: Path) -> None:
    (boot / "kernel8.img").write_text("installed")
    bootrecord.FILE.unlink()
    bootrecord.FILE.mkdir()
    assert "could not be noted" in hook(boot, boot / "kernel8.img")


@pytest.mark.real_commands
def test_hooks_know_a_folder_from_the_boot_partition(boot: Path) -> None:
    """Raspberry Pi OS has a config.txt in /boot that only says where the real one is."""
    before = bootrecord.FILE.read_bytes()
    (boot / "kernel8.img").unlink()
    (boot / "crfs-initramfs").unlink()
    hook(boot, mounted=False)
    assert bootrecord.FILE.read_bytes() == before


@pytest.mark.real_commands
def test_hooks_of_a_system_without_a_record_do_nothing(boot: Path) -> None:
    bootrecord.FILE.unlink()
    hook(boot)
    assert not bootrecord.FILE.exists()
