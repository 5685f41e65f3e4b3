"""Whole migrations on the virtual Pi under user-mode Linux, as users live through them.

The Pi is only ever powered on and waited for: whatever was cut has to go on by itself.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crfs.rehearsal.image import CardOptions, compose_stick
from crfs.rehearsal.lawful import LAWFUL
from crfs.rehearsal.layout import copy_sparse
from crfs.rehearsal.life import MARKERS
from crfs.rehearsal.manifest import compare, read_root
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import ConsoleClosed, VirtualPi
from crfs.rehearsal.rawsearch import find_in_image
from crfs.rehearsal.rehearse import RECORDS, SEALED_KEY

pytestmark = pytest.mark.pi

DISKS = "--disk /dev/ubda --usb /dev/ubdb"
BOOT_FILES = "cd /boot/firmware && find . -type f -exec sha256sum {} + | sort -k 2"
PHASE_S = 900.0
# The two halves of the key, as `crfs encrypt` shows it.
RECOVERY_KEY = r"\n +((?:[b-v]{8}-){4})\n +((?:[b-v]{8}-){3}[b-v]{8})\n"


@dataclasses.dataclass
class Bench:
    """One Pi with its images."""

    pi: VirtualPi
    hsm: HsmProcess
    card: Path
    stick: Path

    def boot(self) -> None:
        self.pi.power_on()
        self.pi.login()

    def begin(self) -> None:
        """Type the command; it goes on in the background."""
        self.pi.run(f"sudo crfs encrypt --yes --erase-usb {DISKS}", wait=False)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.pi.check("sudo crfs status --json"))
        return status

    def wait_for_step(self, steps: str) -> None:
        """Until the running step, as /run/crfs/status.json tells it, is one of these (a|b)."""
        pattern = f'"step": "({steps})"'
        self.pi.check(
            f"until grep -Eq {shlex.quote(pattern)} /run/crfs/status.json; do sleep 0.2; done",
            timeout=PHASE_S,
        )

    def finish(self) -> None:
        """Power on, as often as the Pi reboots by itself, until the migration is done."""
        for _ in range(4):
            try:
                self.boot()
                self.pi.check(
                    "until test -e /var/lib/crfs/report.json -a ! -e /boot/firmware/crfs; "
                    "do sleep 1; done",
                    timeout=PHASE_S,
                )
                return
            except ConsoleClosed:
                self.pi.wait_exit()
        raise AssertionError("after 4 more boots it is still not done")

    def stick_is_clean(self) -> bool:
        return not find_in_image(self.stick, MARKERS)


@pytest.fixture
def bench(installed: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A fresh copy of that card, a used stick, an HSM. The parameter: does it have tryboot?"""
    tryboot = bool(getattr(request, "param", True))
    card, stick = tmp_path / "card.img", tmp_path / "stick.img"
    copy_sparse(installed, card)
    CardOptions(tryboot=tryboot).write_to(card)
    compose_stick(stick)
    # The module came with the card: in development mode it is bound to nothing.
    shutil.copy(installed.parent / "hsm.json", tmp_path / "hsm.json")
    with (
        HsmProcess(tmp_path) as hsm,
        VirtualPi(tmp_path, card, stick=stick, hsm=hsm, tryboot=tryboot) as pi,
    ):
        yield Bench(pi, hsm, card, stick)


def test_plain_pi(bench: Bench) -> None:
    """What a user may ask before anything: dry run and verify, which change not one byte."""
    bench.boot()
    code, text = bench.pi.run("sudo crfs verify")
    assert code == 21
    assert "MISSING the root filesystem is on cryptrfs" in text
    assert "Traceback" not in text
    # Nobody else writes, so that the disks can be compared.
    bench.pi.check("sudo systemctl stop recorder zkifc; sudo journalctl --relinquish-var")
    bench.pi.check("sudo mount -o remount,ro / && sudo mount -o remount,rw / && sync")
    summing = "sync; sudo sh -c 'sha256sum /dev/ubda /dev/ubdb'"
    before = bench.pi.check(summing, timeout=300)
    text = bench.pi.check(f"sudo crfs encrypt --dry-run --erase-usb {DISKS}", timeout=120)
    assert "nothing was changed" in text
    assert "HSM: answers" in text
    assert bench.pi.check(summing, timeout=300) == before


def test_refusals_on_a_real_system(bench: Bench) -> None:
    """Bad input where it is read from the running system itself."""
    bench.boot()
    for command, code in (
        ("crfs encrypt", 11),  # not root
        ("sudo crfs encrypt --frobnicate", 2),
        ("sudo crfs encrypt --yes", 12),  # root is not on mmcblk0p2
        (f"sudo crfs encrypt --yes {DISKS}", 13),  # the stick holds data
        ("sudo crfs encrypt --yes --disk /dev/ubda --usb /dev/ubda", 13),
        ("sudo crfs encrypt --yes --disk /dev/ubda --usb /dev/sdz", 13),
        ("sudo crfs resume", 18),
        ("sudo crfs rollback", 18),
    ):
        got, text = bench.pi.run(command)
        assert got == code, f"{command}: {text}"
        assert "Traceback" not in text
        assert "Next: " in text
    bench.hsm.set(answering="silent")
    got, text = bench.pi.run(f"sudo crfs encrypt --yes --erase-usb {DISKS}", timeout=120)
    assert got == 15, text
    assert bench.pi.check("systemctl is-active zkifc") == "active"
    assert bench.pi.check("sudo crfs status --json").count('"none"') == 1


