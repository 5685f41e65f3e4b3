"""Whatever is wrong with the machine or the command line: one clear line, the next step, a stable
exit code, and nothing is touched. The whole command runs here, on a Pi that is data.
"""

from __future__ import annotations

import copy
import dataclasses
import fcntl
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from crfs import bootconfig, consent, journal, live, model, probe
from crfs.errors import BusyError
from crfs.model import Card, Stick
from crfs.probe import Swap
from tests.unit.pi import CARD, CMDLINE, GB, FakePi, lay_out, plan, record, row, stick_row

ENCRYPT = ("encrypt", "--yes")


def tear(path: Path) -> None:
    """As a power cut leaves a slot: the first sector new, the rest old."""
    content = path.read_bytes()
    path.write_bytes(content[:512] + bytes(len(content) - 512))


# --- that nothing is wrong with the healthy one


def test_healthy_pi_begins(any_pi: FakePi) -> None:
    result = any_pi.crfs(*ENCRYPT)
    assert result.code == 0, result
    begun = any_pi.journal.read()
    assert begun is not None
    assert begun.state == "staging"
    assert begun.plan.boot.mount == str(any_pi.boot)
    assert begun.plan.card == CARD
    assert ["systemctl", "start", "cfg_SD_crfs.service"] in any_pi.effects


def test_dry_run_changes_nothing(any_pi: FakePi) -> None:
    before = list(any_pi.boot.rglob("*"))
    result = any_pi.crfs("encrypt", "--dry-run")
    assert result.code == 0, result
    assert "nothing was changed" in result.out
    assert not any_pi.effects
    assert list(any_pi.boot.rglob("*")) == before


def test_plan_says_what_the_user_gets(pi: FakePi) -> None:
    lines = pi.crfs("encrypt", "--dry-run").out.split("\n")
    (got,) = [line for line in lines if line.startswith("Protected: ")]
    assert "without this HSM or the recovery key" in got
    assert lines[lines.index(got) + 1].startswith("Not protected: ")
    assert "recovery key" not in pi.crfs("encrypt", "--dry-run", "--no-recovery-key").out.replace(
        "Recovery key: none", ""
    )


def test_options_get_into_the_plan(pi: FakePi) -> None:
    result = pi.crfs(*ENCRYPT, "--keep-stage", "--keep-shell")
    assert result.code == 0
    assert "the stick keeps its keys" in result.out
    begun = pi.journal.read()
    assert begun is not None
    assert begun.plan.keep_stage
    assert begun.plan.keep_shell
    assert consent.given(begun.plan)


def test_plan_names_what_is_erased(pi: FakePi) -> None:
    pi.rows[1]["children"] = [row("/dev/sda1", "part", GB, fstype="exfat", label="PHOTOS")]
    result = pi.crfs("encrypt", "--dry-run", "--erase-usb")
    assert result.code == 0, result
    for words in ("Ultra", "64.0 GB", "USB123", "exfat 'PHOTOS'", "cryptrfs", "two automatic"):
        assert words in result.out


# --- the caller and the command line


