"""`crfs doctor`: each check in each of its verdicts, on what real boards have in their files."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import os
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import checks, live, probe, runner, tpm2
from crfs.checks import ALL, GROUPS, Check, Machine, groups
from crfs.checks.base import Verdict
from crfs.errors import CommandError
from crfs.model import HSM6, TPM2
from crfs.probe import Mount, Swap, Usage
from tests.unit.pi import CONFIG, PI_4, FakePi, lay_out, row

OK, UNSURE, WARNING, FAILURE = (
    Verdict.OK.value,
    Verdict.CANNOT_TELL.value,
    Verdict.WARNING.value,
    Verdict.FAILURE.value,
)
Change = Callable[[FakePi], Any]

# As the kernel of Raspberry Pi OS writes them.
UNDERVOLTAGE_LOG = (
    "[    6.101512] hwmon hwmon1: Undervoltage detected!\n"
    "[    8.117530] hwmon hwmon1: Voltage normalised\n"
    "[   14.212211] hwmon hwmon1: Undervoltage detected!\n"
)
UNDERVOLTAGE_LOG_4_19 = "rpi_firmware: Under-voltage detected! (0x00050005)\n"
TIMEOUT_LOG = "i2c-bcm2835 fe804000.i2c: i2c transfer timed out\n" * 3
TIMEOUT_LOG_PI_5 = "i2c_designware 1f00074000.i2c: controller timed out\n"
CARD_LOG = "blk_update_request: I/O error, dev mmcblk0, sector 3145728 op 0x0:(READ)\n"
EXT4_LOG = "EXT4-fs error (device mmcblk0p2): ext4_lookup:1855: inode #1234: comm ls: deleted\n"
# config.txt of three releases of Raspberry Pi OS, as raspi-config leaves them.
BUSTER = b"# uncomment if you get no picture\r\n#hdmi_safe=1\r\ndtparam=i2c_arm=on\r\n"
BULLSEYE = b"dtparam=i2c_arm=off\ndtparam=audio=on\n[all]\n"
BOOKWORM = (
    b"dtparam=i2c_arm=on,i2c_arm_baudrate=50000\ndtoverlay=vc4-kms-v3d\n[cm4]\notg_mode=1\n[all]\n"
)
ZYMBIT_LIST = (
    b"deb [signed-by=/usr/share/keyrings/zymbit.gpg] "
    b"https://zk-sw-repo.s3.amazonaws.com/apt/bookworm/ stable main\n"
)
GPG = (
    "pub:{}:2048:1:3C1ABA2B33F8E0D2:1512000000:{}::-:::scESC::::::23::0:\n"
    "uid:::::::::Zymbit, Inc.:\n"
)


def config(content: bytes) -> Change:
    return lambda pi: (pi.boot / "config.txt").write_bytes(content)


def tree(name: str, content: bytes) -> Change:
    return lambda pi: lay_out(pi.folder, {name: content})


def model(name: bytes) -> Change:
    return tree("proc/device-tree/model", name)


def without(name: str) -> Change:
    return lambda pi: (pi.folder / name).unlink()


def log(text: str) -> Change:
    return lambda pi: setattr(pi, "kernel_log", text)


def hsm(**told: Any) -> Change:
    return lambda pi: pi.hsm.update(told)


def vcgencmd(bits: str) -> Change:
    def change(pi: FakePi) -> None:
        pi.missing.remove("vcgencmd")
        pi.throttled = f"throttled={bits}"

    return change


def zkifc_stopped(pi: FakePi) -> None:
    pi.active.discard("zkifc.service")


def unmounted(pi: FakePi) -> None:
    del pi.mounts[str(pi.boot)]


def both(*changes: Change) -> Change:
    return lambda pi: [change(pi) for change in changes]


def bound_to_tpm(pi: FakePi) -> None:
    Path(live.REPORT).write_text(json.dumps({"binding": TPM2}))


def with_tpm(pi: FakePi) -> None:
    bound_to_tpm(pi)
    tpm2.DEVICE.touch()


def boot_options(*options: str) -> Change:
    return lambda pi: pi.mounts.update(
        {str(pi.boot): Mount(str(pi.boot), "/dev/mmcblk0p1", "vfat", options)}
    )


def boot_line(options: str) -> Change:
    """In fstab, with the boot partition mounted read and write as it is now."""

    def change(pi: FakePi) -> None:
        line = f"PARTUUID=cafe0001-01\t{pi.boot}/  vfat {options} 0 2\n"
        lay_out(pi.folder, {"etc/fstab": line.encode()})

    return change


def root_is(fstype: str, source: str = "/dev/mmcblk0p2") -> Change:
    return lambda pi: pi.mounts.update({"/": Mount("/", source, fstype, ("rw",))})


def var_apart(pi: FakePi) -> None:
    pi.mounts["/var"] = Mount("/var", "/dev/mmcblk0p3", "ext4", ("rw",))


def not_root(pi: FakePi) -> None:
    pi.monkeypatch.setattr(os, "geteuid", lambda: 1000)


def repository(gpg: str, *, key: bool = True) -> Change:
    def change(pi: FakePi) -> None:
        lay_out(pi.folder, {"etc/apt/sources.list.d/zymbit.list": ZYMBIT_LIST})
        if key:
            lay_out(pi.folder, {"usr/share/keyrings/zymbit.gpg": b"key"})
        pi.gpg = gpg

    return change


def clock(seconds: float) -> Change:
    return lambda pi: pi.monkeypatch.setattr(time, "time", lambda: seconds)


def upgrading(pi: FakePi) -> None:
    pi.active.add("unattended-upgrades.service")


def old_lists(pi: FakePi) -> None:
    for path in (pi.folder / "var/lib/apt/lists").iterdir():
        os.utime(path, (time.time() - 90 * 86400,) * 2)


def slow_apt(pi: FakePi) -> None:
    query = runner.query

    def hang(argv: list[str], **options: Any) -> str:
        if argv[0] == "apt-get":
            raise CommandError("'apt-get' did not end within 3 s.")
        return query(argv, **options)

    pi.monkeypatch.setattr(runner, "query", hang)


def patch(module: object, name: str, value: Any) -> Change:
    return lambda pi: pi.monkeypatch.setattr(module, name, value)


def stage(pi: FakePi) -> None:
    (pi.folder / "mapper").mkdir()
    (pi.folder / "mapper/cryptstage").touch()
    pi.root = str(pi.folder / "mapper/cryptstage")
    root_is("overlay", "overlay")(pi)


def stick_mounted(pi: FakePi) -> None:
    pi.rows[1]["children"] = [row("/dev/sda1", "part", 1, mountpoints=["/media/pi/PHOTOS"])]


def swap(path: str, *, on_root: bool) -> Change:
    return lambda pi: pi.swaps.append(Swap(path, on_root))


def swap_partition(kind: str) -> Change:
    third = row("/dev/mmcblk0p3", "part", 1, fstype=kind)
    return lambda pi: pi.rows[0]["children"].append(third)


def journal(pi: FakePi) -> None:
    lay_out(pi.boot, {"crfs/journal.0": b""})


def younger_folder(pi: FakePi) -> None:
    path = pi.folder / "var/lib/zymbit/host_salt.bin"
    os.utime(path, (time.time() + 60,) * 2)


def changed_folder(pi: FakePi) -> None:
    lay_out(pi.folder, {"var/lib/zymbit/host_salt.bin": b"another"})
    younger_folder(pi)


def no_report(pi: FakePi) -> None:
    Path(live.REPORT).unlink()


def other_partition(pi: FakePi) -> None:
    pi.rows[0]["children"][1].update(partuuid="cafe0001-03")


def nothing(pi: FakePi) -> None:
    pass


PI_5 = model(b"Raspberry Pi 5 Model B Rev 1.0\0")
SUPPLY = "proc/device-tree/chosen/power/max_current"
ALARM = "sys/class/hwmon/hwmon1/in0_lcrit_alarm"
SYNCHRONISED = "run/systemd/timesync/synchronized"
JETSON = model(b"NVIDIA Jetson Nano Developer Kit\0")
ELF_32 = b"\x7fELF\x01\x01\x01" + bytes(45)

# Check, what is changed on a healthy Pi 4, what it finds then, a word that it says.
CASES: list[tuple[str, Change, str, str]] = [
    ("undervoltage-now", nothing, OK, ""),
    ("undervoltage-now", tree(ALARM, b"1\n"), FAILURE, "too low now"),
    ("undervoltage-now", without(ALARM), UNSURE, "no sensor"),
    (
        "undervoltage-now",
        both(without(ALARM), vcgencmd("0x50005")),
        FAILURE,
        "too low now",
    ),
    ("undervoltage-since-boot", nothing, OK, ""),
    ("undervoltage-since-boot", log(UNDERVOLTAGE_LOG), WARNING, "2 times"),
    ("undervoltage-since-boot", log(UNDERVOLTAGE_LOG_4_19), WARNING, "1 times"),
    ("undervoltage-since-boot", log(""), UNSURE, "log"),
    (
        "undervoltage-since-boot",
        vcgencmd("0x50000"),
        WARNING,
        "too low since",
    ),
    ("supply-current", nothing, OK, "only a Pi 5"),
    ("supply-current", both(PI_5, tree(SUPPLY, b"\0\0\x13\x88")), OK, "5000 mA"),
    ("supply-current", both(PI_5, tree(SUPPLY, b"\0\0\x0b\xb8")), WARNING, "3000 mA"),
    ("supply-current", PI_5, UNSURE, "firmware"),
    ("i2c-enabled", nothing, OK, ""),
    ("i2c-enabled", config(BUSTER), OK, ""),
    ("i2c-enabled", config(BOOKWORM), OK, ""),
    ("i2c-enabled", config(b"dtparam=i2c1\n"), OK, ""),
    ("i2c-enabled", both(config(BULLSEYE), without("dev/i2c-1")), FAILURE, "i2c_arm=off"),
    ("i2c-enabled", both(config(b"#dtparam=i2c_arm=on\n"), without("dev/i2c-1")), FAILURE, "I2C"),
    ("i2c-enabled", config(b""), OK, "/dev/i2c-1 is there"),
    ("i2c-enabled", unmounted, UNSURE, "boot partition"),
    ("i2c-device", nothing, OK, "no fault"),
    ("i2c-device", without("dev/i2c-1"), FAILURE, "/dev/i2c-1"),
    ("gpio-4", nothing, OK, ""),
    ("gpio-4", config(b"dtoverlay=w1-gpio\n"), FAILURE, "w1-gpio"),
    ("gpio-4", config(b"[all]\r\ndtoverlay=w1-gpio,gpiopin=4\r\n"), FAILURE, "gpiopin=4"),
    ("gpio-4", config(b"dtoverlay=gpio-shutdown,gpio_pin=4,active_low=1\n"), FAILURE, "shutdown"),
    ("gpio-4", config(b"dtoverlay=i2c3\n"), FAILURE, "i2c3"),
    ("gpio-4", config(b"dtoverlay=w1-gpio-pullup,extpullup=5\n"), FAILURE, "pullup"),
    ("gpio-4", config(b"dtoverlay=i2c3,pins_2_3\n"), OK, ""),
    ("gpio-4", config(b"dtoverlay=w1-gpio,gpiopin=17\n#dtoverlay=w1-gpio\n"), OK, ""),
    ("gpio-4", config(b"dtoverlay=w1-gpio\ndtparam=gpiopin=17\n"), OK, ""),
    ("gpio-4", config(b"dtoverlay=gpio-fan\ndtparam=gpiopin=4\n"), FAILURE, "gpio-fan"),
    ("gpio-4", config(b"[pi5]\ndtoverlay=w1-gpio\n[none]\ndtoverlay=w1-gpio\n"), OK, ""),
    ("gpio-4", config(b"[pi5]\n[pi4]\ndtoverlay=w1-gpio\n"), FAILURE, "w1-gpio"),
    ("gpio-4", unmounted, UNSURE, "boot partition"),
    ("wake-pin", nothing, OK, "4"),
    (
        "wake-pin",
        both(
            tree("sys/class/gpio/gpiochip512/label", b"pinctrl-bcm2711\n"),
            tree("sys/class/gpio/gpiochip512/base", b"512\n"),
        ),
        FAILURE,
        "516",
    ),
    (
        "wake-pin",
        both(
            tree("sys/class/gpio/gpiochip569/label", b"pinctrl-rp1\n"),
            tree("sys/class/gpio/gpiochip569/base", b"569\n"),
            tree("var/lib/zymbit/zkenv.conf", b"ZK_GPIO_WAKE_PIN=573\n"),
        ),
        OK,
        "573",
    ),
    ("wake-pin", patch(probe, "kernel_release", lambda: "6.6.31-v8"), UNSURE, "not known"),
    ("wake-pin", without("var/lib/zymbit/zkenv.conf"), UNSURE, "zkenv.conf"),
    ("wake-pin", tree("var/lib/zymbit/zkenv.conf", b"OTHER=1\n"), UNSURE, "no wake pin"),
    ("i2c-timeouts", nothing, OK, ""),
    ("i2c-timeouts", log(TIMEOUT_LOG), WARNING, "3 time-outs"),
    ("i2c-timeouts", log(TIMEOUT_LOG_PI_5), WARNING, "1 time-outs"),
    ("i2c-timeouts", log(""), UNSURE, "log"),
    ("i2c-conflict", nothing, OK, ""),
    ("i2c-conflict", tree("sys/bus/i2c/devices/1-0068/name", b"ds3231\n"), OK, ""),
    ("i2c-conflict", tree("sys/bus/i2c/devices/1-0062/name", b"scd40\n"), OK, "scd40 has 0x62"),
    ("i2c-conflict", tree("sys/bus/i2c/devices/1-0030/name", b"veml6030\n"), WARNING, "veml6030"),
    ("hsm-folder", nothing, OK, ""),
    ("hsm-folder", lambda pi: shutil.rmtree(pi.folder / "var/lib/zymbit"), FAILURE, "not exist"),
    ("hsm-folder", tree("var/lib/zymbit/host_salt.bin", b""), FAILURE, "host_salt.bin"),
    ("hsm-folder", tree("var/lib/zymbit/host_salt.bin", bytes(32)), FAILURE, "host_salt.bin"),
    ("hsm-folder", tree("var/lib/zymbit/zkifc.pid", b""), OK, ""),
    ("hsm-folder", without("var/lib/zymbit/host_salt.bin"), FAILURE, "nothing of the binding"),
    ("hsm-answers", nothing, OK, "HSM6"),
    ("hsm-answers", hsm(said="The HSM does not answer Zymbit's client."), FAILURE, "not answer"),
    ("hsm-answers", both(hsm(said="no"), not_root), UNSURE, "does not tell"),
    ("hsm-answers", hsm(installed=False, said="not there"), UNSURE, "client"),
    ("hsm-answers", zkifc_stopped, UNSURE, "not asked"),
    ("hsm-binding", nothing, OK, "development"),
    ("hsm-binding", hsm(locked=True, bound=True), OK, "production"),
    ("hsm-binding", hsm(locked=True, bound=False), FAILURE, "another"),
    ("hsm-binding", hsm(locked=None), UNSURE, "does not say"),
    ("hsm-seals", nothing, OK, ""),
    ("hsm-seals", hsm(seals="refused"), FAILURE, "destroyed its keys, or"),
    ("hsm-seals", hsm(seals="refused", perimeter=[7, 0]), FAILURE, "after tampering"),
    ("hsm-seals", hsm(seals="refused", locked=True), UNSURE, "bound elsewhere"),
    ("hsm-seals", zkifc_stopped, UNSURE, "not asked"),
    ("hsm-perimeter", nothing, OK, ""),
    ("hsm-perimeter", hsm(perimeter=[0, 1700000000]), WARNING, "channel 1 on 2023-11-14"),
    ("hsm-perimeter", hsm(perimeter=None), UNSURE, "does not say"),
    ("hsm-battery", nothing, OK, "3.00 V"),
    ("hsm-battery", hsm(battery=0.0), WARNING, "no battery"),
    ("hsm-battery", hsm(battery=2.4), WARNING, "low"),
    ("hsm-battery", hsm(battery=2.1), FAILURE, "empty"),
    ("hsm-battery", hsm(battery=None), UNSURE, "does not say"),
    ("hsm-temperature", nothing, OK, ""),
    ("hsm-temperature", hsm(temperature=75.0), WARNING, "75"),
    ("hsm-temperature", hsm(temperature=-25.0), WARNING, "-25"),
    ("hsm-temperature", hsm(temperature=90.0), FAILURE, "too hot"),
    ("hsm-temperature", hsm(temperature=None), UNSURE, "does not say"),
    ("board", nothing, OK, "Raspberry Pi 4"),
    ("board", model(b"Raspberry Pi Compute Module 3 Plus Rev 1.0\0"), OK, "3"),
    ("board", model(b"Raspberry Pi Zero 2 W Rev 1.0\0"), OK, "Zero 2"),
    ("board", model(b"Raspberry Pi 2 Model B Rev 1.1\0"), WARNING, "Pi 2"),
    ("board", JETSON, WARNING, "Jetson"),
    ("board", without("proc/device-tree/model"), UNSURE, "device tree"),
    ("system", nothing, OK, "bookworm"),
    ("system", tree("etc/os-release", b'ID=raspbian\nVERSION_ID="11"\n'), WARNING, "12"),
    ("system", tree("etc/os-release", b"ID=fedora\nVERSION_ID=39\n"), WARNING, "not based"),
    ("system", without("etc/os-release"), UNSURE, "os-release"),
    ("userland", nothing, OK, ""),
    ("userland", tree("bin/sh", ELF_32), FAILURE, "32-bit"),
    ("userland", tree("bin/sh", b"#!"), UNSURE, "/bin/sh"),
    ("dracut", nothing, OK, ""),
    ("dracut", tree("usr/bin/dracut", b""), FAILURE, "dracut"),
    ("commands", nothing, OK, ""),
    ("commands", lambda pi: pi.missing.add("rsync"), FAILURE, "rsync"),
    ("cryptroot", nothing, OK, ""),
    ("cryptroot", without("usr/share/initramfs-tools/hooks/cryptroot"), FAILURE, "cryptsetup"),
    ("service", nothing, OK, ""),
    ("service", lambda pi: pi.enabled.clear(), FAILURE, "not enabled"),
    ("zymbit-tools", nothing, OK, ""),
    ("zymbit-tools", without("sbin/zkgrifs"), FAILURE, "zkgrifs"),
    ("zkifc", nothing, OK, ""),
    ("zkifc", zkifc_stopped, FAILURE, "inactive"),
    ("zkifc", both(zkifc_stopped, lambda pi: pi.installed.clear()), FAILURE, "not installed"),
    ("zkifc", both(zkifc_stopped, patch(live, "is_running", lambda: True)), OK, "crfs holds"),
    ("kernel", nothing, OK, "6.1.0-rpi"),
    ("kernel", tree("lib/modules/6.10.0-rpi/modules.dep", b""), WARNING, "6.10.0-rpi"),
    ("kernel", tree("lib/modules/5.15.84-rpi/modules.dep", b""), OK, "6.1.0-rpi"),
    ("kernel", tree("run/reboot-required", b""), WARNING, "reboot"),
    ("updates", nothing, OK, ""),
    ("updates", lambda pi: setattr(pi, "pending", 12), WARNING, "12 packages"),
    ("updates", old_lists, WARNING, "90 days"),
    ("updates", slow_apt, UNSURE, "within"),
    ("updates", lambda pi: shutil.rmtree(pi.folder / "var/lib/apt/lists"), UNSURE, "no lists"),
    ("unattended-upgrades", nothing, OK, ""),
    ("unattended-upgrades", upgrading, WARNING, "may"),
    ("repository-key", nothing, OK, "not among"),
    ("repository-key", repository(GPG.format("-", "")), OK, "valid"),
    ("repository-key", repository(GPG.format("e", "1600000000")), FAILURE, "expired on 2020-09-13"),
    ("repository-key", repository("", key=False), FAILURE, "not there"),
    ("repository-key", repository(""), UNSURE, "no key of Zymbit"),
    (
        "repository-key",
        both(repository(""), lambda pi: pi.missing.add("gpg")),
        UNSURE,
        "gpg is not installed",
    ),
    ("clock", nothing, OK, "NTP"),
    ("clock", clock(1000.0), FAILURE, "1970-01-01"),
    ("clock", without(SYNCHRONISED), OK, "agrees with the HSM's"),
    ("clock", both(without(SYNCHRONISED), hsm(clock_ahead=7200)), WARNING, "7200 s behind"),
    ("clock", both(without(SYNCHRONISED), hsm(clock_ahead=None)), UNSURE, "does not tell"),
    ("governor", nothing, OK, "ondemand"),
    ("governor", log(TIMEOUT_LOG), WARNING, "ondemand"),
    (
        "governor",
        without("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        OK,
        "fixed",
    ),
    ("boot-mounted", nothing, OK, ""),
    ("boot-mounted", unmounted, FAILURE, "No boot partition"),
    ("boot-on-card", nothing, OK, ""),
    ("boot-on-card", lambda pi: pi.rows[0]["children"].pop(0), FAILURE, "not on the card"),
    ("boot-writable", nothing, OK, ""),
    ("boot-writable", boot_options("ro", "relatime"), FAILURE, "read-only"),
    ("boot-writable", boot_line("defaults"), OK, ""),
    ("boot-writable", boot_line("defaults,errors=remount-ro,rodir"), OK, ""),
    ("boot-writable", boot_line("defaults,ro"), FAILURE, "write-protects"),
    ("boot-writable", boot_line("noauto"), FAILURE, "does not mount"),
    ("boot-writable", boot_line("noatime,x-systemd.automount"), FAILURE, "too late"),
    ("boot-writable", tree("etc/fstab", b"/dev/sdb1 /mnt vfat ro 0 0\n"), OK, ""),
    ("boot-room", nothing, OK, ""),
    ("boot-room", lambda pi: setattr(pi, "boot_free", 1), FAILURE, "free"),
    ("cmdline", nothing, OK, ""),
    ("cmdline", config(b"cmdline=other.txt\n"), FAILURE, "other.txt"),
    ("os-prefix", nothing, OK, ""),
    ("os-prefix", config(b"os_prefix=new/\n"), FAILURE, "os_prefix"),
    ("resized", nothing, OK, ""),
    (
        "resized",
        patch(probe, "kernel_cmdline", lambda: "root=x init=/usr/lib/raspi-config/init_resize.sh"),
        FAILURE,
        "resize",
    ),
    ("tpm", bound_to_tpm, FAILURE, "no TPM 2.0"),
    ("tpm", with_tpm, OK, "is there"),
    ("tpm-tools", with_tpm, OK, "is installed"),
    ("tpm-tools", both(with_tpm, lambda pi: pi.missing.add("tpm2")), FAILURE, "not installed"),
    ("root-filesystem", nothing, OK, "ext4"),
    ("root-filesystem", stage, OK, "stick"),
    ("root-filesystem", root_is("overlay"), FAILURE, "overlay"),
    ("root-filesystem", root_is("btrfs"), FAILURE, "btrfs"),
    ("swap", nothing, OK, ""),
    ("swap", swap("/var/swap", on_root=True), OK, ""),
    ("swap", swap("/dev/sdb1", on_root=False), FAILURE, "/dev/sdb1"),
    ("swap", swap_partition("swap"), FAILURE, "/dev/mmcblk0p3"),
    ("swap", swap_partition("swsuspend"), FAILURE, "/dev/mmcblk0p3"),
    ("resume", nothing, OK, ""),
    ("resume", patch(probe, "kernel_cmdline", lambda: "resume=UUID=x"), FAILURE, "UUID=x"),
    ("root-whole", nothing, OK, "on the root"),
    ("root-whole", var_apart, FAILURE, "/var is a filesystem of its own"),
    ("root-space", nothing, OK, ""),
    ("root-space", patch(probe, "usage", lambda: Usage(98, 2, 1, 1)), WARNING, "98%"),
    ("disk-errors", nothing, OK, ""),
    ("disk-errors", log(CARD_LOG), WARNING, "1 errors"),
    ("disk-errors", log(CARD_LOG + EXT4_LOG), WARNING, "EXT4-fs"),
    ("disk-errors", log(""), UNSURE, "log"),
    ("automount", nothing, OK, ""),
    ("automount", stick_mounted, WARNING, "/media/pi/PHOTOS"),
    ("migration", nothing, OK, "not encrypted"),
    ("migration", journal, WARNING, "not over"),
    ("migration", patch(live, "is_running", lambda: True), WARNING, "at work"),
    ("mapping", nothing, OK, "not encrypted"),
    ("unlocked-by-hsm", nothing, OK, "not encrypted"),
    ("initramfs", nothing, OK, "nothing to compare"),
]  # fmt: skip

# The same on a Pi that crfs has encrypted.
ENCRYPTED: list[tuple[str, Change, str, str]] = [
    ("migration", nothing, OK, "is encrypted"),
    ("mapping", nothing, OK, "partition"),
    ("mapping", other_partition, FAILURE, "not on"),
    ("mapping", no_report, UNSURE, "not made by crfs"),
    ("unlocked-by-hsm", nothing, OK, "in this boot"),
    ("unlocked-by-hsm", lambda pi: pi.unlocked.clear(), FAILURE, "nothing shows"),
    ("unlocked-by-hsm", no_report, UNSURE, "not made by crfs"),
    ("initramfs", nothing, OK, "younger"),
    ("initramfs", no_report, UNSURE, "not made by crfs"),
    ("initramfs", younger_folder, OK, "in step"),
    ("initramfs", changed_folder, FAILURE, "host_salt.bin"),
    ("initramfs", both(changed_folder, not_root), UNSURE, "has changed"),
    ("initramfs", lambda pi: (pi.boot / "crfs-initramfs").unlink(), FAILURE, "does not exist"),
]


def look(pi: FakePi) -> dict[str, dict[str, Any]]:
    """What the command finds, by check."""
    result = pi.crfs("doctor", "--json")
    assert "Traceback" not in result.err + result.out
    assert not pi.effects, "a doctor only looks"
    return {one["id"]: one for one in json.loads(result.out)}


def _name(value: object) -> str:
    return str(value) if isinstance(value, str) else ""


@pytest.mark.parametrize(("check", "change", "verdict", "word"), CASES, ids=_name)
def test_each_verdict(pi: FakePi, check: str, change: Change, verdict: str, word: str) -> None:
    change(pi)
    found = look(pi)[check]
    assert (found["verdict"], word in found["said"]) == (verdict, True), found
    assert found["advice"] or verdict in (OK, UNSURE)
    assert found["source"] and found["looks_at"]


@pytest.mark.parametrize(("check", "change", "verdict", "word"), ENCRYPTED, ids=_name)
def test_each_verdict_of_an_encrypted_pi(
    encrypted: FakePi,
    check: str,
    change: Change,
    verdict: str,
    word: str,
) -> None:
    change(encrypted)
    found = look(encrypted)[check]
    assert (found["verdict"], word in found["said"]) == (verdict, True), found


def _verdicts_in(check: Check) -> set[str]:
    """The verdicts that a check's code gives."""
    function = check.look.func if isinstance(check.look, functools.partial) else check.look
    source = textwrap.dedent(inspect.getsource(function))
    called = {
        node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    words = {"ok": OK, "warning": WARNING, "failure": FAILURE, "cannot_tell": UNSURE}
    # What these return instead of an answer is that it cannot be told.
    return {words[name] for name in words.keys() & called} | (
        {UNSURE} if called & {"_told", "_telling"} else set()
    )


@pytest.mark.parametrize("check", ALL, ids=lambda check: str(check.id))
def test_every_verdict_has_a_test(check: Check) -> None:
    tested = {case[2] for case in [*CASES, *ENCRYPTED] if case[0] == check.id}
    assert tested >= _verdicts_in(check)


def test_checks_are_declared_once() -> None:
    assert len({check.id for check in ALL}) == len(ALL)
    assert list(GROUPS) == [
        "Power", "I2C", "HSM", "Zymbit's software", "TPM", "Host software", "Boot chain",
        "Storage", "Encryption",
    ]  # fmt: skip


# --- the command


def test_a_healthy_pi(pi: FakePi) -> None:
    result = pi.crfs("doctor")
    assert (result.code, result.err) == (0, "")
    assert "WARNING" not in result.out and "FAILURE" not in result.out and "?" not in result.out
    shown = [line for line in result.out.splitlines() if not line.startswith(" ")]
    assert shown == list(groups(HSM6))


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (hsm(installed=False, said="not there"), 30, "cannot tell"),
        (both(hsm(installed=False, said="x"), stick_mounted), 31, "warn: automount"),
        (both(stick_mounted, zkifc_stopped), 32, "a failure: zkifc"),
    ],
)
def test_the_worst_verdict_is_the_exit_code(
    pi: FakePi, change: Change, code: int, word: str
) -> None:
    change(pi)
    result = pi.crfs("doctor")
    assert result.code == code
    assert word in result.err
    assert "Next: " in result.err
    assert len(result.err.splitlines()) == 3