@pytest.mark.parametrize("bench", [False], indirect=True)
def test_a_cut_in_each_phase(bench: Bench) -> None:
    """The plug is pulled in phases 1, 2 and 3; the Pi is powered on again, nothing else."""
    pi = bench.pi
    bench.boot()
    bench.begin()
    shown = pi.console.expect(RECOVERY_KEY, PHASE_S)
    recovery_key = shown[1] + shown[2]
    pi.console.expect(r"in all \| Copy the root", PHASE_S)
    pi.power_cut()

    pi.power_on()  # phase 1 goes on by itself, up to reboot 1
    pi.wait_exit(PHASE_S)
    truth = read_root(bench.card)[0]
    assert bench.stick_is_clean()

    bench.boot()  # phase 2
    assert pi.boots[-1].device == "/dev/mapper/cryptstage"
    bench.wait_for_step("restore|compare-root|scrub")
    text = pi.check("timeout 2 journalctl -fu cfg_SD_crfs -o cat -n 30 || true")
    assert "Create cryptrfs on the card" in text
    pi.power_cut()
    assert bench.stick_is_clean()

    pi.power_on()  # the default is the stick now
    pi.wait_exit(PHASE_S)
    assert bench.stick_is_clean()

    pi.power_on()  # phase 3
    pi.console.expect("login: ?$", PHASE_S)
    pi.power_cut()

    bench.finish()
    assert pi.check("sudo crfs verify").count("ok ") == 6
    assert "cryptrfs" in pi.check("lsblk --list --output NAME,MOUNTPOINTS | grep ' /$'")
    key = bench.hsm.unseal(base64.b64decode(pi.check(f"sudo base64 {SEALED_KEY}")))
    pi.shutdown()

    found, files = read_root(bench.card, key=key, files=[RECORDS])
    assert compare(truth, found, LAWFUL) == []
    numbers = [int(line.split()[0]) for line in files[RECORDS].splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= pi.acknowledged > 0
    print(f"3 cuts, {len(truth)} files, {len(numbers)} records, {pi.acknowledged} acknowledged")
    assert bench.stick_is_clean()
    assert not find_in_image(bench.card, MARKERS)
    # Nobody has to trust that the recovery key is stored nowhere.
    secrets = [one.encode() for one in (recovery_key, recovery_key.replace("-", ""))]
    assert not find_in_image(bench.card, secrets)
    assert not find_in_image(bench.stick, secrets)

    # The HSM is dead: nothing opens the root but the recovery key, typed at the console.
    bench.hsm.set(answering="silent")
    pi.power_on()
    for typed, said in (
        ("", "nothing was typed"),
        ("cccccccc", "it was not the recovery key"),
        (recovery_key.upper().replace("-", " "), "trying what was typed"),
    ):
        pi.console.expect("Recovery key: ", PHASE_S)
        pi.console.send(typed + "\n")
        pi.console.expect(said, PHASE_S)
    assert recovery_key.upper().replace("-", " ") not in pi.log.read_text(errors="replace")
    pi.login()
    assert pi.run("sudo crfs verify")[1].count("MISSING the HSM unlocked it in this boot") == 1
    bench.hsm.set(answering="ok")
    pi.shutdown()

    # The initramfs of a kernel update, and a boot with it.
    bench.boot()
    before = pi.check("sha256sum /boot/firmware/crfs-initramfs")
    pi.check("sudo update-initramfs -c -k $(uname -r)", timeout=600)
    assert pi.check("sha256sum /boot/firmware/crfs-initramfs") != before
    pi.reboot()
    bench.boot()
    assert pi.check("sudo crfs verify").count("ok ") == 6
    # Without the package it still boots, and builds an initramfs that boots.
    pi.check("sudo apt-get purge -y crfs", timeout=120)
    pi.check("sudo update-initramfs -u -k $(uname -r)", timeout=600)
    pi.reboot()
    bench.boot()
    assert pi.boots[-1].root == "/dev/mapper/cryptrfs"


def test_hsm_gone_at_boot_2_then_rollback(bench: Bench) -> None:
    """The Pi ends up on its untouched card by itself and says why; then everything goes back."""
    pi = bench.pi
    bench.boot()
    before = pi.check(BOOT_FILES)
    bench.begin()
    ended = pi.wait_exit(PHASE_S)
    assert (ended.ended, ended.argument) == ("reboot", "0 tryboot")
    truth = read_root(bench.card)[0]

    bench.hsm.set(answering="silent")
    pi.power_on()
    assert pi.boots[-1].trial
    assert pi.wait_exit(PHASE_S).ended in ("reboot", "crash")

    bench.boot()
    assert not pi.boots[-1].trial
    assert pi.boots[-1].root == "/dev/ubda2"
    pi.check("until systemctl is-failed cfg_SD_crfs; do sleep 1; done", timeout=PHASE_S)
    text = pi.check("sudo crfs status")
    assert "does not answer" in text
    assert "crfs rollback" in text
    assert pi.check("systemctl is-active recorder") == "active"

    bench.hsm.set(answering="ok")
    text = pi.check("sudo crfs rollback", timeout=PHASE_S)
    assert "as it was" in text
    assert pi.check(BOOT_FILES) == before
    assert bench.status()["state"] == "rolled_back"
    assert pi.check("systemctl is-active zkifc") == "active"
    assert "crypto_LUKS" not in pi.check("lsblk --fs /dev/ubdb")
    pi.shutdown()
    assert compare(truth, read_root(bench.card)[0], LAWFUL) == []
    assert bench.stick_is_clean()
