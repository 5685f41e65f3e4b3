"""The scripts of the initramfs, and of what makes it: run here by sh, with files in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "initramfs-hooks"
pytestmark = pytest.mark.real_commands


def one_shot(tmp_path: Path, around: str = "") -> Path:
    """Run local-top in a one-shot boot, with `around` in place of commands; the config.txt."""
    boot = tmp_path / "boot"
    (boot / "crfs").mkdir(parents=True)
    (boot / "config.txt").write_text("the trial's")
    (boot / "crfs/good-config.txt").write_text("the good one")
    functions = tmp_path / "functions"
    functions.write_text(
        (SCRIPTS / "functions").read_text().replace("/crfs-boot", str(boot))
        + "boot_option() { echo 1; }\nmount_boot() { :; }\numount() { :; }\n"
        + f"modprobe() {{ :; }}\n{around}\n"
    )
    text = (SCRIPTS / "local-top").read_text()
    for word, path in {"/scripts/crfs-functions": str(functions), "/crfs-boot": str(boot)}.items():
        assert word in text
        text = text.replace(word, path)
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return boot / "config.txt"


def test_the_good_one_is_put_back(tmp_path: Path) -> None:
    assert one_shot(tmp_path).read_text() == "the good one"


def test_a_copy_that_fails_replaces_nothing(tmp_path: Path) -> None:
    """With an empty config.txt the firmware would boot what cmdline.txt names: the plain root."""
    around = 'cp() { echo part >"$2"; return 1; }'
    assert one_shot(tmp_path, around).read_text() == "the trial's"


def test_a_name_in_capitals_is_found_in_its_folder(tmp_path: Path) -> None:
    """As vfat shows it; 63 empty files would be left behind."""
    around = 'find() { command find "$@" | sort | sed "s/config.txt$/CONFIG.TXT/"; }'
    config = one_shot(tmp_path, around)
    assert config.read_text() == "the good one"
    assert len(list(config.parent.iterdir())) < 10


def test_only_the_boot_partition_is_checked_in_a_boot_from_the_stick(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    fstab = tmp_path / "etc/fstab"
    fstab.write_text(
        "# <file system> <mount point> 2\n"
        "proc /proc proc defaults 0 0\n"
        "PARTUUID=c0ffee01-01  /boot/firmware  vfat  defaults  0       2\n"
        "PARTUUID=c0ffee01-02  /               ext4  defaults,noatime  0       1\n"
        "LABEL=DATA\t/data\text4\tdefaults,nofail\t0\t2\n"
        "LABEL=BOOT2 /boot2 ext4 commit=60 0 2 \n"
        "LABEL=SHORT /short ext4 commit=60\n"
    )
    (tmp_path / "functions").write_text(
        "boot_option() { echo stage; }\nmodprobe() { :; }\nmkdir() { :; }\nmount() { :; }\n"
    )
    text = (SCRIPTS / "local-bottom").read_text()
    text = text.replace("/scripts/crfs-functions", str(tmp_path / "functions"))
    subprocess.run(["/bin/sh", "-ec", text], env={"rootmnt": str(tmp_path)}, check=True)
    assert fstab.read_text() == (
        "# <file system> <mount point> 2\n"
        "proc /proc proc defaults 0 0\n"
        "PARTUUID=c0ffee01-01  /boot/firmware  vfat  defaults  0       2\n"
        "LABEL=DATA\t/data\text4\tdefaults,nofail\t0\t0\n"
        "LABEL=BOOT2 /boot2 ext4 commit=60 0 0\n"
        "LABEL=SHORT /short ext4 commit=60\n"
    )


def test_no_initramfs_is_made_while_the_root_is_being_restored(tmp_path: Path) -> None:
    """Its kernel's modules would be in memory only."""
    cmdline = tmp_path / "cmdline"
    cmdline.write_text("root=/dev/mapper/cryptstage crfs.boot=stage panic=10\n")
    text = (SCRIPTS / "hook").read_text().replace("/proc/cmdline", str(cmdline))
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True)
    assert done.returncode == 1
    assert "when it is done" in done.stderr