def test_it_says_what_root_would_add(pi: FakePi) -> None:
    not_root(pi)
    pi.kernel_log = ""
    pi.hsm = {"installed": True, "said": "The HSM does not answer Zymbit's client."}
    result = pi.crfs("doctor")
    assert result.code == 30
    assert "sudo crfs doctor" in result.err
    line = result.out.splitlines()[-1]
    for name in ("undervoltage-since-boot", "i2c-timeouts", "hsm-answers", "disk-errors"):
        assert name in line


def test_a_folder_that_may_not_be_read(pi: FakePi) -> None:
    not_root(pi)

    def refuse(folder: str, onerror: Callable[[OSError], None]) -> Iterator[Any]:
        onerror(PermissionError(13, "Permission denied", str(folder)))
        return iter(())

    pi.monkeypatch.setattr(os, "walk", refuse)
    found = look(pi)["hsm-folder"]
    assert (found["verdict"], found["root_would_tell"]) == (UNSURE, True)


def test_a_command_that_is_missing_or_hangs_is_no_verdict(pi: FakePi) -> None:
    tried: list[str] = []

    def fail(argv: list[str], **options: Any) -> str:
        tried.append(" ".join(argv))
        raise CommandError(f"'{argv[0]}' did not end within 10 s.", advice="")

    pi.monkeypatch.setattr(runner, "query", fail)
    for found in look(pi).values():
        assert found["verdict"] in (OK, UNSURE, FAILURE)
    assert len(tried) == len(set(tried)), "each is tried once"
    assert look(pi)["zkifc"]["verdict"] == UNSURE