@pytest.mark.parametrize("command", ["encrypt", "resume", "rollback", "verify"])
def test_not_root(pi: FakePi, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = pi.refuses([command], 11, "root")
    assert f"sudo crfs {command}" in result.err


@pytest.mark.parametrize(
    "argv",
    [
        ["encrypt", "--frobnicate"],
        ["--frobnicate"],
        ["frobnicate"],
        [],
        ["encrypt", "--root-part", "two"],
        ["encrypt", "--usb"],
        ["encrypt", "--dry"],
        ["encrypt", "extra"],
    ],
)
def test_unknown_option(pi: FakePi, argv: list[str]) -> None:
    pi.refuses(argv, 2)


def test_answering_no(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    pi.refuses(["encrypt"], 23, "yes")


def test_end_of_input_is_a_no(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", end)
    pi.refuses(["encrypt"], 23)


def test_no_terminal_to_ask_on(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    pi.refuses(["encrypt"], 23, "terminal")


# --- swap and images of the memory


@pytest.mark.parametrize("path", ["/dev/mmcblk0p3", "/media/usb/my swap", "/a\nb"])
def test_swap_in_the_clear_is_in_use(pi: FakePi, path: str) -> None:
    pi.swaps = [Swap("/var/swap", on_root=True), Swap(path, on_root=False)]
    shown = path.replace("\n", "?")
    result = pi.refuses(ENCRYPT, 12, shown, "in the clear")
    assert f"swapoff {shown}" in result.err


@pytest.mark.parametrize("kind", ["swap", "swsuspend"])
def test_swap_partition_on_the_card_that_nobody_uses(pi: FakePi, kind: str) -> None:
    pi.rows[0]["children"].append(row("/dev/mmcblk0p3", "part", GB, fstype=kind))
    pi.refuses(ENCRYPT, 12, "/dev/mmcblk0p3", "in the clear")


def test_resuming_from_an_image_of_the_memory(pi: FakePi) -> None:
    pi.cmdline += " resume=UUID=abc resume_offset=4"
    pi.refuses(ENCRYPT, 12, "UUID=abc", "image of the memory")


def test_swap_file_on_the_root_is_made_anew(pi: FakePi) -> None:
    pi.swaps = [Swap("/var/swap", on_root=True)]
    assert pi.crfs(*ENCRYPT).code == 0
    begun = pi.journal.read()
    assert begun is not None
    assert begun.plan.swap_files == ("/var/swap",)


# --- the boot partition, as the boots after this one will have it


@pytest.mark.parametrize("option", ["ro", "noauto", "x-systemd.automount"])
def test_boot_partition_that_no_boot_could_go_on_with(pi: FakePi, option: str) -> None:
    table(pi, "fstab", f"PARTUUID=cafe0001-01 {pi.boot} vfat defaults,{option} 0 2")
    for argv in (ENCRYPT, ["encrypt", "--dry-run"]):
        result = pi.refuses(argv, 12, "boot partition", f"'{option}'")
        assert "raspi-config" in result.err


# --- the stick


def test_no_stick(pi: FakePi) -> None:
    del pi.rows[1]
    pi.refuses(ENCRYPT, 13, "no USB stick", "/dev/sda")


def test_named_stick_is_not_there(pi: FakePi) -> None:
    result = pi.refuses([*ENCRYPT, "--usb", "/dev/sdx"], 13, "/dev/sdx", "/dev/sda")
    assert "--usb /dev/sda" in result.err


def test_stick_has_another_name_than_the_default(pi: FakePi) -> None:
    pi.rows[1] = stick_row("/dev/sdb")
    result = pi.refuses(ENCRYPT, 13, "/dev/sdb")
    assert "--usb /dev/sdb" in result.err
    assert pi.crfs(*ENCRYPT, "--usb", "/dev/sdb").code == 0


def test_default_name_is_not_believed(pi: FakePi) -> None:
    """/dev/sda may be a built-in disk, which nobody wants to lose by a default."""
    pi.rows[1] = stick_row(tran="sata", rm=False)
    pi.refuses(ENCRYPT, 13, "/dev/sda")
    assert pi.crfs(*ENCRYPT, "--usb", "/dev/sda").code == 0


@pytest.mark.parametrize("path", ["/dev/mmcblk0", "/dev/mmcblk0p2"])
def test_stick_is_the_card(pi: FakePi, path: str) -> None:
    pi.refuses([*ENCRYPT, "--usb", path], 13, path, "card")


def test_stick_is_a_partition(pi: FakePi) -> None:
    pi.rows[1]["children"] = [row("/dev/sda1", "part", GB)]
    pi.refuses([*ENCRYPT, "--usb", "/dev/sda1"], 13, "/dev/sda1")


def test_stick_too_small(pi: FakePi) -> None:
    pi.rows[1]["size"] = 4 * GB
    pi.refuses(ENCRYPT, 13, "too small", "4.0 GB")


def test_smaller_than_twice_the_card_is_only_a_warning(pi: FakePi) -> None:
    pi.rows[1]["size"] = 40 * GB
    result = pi.crfs("encrypt", "--dry-run")
    assert result.code == 0
    assert "Warning: The stick (40.0 GB) is smaller than twice the card" in result.out


def test_its_own_work_is_nothing_to_warn_of(pi: FakePi) -> None:
    assert "at work" not in pi.crfs("encrypt", "--yes").out


@pytest.mark.parametrize("mount", ["/mnt/backup", "/", "/home"])
def test_stick_is_mounted(pi: FakePi, mount: str) -> None:
    part = row("/dev/sda1", "part", GB, fstype="ext4", mountpoints=[mount])
    pi.rows[1]["children"] = [part]
    pi.refuses([*ENCRYPT, "--erase-usb"], 13, "/dev/sda1", mount)


def test_stick_is_read_only(pi: FakePi) -> None:
    pi.rows[1]["ro"] = True
    pi.refuses(ENCRYPT, 13, "read-only")


def test_stick_is_open(pi: FakePi) -> None:
    pi.rows[1]["children"] = [row("/dev/mapper/secret", "crypt", GB)]
    pi.refuses([*ENCRYPT, "--erase-usb"], 13, "/dev/mapper/secret")


# A stick as it may have been in use for years, and every way to name it.
USED_STICK = {
    "ptuuid": "0badcafe",
    "children": [
        row(
            "/dev/sda1",
            "part",
            GB,
            fstype="ext4",
            uuid="0123abcd-0000-4000-8000-00000000000a",
            label="My Backup",
            partuuid="0badcafe-01",
            partlabel="backup part",
        )
    ],
}
NAMES = [
    "/dev/sda1",
    "/dev/sda7",
    "UUID=0123abcd-0000-4000-8000-00000000000a",
    "UUID=0123ABCD-0000-4000-8000-00000000000A",
    'UUID="0123abcd-0000-4000-8000-00000000000a"',
    r"LABEL=My\040Backup",
    "PARTUUID=0badcafe-01",
    r"PARTLABEL=backup\040part",
    "/dev/disk/by-uuid/0123abcd-0000-4000-8000-00000000000a",
    r"/dev/disk/by-label/My\x20Backup",
    "/dev/disk/by-partuuid/0badcafe-01",
    r"/dev/disk/by-partlabel/backup\x20part",
    "/dev/disk/by-id/usb-Ultra-part1",
]


def table(pi: FakePi, name: str, *lines: str) -> None:
    """Write fstab or crypttab, with links as udev makes them."""
    by_id = pi.folder / "dev/disk/by-id"
    by_id.mkdir(parents=True, exist_ok=True)
    for link, device in (("usb-Ultra-part1", "sda1"), ("mmc-SD32G-part2", "mmcblk0p2")):
        (by_id / link).unlink(missing_ok=True)
        (by_id / link).symlink_to(f"../../{device}")
    first = "proc /proc proc defaults 0 0"
    lay_out(pi.folder, {f"etc/{name}": "\n".join([first, *lines, ""]).encode()})


@pytest.mark.parametrize("device", NAMES)
@pytest.mark.parametrize("options", ["defaults", "rw,noatime 0 2", "", "errors=remount-ro\t0\t2"])
def test_fstab_waits_for_the_stick(pi: FakePi, device: str, options: str) -> None:
    """Erased, it would have every boot end in emergency mode."""
    pi.rows[1].update(USED_STICK)
    table(pi, "fstab", f"{device}\t /mnt/backup  ext4 {options}")
    for argv in ([*ENCRYPT, "--erase-usb"], ["encrypt", "--dry-run", "--erase-usb"]):
        result = pi.refuses(argv, 13, "/etc/fstab", "/mnt/backup", "emergency")
        assert "nofail" in result.err.split("Next: ")[1]


@pytest.mark.parametrize("device", NAMES)
@pytest.mark.parametrize(
    "options", ["nofail", "defaults,noauto 0 0", "rw,nofail,x-systemd.device-timeout=5"]
)
def test_fstab_does_without_the_stick(pi: FakePi, device: str, options: str) -> None:
    pi.rows[1].update(USED_STICK)
    table(pi, "fstab", f"{device} /mnt/backup ext4 {options}")
    assert pi.crfs(*ENCRYPT, "--erase-usb").code == 0


@pytest.mark.parametrize(
    "line",
    [
        "#/dev/sda1 /mnt/backup ext4 defaults",
        "  # UUID=0123abcd-0000-4000-8000-00000000000a /mnt ext4 defaults",
        "/dev/sdb1 /mnt/backup ext4 defaults",
        "/dev/sdaa1 /mnt/backup ext4 defaults",
        "LABEL= /mnt/backup ext4 defaults",
        "PARTUUID=cafe0001-02 / ext4 defaults,noatime 0 1",
        "/dev/disk/by-id/mmc-SD32G-part2 / ext4 defaults 0 1",
        "/dev/disk/by-id/gone /mnt/backup ext4 defaults",
        "/dev/mapper/other /mnt/backup ext4 defaults",
        "server:/dev/sda1 /mnt/backup nfs defaults",
        "/dev/sda1",
    ],
)
def test_fstab_names_something_else(pi: FakePi, line: str) -> None:
    pi.rows[1].update(USED_STICK)
    table(pi, "fstab", line)
    assert pi.crfs(*ENCRYPT, "--erase-usb").code == 0


def test_fstab_finds_it_on_the_card_too(pi: FakePi) -> None:
    """A stick that once held the same image has its labels; the boot takes the card's."""
    pi.rows[1].update(copy.deepcopy(USED_STICK))
    for part in (pi.rows[0]["children"][1], pi.rows[1]["children"][0]):
        part["label"] = "RASPIROOT"
    table(pi, "fstab", "LABEL=RASPIROOT / ext4 rw 0 1", "/dev/sda1 none swap sw 0 0")
    assert pi.crfs(*ENCRYPT, "--erase-usb").code == 0


def test_stick_is_an_image_of_the_card(pi: FakePi) -> None:
    pi.rows[1].update({**USED_STICK, "ptuuid": pi.rows[0]["ptuuid"]})
    result = pi.refuses([*ENCRYPT, "--erase-usb"], 13, "the card's disk id")
    assert "wipefs --all /dev/sda" in result.err


@pytest.mark.parametrize("device", NAMES)
def test_crypttab_waits_for_the_stick(pi: FakePi, device: str) -> None:
    pi.rows[1].update(USED_STICK)
    table(pi, "crypttab", f"vault {device} none luks")
    pi.refuses([*ENCRYPT, "--erase-usb"], 13, "/etc/crypttab", "vault")
    table(pi, "crypttab", f"vault {device} none luks,nofail")
    table(pi, "fstab", "/dev/mapper/vault /mnt/vault ext4 defaults")
    pi.refuses([*ENCRYPT, "--erase-usb"], 13, "/etc/fstab", "/mnt/vault")
    table(pi, "fstab", "/dev/mapper/vault /mnt/vault ext4 nofail")
    table(pi, "crypttab", f"vault {device} none luks,nofail", f"#old {device} none luks")
    assert pi.crfs(*ENCRYPT, "--erase-usb").code == 0


def test_two_candidates(pi: FakePi) -> None:
    pi.rows.append(stick_row("/dev/sdb", serial="USB456"))
    result = pi.refuses(ENCRYPT, 13, "2 USB disks", "USB123", "USB456")
    assert "--usb" in result.err
    assert pi.crfs(*ENCRYPT, "--usb", "/dev/sdb").code == 0


@pytest.mark.parametrize(("size", "sector"), [(64 * GB, 4096), (64 * GB + 512, 512)])
def test_sectors_divide_the_stick(pi: FakePi, size: int, sector: int) -> None:
    """LUKS refuses a device that is no multiple of its sector."""
    pi.rows[0]["children"][1]["size"] = 31 * 2**30
    pi.rows[1]["size"] = size // 4096 * 4096 + (512 if sector == 512 else 0)
    assert pi.crfs(*ENCRYPT).code == 0
    begun = pi.journal.read()
    assert begun is not None
    assert begun.plan.cipher.sector == sector


def test_an_empty_card_reader_is_no_candidate(pi: FakePi) -> None:
    pi.rows.append(stick_row("/dev/sdb", size=0))
    assert pi.crfs("encrypt", "--dry-run").code == 0


@pytest.mark.parametrize(
    "facts",
    [
        {"fstype": "vfat", "label": "HOLIDAY"},
        {"fstype": "crypto_LUKS"},
        {"ptuuid": "0badcafe"},
        {"children": [row("/dev/sda1", "part", GB, fstype="ntfs")]},
        # Mounted by a desktop's automounter: can be undone, but it holds data.
        {
            "children": [
                row("/dev/sda1", "part", GB, fstype="exfat", mountpoints=["/media/pi/HOLIDAY"])
            ]
        },
        {"children": [row("/dev/sda1", "part", GB, mountpoints=["/run/media/pi/X"])]},
    ],
    ids=["filesystem", "luks", "table", "partition", "automount", "automount-run"],
)
def test_stick_holds_data(pi: FakePi, facts: dict[str, Any]) -> None:
    """`--yes` alone does not cover it; `--erase-usb` does."""
    pi.rows[1].update(facts)
    result = pi.refuses(ENCRYPT, 13, "not blank", "/dev/sda")
    assert "--erase-usb" in result.err
    assert pi.crfs(*ENCRYPT, "--erase-usb").code == 0


# --- the card and its root


def test_root_is_not_on_the_named_partition(pi: FakePi) -> None:
    result = pi.refuses([*ENCRYPT, "--root-part", "3"], 12, "/dev/mmcblk0p2", "partition 3")
    assert "--root-part 2" in result.err


def test_root_is_not_on_the_named_disk(pi: FakePi) -> None:
    result = pi.refuses([*ENCRYPT, "--disk", "/dev/nvme0n1"], 12, "/dev/nvme0n1")
    assert "--disk /dev/mmcblk0" in result.err


def test_root_on_another_disk_is_found(pi: FakePi) -> None:
    pi.rows[0]["children"][1]["path"] = "/dev/mmcblk0p5"
    pi.root = "/dev/mmcblk0p5"
    result = pi.refuses(ENCRYPT, 12, "/dev/mmcblk0p5")
    assert "--root-part 5" in result.err
    assert pi.crfs(*ENCRYPT, "--root-part", "5").code == 0


def stacked(pi: FakePi, monkeypatch: pytest.MonkeyPatch, path: str, kind: str) -> None:
    """The root on a mapping: the kernel's name is dm-0, and /dev/mapper has links to it."""
    above = row(path, kind, 30 * GB, fstype="ext4", mountpoints=["/"])
    pi.rows[0]["children"][1].update(children=[above], mountpoints=[None])
    real = os.path.realpath
    monkeypatch.setattr(
        os.path, "realpath", lambda name: "/dev/dm-0" if name == path else real(name)
    )
    pi.root = "/dev/dm-0"


def test_root_is_encrypted_already(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked(pi, monkeypatch, "/dev/mapper/cryptrfs", "crypt")
    result = pi.refuses(ENCRYPT, 12, "encrypted already", "/dev/mapper/cryptrfs")
    assert "crfs verify" in result.err


def test_root_on_lvm(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked(pi, monkeypatch, "/dev/mapper/vg-root", "lvm")
    pi.refuses(ENCRYPT, 12, "lvm", "/dev/mapper/vg-root")


def test_root_is_an_overlay(pi: FakePi) -> None:
    pi.mounts["/"] = dataclasses.replace(pi.mounts["/"], fstype="overlay", source="overlay")
    pi.root = "overlay"
    pi.refuses(ENCRYPT, 12, "overlay")


def test_root_is_btrfs(pi: FakePi) -> None:
    pi.mounts["/"] = dataclasses.replace(pi.mounts["/"], fstype="btrfs")
    pi.refuses(ENCRYPT, 12, "btrfs", "ext4")


def test_root_is_nowhere(pi: FakePi) -> None:
    pi.root = "/dev/nfs"
    pi.refuses(ENCRYPT, 12, "/dev/nfs")


def test_root_is_too_small(pi: FakePi) -> None:
    pi.rows[0]["children"][1]["size"] = 64 * 2**20 - 512
    pi.refuses(ENCRYPT, 12, "too small", "67 MB")


def test_card_without_identity(pi: FakePi) -> None:
    pi.rows[0]["ptuuid"] = None
    pi.refuses(ENCRYPT, 12, "identity")


# --- the boot partition


def test_boot_partition_is_not_mounted(any_pi: FakePi) -> None:
    del any_pi.mounts[str(any_pi.boot)]
    any_pi.refuses(ENCRYPT, 12, "boot partition")


def test_boot_partition_without_config(any_pi: FakePi) -> None:
    (any_pi.boot / "config.txt").unlink()
    any_pi.refuses(ENCRYPT, 12, "config.txt")


def test_boot_partition_on_another_disk(any_pi: FakePi) -> None:
    mount = any_pi.mounts[str(any_pi.boot)]
    any_pi.mounts[str(any_pi.boot)] = dataclasses.replace(mount, source="/dev/sdz1")
    any_pi.refuses(ENCRYPT, 12, "/dev/sdz1")


def test_boot_partition_is_read_only(any_pi: FakePi) -> None:
    mount = any_pi.mounts[str(any_pi.boot)]
    any_pi.mounts[str(any_pi.boot)] = dataclasses.replace(mount, options=("ro", "relatime"))
    result = any_pi.refuses(ENCRYPT, 12, "read-only")
    assert "fsck.vfat -a /dev/mmcblk0p1" in result.err


def test_boot_partition_is_too_full(any_pi: FakePi) -> None:
    any_pi.boot_free = 20 * 10**6
    any_pi.refuses(ENCRYPT, 12, "20 MB free")


def test_command_line_file_is_missing(any_pi: FakePi) -> None:
    (any_pi.boot / "cmdline.txt").unlink()
    any_pi.refuses(ENCRYPT, 12, "cmdline.txt")


@pytest.mark.parametrize(("wide", "room"), [(True, 2047), (False, 1023)])
def test_command_line_is_too_long_for_the_kernel(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch, wide: bool, room: int
) -> None:
    """The firmware's own words count as well; what is cut off would be at its end."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64" if wide else "armv7l")
    of_firmware = "coherent_pool=1M vc_mem.mem_size=0x40000000 "
    journey = dataclasses.replace(plan(), kept_units=probe.kept_units())
    shortest = bootconfig.stage_cmdline(f"{CMDLINE} x=", journey, trial=True).strip()
    fits = room - len(of_firmware) - len(shortest)

    def have(length: int) -> None:
        line = f"{CMDLINE} x={'y' * length}"
        (pi.boot / "cmdline.txt").write_text(line + "\n")
        pi.cmdline = of_firmware + line

    have(fits + 7)
    pi.refuses(ENCRYPT, 12, "7 characters too long")
    have(fits)
    assert pi.crfs(*ENCRYPT).code == 0


def test_boot_files_in_a_prefix_folder(pi: FakePi) -> None:
    (pi.boot / "config.txt").write_bytes(b"os_prefix=new/\n")
    pi.refuses(ENCRYPT, 12, "os_prefix")


def test_first_boot_is_not_over(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "root=PARTUUID=cafe0001-02 init=/usr/lib/raspi-config/init_resize.sh"
    monkeypatch.setattr("crfs.probe.kernel_cmdline", lambda: line)
    pi.refuses(ENCRYPT, 12, "resize")


# --- the system and the HSM


def test_dracut(pi: FakePi) -> None:
    lay_out(pi.folder, {"usr/bin/dracut": b""})
    pi.refuses(ENCRYPT, 14, "dracut")


@pytest.mark.parametrize("name", ["rsync", "cryptsetup", "mkinitramfs"])
def test_commands_are_missing(pi: FakePi, name: str) -> None:
    pi.missing.add(name)
    result = pi.refuses(ENCRYPT, 14, name)
    assert "apt install" in result.err


def test_hook_of_cryptsetup_is_missing(pi: FakePi) -> None:
    (pi.folder / "usr/share/initramfs-tools/hooks/cryptroot").unlink()
    pi.refuses(ENCRYPT, 14, "cryptsetup-initramfs")


def test_unit_would_not_start_at_boot(pi: FakePi) -> None:
    pi.enabled.discard(model.UNIT)
    result = pi.refuses(ENCRYPT, 14, "not enabled")
    assert "systemctl enable" in result.err


@pytest.mark.parametrize("name", ["zkgrifs", "zklockifs", "zkunlockifs"])
def test_vendor_tools_are_missing(pi: FakePi, name: str) -> None:
    (pi.folder / "sbin" / name).unlink()
    pi.refuses(ENCRYPT, 14, name, "Zymbit")


def test_hsm_is_not_bound(pi: FakePi) -> None:
    shutil.rmtree(pi.folder / "var/lib/zymbit")
    pi.refuses(ENCRYPT, 14, "not bound")


def test_hsm_is_silent(pi: FakePi) -> None:
    pi.hsm_answers = False
    result = pi.refuses(ENCRYPT, 15, "HSM", "no answer on the bus")
    assert "LED" in result.err
    assert not pi.journal.exists()


def test_a_dry_run_asks_the_hsm_unless_its_daemon_holds_it(pi: FakePi) -> None:
    assert "held by zkifc, not asked" in pi.crfs("encrypt", "--dry-run").out
    # The other service of Zymbit's asks it now and then only.
    pi.active = {"zkbootrtc.service"}
    assert "HSM: answers" in pi.crfs("encrypt", "--dry-run").out


def test_hsm_is_silent_in_a_dry_run(pi: FakePi) -> None:
    pi.hsm_answers = False
    pi.active.clear()
    pi.refuses(["encrypt", "--dry-run"], 15, "HSM")


def test_two_at_their_questions(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused before its question, and undoes nothing of the first."""
    refused: list[int] = []

    def asked(question: str) -> None:
        refused.append(pi.crfs("encrypt", "--yes").code)

    monkeypatch.setattr("crfs.commands.encrypt.confirm", asked)
    assert pi.crfs("encrypt", "--no-recovery-key").code == 0
    assert refused == [BusyError.code]
    assert pi.journal.read() is not None


def test_hsm_gives_rubbish(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * count)
    pi.refuses(ENCRYPT, 15, "random")


# --- another run, and the journal


def test_second_run_at_the_same_time(pi: FakePi) -> None:
    descriptor = os.open(live.LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        pi.refuses(ENCRYPT, 16, "at work already")
        pi.stops(16, "at work already")
    finally:
        os.close(descriptor)


def test_second_run_after_the_first_began(pi: FakePi) -> None:
    pi.journal.write(record(mount=str(pi.boot)))
    result = pi.refuses(ENCRYPT, 18, "under way")
    assert "crfs resume" in result.err


def write_both_slots(pi: FakePi) -> None:
    kept = pi.journal
    kept.write(record("staging", str(pi.boot)))
    kept.write(record("settling", str(pi.boot)))


@pytest.mark.parametrize(("torn", "left"), [(0, "settling"), (1, "staging")])
def test_journal_torn_in_one_slot(pi: FakePi, torn: int, left: str) -> None:
    """The other slot is the whole state; nothing is lost but the last change."""
    write_both_slots(pi)
    tear(pi.boot / journal.FOLDER / journal.SLOTS[torn])
    found = pi.journal.read()
    assert found is not None
    assert found.state == left
    result = pi.crfs("status")
    assert result.code == 0
    assert "Phase 1" in result.out


@pytest.mark.parametrize(
    "command",
    ["status", "resume", "rollback", "encrypt"],
)
def test_journal_torn_in_both_slots(pi: FakePi, command: str) -> None:
    write_both_slots(pi)
    for name in journal.SLOTS:
        tear(pi.boot / journal.FOLDER / name)
    pi.stops(17, "journal", "damaged")
    result = pi.refuses([command], 17, "journal", "damaged")
    # `status` cannot help here: it is what has just failed.
    assert "crfs status" not in result.err


@pytest.mark.parametrize(
    "other", [{"table_id": "0badf00d"}, {"serial": "0x00000bad"}, {"size": 16 * GB}]
)
def test_journal_of_another_card(pi: FakePi, other: dict[str, Any]) -> None:
    card = Card(**{**dataclasses.asdict(CARD), **other})
    mine = record(mount=str(pi.boot))
    pi.journal.write(dataclasses.replace(mine, plan=dataclasses.replace(mine.plan, card=card)))
    pi.stops(17, "another card")
    pi.refuses(["resume"], 17, "another card")
    pi.refuses(["rollback"], 17, "another card")


def test_journal_of_another_plan(pi: FakePi) -> None:
    """Whoever holds the card can write a journal; it must not name the disk to be erased."""
    disk = row("/dev/nvme0n1", "disk", 500 * GB, serial="DATA", model="Photos", tran="nvme")
    pi.rows.append(disk)
    pi.superblocks["/dev/nvme0n1", "UUID"] = "dddddddd-0000-4000-8000-000000000009"
    mine = record(mount=str(pi.boot))
    stick = Stick("/dev/nvme0n1", "DATA", "Photos", 500 * GB)
    uuids = dataclasses.replace(mine.plan.uuids, stage_luks="dddddddd-0000-4000-8000-000000000009")
    for change in ({"stick": stick}, {"uuids": uuids}, {"recovery_key": True}):
        crafted = dataclasses.replace(mine, plan=dataclasses.replace(mine.plan, **change))
        for state in ("staging", "rolling_back"):
            pi.journal.write(dataclasses.replace(crafted, state=state, finished=("seal-key",)))
            pi.stops(17, "not of a migration that was begun on this system")
            pi.refuses(["resume"], 17, "not of a migration that was begun on this system")
            pi.refuses(["rollback"], 17, "not of a migration that was begun on this system")


def test_journal_without_anybodys_consent(pi: FakePi) -> None:
    consent.withdraw()
    pi.journal.write(record(mount=str(pi.boot)))
    pi.stops(17, "not of a migration that was begun on this system")


def test_journal_of_an_unknown_version(pi: FakePi) -> None:
    """A state of a future version, say: no traceback, nothing guessed."""
    pi.journal.write(record("levitating", str(pi.boot)))
    pi.stops(17, "levitating")
    pi.refuses(["resume"], 17, "levitating")
    pi.refuses(["rollback"], 17, "levitating")


@pytest.mark.parametrize("command", ["resume", "rollback"])
def test_nothing_to_go_on_with(pi: FakePi, command: str) -> None:
    pi.refuses([command], 18, "no migration")


def test_boot_partition_fails_while_the_journal_is_written(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, record: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("crfs.journal.Journal.write", fail)
    pi.refuses(ENCRYPT, 19, "Input/output error")
