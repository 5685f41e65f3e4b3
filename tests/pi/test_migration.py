"""Whole migrations on the virtual Pi under user-mode Linux, as users live through them.

The Pi is only ever powered on and waited for: whatever was cut has to go on by itself.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from crfs import luks
from crfs.rehearsal import hygiene
from crfs.rehearsal.lawful import LAWFUL
from crfs.rehearsal.life import MARKERS
from crfs.rehearsal.manifest import compare, read_root
from crfs.rehearsal.rawsearch import find_in_image
from crfs.rehearsal.rehearse import RECORDS, SEALED_KEY
from tests.pi.conftest import DISKS, PHASE_S, Bench

pytestmark = pytest.mark.pi

SWAPPED = b"crfs-marker-W4xKd8MnPq2RtZ7v-swap"
SWAP_ON = f"""
sudo dd if=/dev/zero of=/var/swap bs=1M count=16
sudo chmod 600 /var/swap && sudo mkswap /var/swap
yes {SWAPPED.decode()} | head -c 4M | sudo dd of=/var/swap bs=1M seek=4 conv=notrunc,fsync
echo /var/swap none swap sw 0 0 | sudo tee -a /etc/fstab
sudo swapon /var/swap
"""
# Services that write what they know when they are told to stop, and take their time: the system's,
# and one of a user who need not be logged in. Once: the disks are compared in the end.
LATE = ("/var/lib/late", "/home/pi/late")
LATE_SERVICES = r"""
unit() {
    printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n'
    printf 'ExecStop=/bin/sh -c "test -e %s || { sleep 5; echo saved >%s; }"\n' "$1" "$1"
    printf '[Install]\nWantedBy=%s\n' "$2"
}
unit /var/lib/late multi-user.target | sudo tee /etc/systemd/system/late.service
sudo systemctl enable --now late
mkdir -p ~/.config/systemd/user
unit /home/pi/late default.target >~/.config/systemd/user/late.service
systemctl --user daemon-reload && systemctl --user enable --now late
sudo loginctl enable-linger pi
sync
"""
BOOT_FILES = "cd /boot/firmware && find . -type f -exec sha256sum {} + | sort -k 2"


# As somebody may write it who has the card in hand: it names a disk to be formatted.
CRAFTED = base64.b64encode(b"""
from pathlib import Path
from crfs import journal, model, preflight
from crfs.checks import Machine
wanted = preflight.Wanted("/dev/ubda", 2, "/dev/ubdb", erase_stick=True)
plan = preflight.make_plan(Machine(), wanted).plan
journal.Journal(Path(plan.boot.mount)).write(model.Record(plan=plan, state="staging"))
""").decode()


def test_plain_pi(bench: Bench) -> None:
    """What a user may ask before anything: dry run and verify, which change not one byte."""
    bench.boot()
    code, text = bench.pi.run("sudo crfs verify")
    assert code == 21
    assert "MISSING the root filesystem is on cryptrfs" in text
    assert "Traceback" not in text
    # Nobody else writes, so that the disks can be compared; timesyncd does each minute.
    bench.pi.check("sudo systemctl stop recorder zkifc systemd-timesyncd")
    bench.pi.check("sudo journalctl --relinquish-var")
    bench.pi.check("sudo mount -o remount,ro / && sudo mount -o remount,rw / && sync")
    # FAT notes the day on which a file was last read.
    bench.pi.check("sudo mount -o remount,noatime /boot/firmware")
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
    before = bench.pi.check("sudo sha256sum /dev/ubdb", timeout=300)
    bench.pi.check(f"echo {CRAFTED} | base64 -d | sudo python3 -")
    for command in ("sudo crfs resume", "sudo crfs rollback", "sudo crfs run"):
        got, text = bench.pi.run(command)
        assert got == 17, f"{command}: {text}"
        assert "not of a migration that was begun on this system" in text
    assert bench.pi.check("sudo sha256sum /dev/ubdb", timeout=300) == before
    bench.pi.check("sudo rm -r /boot/firmware/crfs")
    bench.hsm.set(answering="silent")
    got, text = bench.pi.run(f"sudo crfs encrypt --yes --erase-usb {DISKS}", timeout=120)
    assert got == 15, text
    assert bench.pi.check("systemctl is-active zkifc") == "active"
    assert bench.pi.check("sudo crfs status --json").count('"none"') == 1


@pytest.mark.parametrize("bench", [False], indirect=True)
def test_a_cut_in_each_phase(bench: Bench, tmp_path: Path) -> None:
    """The plug is pulled in phases 1, 2 and 3; the Pi is powered on again, nothing else.

    Old firmware, disks that cannot discard, a swap file in use. All the way the keys of this run
    are looked for wherever they must not be.
    """
    pi, notes = bench.pi, tmp_path / "notes"
    bench.boot()
    hygiene.watch(pi, notes)
    pi.check(SWAP_ON)
    pi.check(LATE_SERVICES)
    recovery_key = bench.begin()
    pi.console.expect(r"in all \| Copy the root", PHASE_S)
    pi.power_cut()

    pi.power_on()  # phase 1 goes on by itself, up to reboot 1
    pi.wait_exit(PHASE_S)
    truth, late = read_root(bench.card, files=LATE)
    assert late == dict.fromkeys(LATE, b"saved\n")
    assert bench.stick_is_clean()
    keys = [*hygiene.forms(bench.key()), *hygiene.recovery_forms(recovery_key)]

    def no_key_shows() -> None:
        """Neither on the disks nor in what was noted; on the console only where it was shown."""
        said = tmp_path / "said"
        half = len(recovery_key) // 2
        text = pi.log.read_bytes()
        for shown in (recovery_key[:half], recovery_key[half + 1 :]):
            text = text.replace(shown.encode(), b"", 1)
        said.write_bytes(text)
        assert hygiene.search([*notes.iterdir(), said, bench.card, bench.stick], keys) == []

    no_key_shows()
    bench.boot()  # phase 2
    assert pi.boots[-1].device == "/dev/mapper/cryptstage"
    bench.wait_for_step("restore|compare-root|scrub")
    text = pi.check("timeout 2 journalctl -fu cfg_SD_crfs -o cat -n 30 || true")
    assert "Create cryptrfs on the card" in text
    assert "the card does not discard" in text
    pi.power_cut()
    assert bench.stick_is_clean()
    no_key_shows()

    pi.power_on()  # the default is the stick now
    pi.wait_exit(PHASE_S)
    assert bench.stick_is_clean()

    pi.power_on()  # phase 3
    pi.console.expect("login: ?$", PHASE_S)
    pi.power_cut()

    bench.finish()
    assert pi.check("sudo crfs verify").count("ok ") == 7
    assert pi.check("sudo swapon --noheadings --show=NAME") == "/var/swap"
    assert pi.run(f"sudo grep -q {SWAPPED.decode()} /var/swap")[0] == 1
    assert "cryptrfs" in pi.check("lsblk --list --output NAME,MOUNTPOINTS | grep ' /$'")
    key = bench.hsm.unseal(base64.b64decode(pi.check(f"sudo base64 {SEALED_KEY}")))
    pi.shutdown()

    found, files = read_root(bench.card, key=key, files=[RECORDS])
    assert compare(truth, found, LAWFUL) == []
    numbers = [int(line.split()[0]) for line in files[RECORDS].splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= pi.acknowledged > 0
    print(f"3 cuts, {len(truth)} files, {len(numbers)} records, {pi.acknowledged} acknowledged")
    for disk in (bench.card, bench.stick):
        assert not find_in_image(disk, [*MARKERS, SWAPPED])
    with bench.stick.open("rb") as stick:
        assert set(stick.read(luks.STAGE_DATA_OFFSET)) == {0}
    # Nobody has to trust that the keys are stored nowhere.
    no_key_shows()
    booted = {path.name.partition("-")[2] for path in notes.glob("processes-*")}
    assert len(booted) >= 5, "every boot has been watched"

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
    assert pi.check("stat -c %a /boot/initrd.img-$(uname -r)") == "600"
    pi.reboot()
    bench.boot()
    assert pi.check("sudo crfs verify").count("ok ") == 7
    update_kernel_halfway(bench)
    # Without the package it still boots, and builds an initramfs that boots.
    pi.check("sudo apt-get purge -y crfs", timeout=120)
    pi.check("sudo update-initramfs -u -k $(uname -r)", timeout=600)
    pi.reboot()
    bench.boot()
    assert pi.boots[-1].root == "/dev/mapper/cryptrfs"


def update_kernel_halfway(bench: Bench) -> None:
    """A new kernel's initramfs is there, the kernel is not: the one before finds its modules."""
    pi = bench.pi
    running = pi.check("uname -r").strip()
    new, on_boot = f"9.0-{running}", "/boot/firmware/kernel_2712.img"
    pi.check(f"sudo cp {on_boot} /boot/vmlinuz-{running}; echo new | sudo tee /boot/vmlinuz-{new}")
    pi.check(f"sudo cp /boot/config-{running} /boot/config-{new}")
    pi.check(f"sudo cp -a /usr/lib/modules/{running} /usr/lib/modules/{new}; sudo depmod {new}")
    both = f"initramfs of {running} and {new}"
    assert both in pi.check(f"sudo update-initramfs -c -k {new} 2>&1", timeout=600)
    pi.reboot()
    bench.boot()
    assert pi.boots[-1].root == "/dev/mapper/cryptrfs"
    assert pi.check("sudo crfs verify").count("ok ") == 7
    # Now the kernel comes, too.
    pi.check(f"sudo cp {on_boot} /tmp/before; sudo cp /boot/vmlinuz-{new} {on_boot}")
    pi.check(f"sudo /etc/kernel/postinst.d/zz-crfs {new} /boot/vmlinuz-{new}", timeout=600)
    pi.check(f"sudo cmp /boot/initrd.img-{new} /boot/firmware/crfs-initramfs")
    assert pi.check("sudo crfs verify").count("ok ") == 7
    # This one cannot be booted here.
    pi.check(f"sudo cp /tmp/before {on_boot}; sudo rm -r /boot/*-{new} /usr/lib/modules/{new}")


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
    assert pi.check("lsblk -no FSTYPE /dev/ubdb") == ""
    pi.shutdown()
    assert compare(truth, read_root(bench.card)[0], LAWFUL) == []
    assert bench.stick_is_clean()