# Made with gpg 2.2 in 2020's time, valid for 30 days.
EXPIRED_KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEXgvhABYJKwYBBAHaRw8BAQdAThtxfQtG1/9Tod5+Fe95/HdA0uDqgZtkP1rh
LDAU3r20C1p5bWJpdCBUZXN0iJYEExYIAD4WIQR9Jcz5Shzv4geN1XrMcAgkx6d1
qgUCXgvhAAIbAwUJACeNAAULCQgHAgYVCgkICwIEFgIDAQIeAQIXgAAKCRDMcAgk
x6d1qmLpAQCcney2ESvMvaaptfdnFFn5NQHAx1FsbsoSy3YD0uOgjQD/XenYDHdZ
HX1Nxm7C9R+xwiGaTtFrmmkHk2JBAAPhpgw=
=D6EN
-----END PGP PUBLIC KEY BLOCK-----
"""


@pytest.mark.real_commands
def test_a_real_key_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gpg") is None:
        pytest.skip("gpg is not installed")
    lay_out(
        tmp_path,
        {
            "etc/apt/sources.list.d/zymbit.list": ZYMBIT_LIST,
            "usr/share/keyrings/zymbit.gpg": EXPIRED_KEY.encode(),
        },
    )
    (check,) = (one for one in ALL if one.id == "repository-key")
    found = check.ask(Machine(tmp_path))
    assert found.verdict is Verdict.FAILURE
    assert "expired on 2020-01-31" in found.said


FILES = sorted(name for name in PI_4 if "_Packages" not in name)


@given(st.sampled_from(FILES), st.binary(max_size=200))
def test_odd_files_are_no_traceback(pi: FakePi, name: str, content: bytes) -> None:
    lay_out(pi.folder, {name: content})
    try:
        machine = Machine()
        for check in ALL:
            assert check.ask(machine).said
    finally:
        lay_out(pi.folder, {name: PI_4[name]})


@given(st.binary(max_size=400))
def test_an_odd_config_is_no_traceback(pi: FakePi, content: bytes) -> None:
    (pi.boot / "config.txt").write_bytes(CONFIG + content)
    machine = Machine()
    for check in [*GROUPS["I2C"], *GROUPS["Boot chain"]]:
        assert check.ask(machine).said


# --- what `crfs encrypt` makes of them


def test_encrypt_warns_of_what_the_doctor_finds(pi: FakePi) -> None:
    both(zkifc_stopped, tree(ALARM, b"1\n"))(pi)
    result = pi.crfs("encrypt", "--dry-run")
    assert result.code == 0
    assert "Warning: zkifc is inactive" in result.out
    assert "Warning: The supply's voltage is too low now." in result.out


@pytest.mark.parametrize("check", [one for one in ALL if one.stops], ids=lambda one: str(one.id))
def test_encrypt_refuses_what_stops(pi: FakePi, check: Check) -> None:
    assert check.stops is not None
    for name, change, verdict, _ in CASES:
        if (name, verdict) == (check.id, FAILURE):
            change(pi)
            key = TPM2 if check in GROUPS["TPM"] else HSM6
            pi.refuses(["encrypt", "--yes", "--key", key], check.stops.code)
            return
    pytest.fail("no case of a failure")


def test_what_a_card_says_does_not_reach_the_terminal_as_it_is(pi: FakePi) -> None:
    (pi.boot / "config.txt").write_bytes(b"dtoverlay=w1-gpio,x=\x1b[2J\ncmdline=\x1b]0;a\x07\n")
    result = pi.crfs("doctor")
    assert result.code == 32
    assert "\x1b" not in result.out + result.err and "\x07" not in result.out + result.err
    assert "\x1b" not in pi.crfs("encrypt", "--dry-run").err


def test_a_sentence_keeps_names() -> None:
    assert checks.sentence("zkifc is off") == "zkifc is off."
    assert checks.sentence("the battery is low") == "The battery is low."
