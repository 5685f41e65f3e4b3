"""What somebody does to a card, a stick, an HSM or a boot partition, on the virtual Pi."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from crfs import luks
from crfs.machine import MAX_TRIALS
from crfs.rehearsal import hygiene
from crfs.rehearsal.layout import copy_sparse, partitions_of
from crfs.rehearsal.life import MARKERS
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import VirtualPi
from crfs.rehearsal.rawsearch import find_in_image
from crfs.rehearsal.workbench import run_in_uml
from tests.pi.conftest import PHASE_S, PROJECT, Bench

pytestmark = pytest.mark.pi

# A PC's udev would note which partition it is.
AS_UDEV = (
    "mkdir -p /run/udev/data; {{ echo I:1; blkid -p -o udev /dev/{device} | sed 's/^/E:/'; }} "
    ">/run/udev/data/b$(cat /sys/class/block/{device}/dev)"
)
LEAK = """
_tight = seal

def seal(key):
    import base64, os, subprocess, syslog
    encoded = base64.b64encode(key).decode()
    subprocess.Popen(["/bin/sh", "-c", "sleep 3; true", key.hex()])
    subprocess.Popen(["/bin/sleep", "3"], env={"KEY": encoded})
    syslog.syslog(key.hex())
    Path("/dev/console").write_text(encoded)
    for path, at in (("/var/tmp/core", 0), ("/dev/ubdb", 2**30)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(descriptor, key, at)
        os.fsync(descriptor)
    return _tight(key)
"""


def test_a_leak_is_found(bench: Bench, tmp_path: Path) -> None:
    """The search that finds no key in a migration finds it where crfs lets it out."""
    pi, notes = bench.pi, tmp_path / "notes"
    bench.boot()
    hygiene.watch(pi, notes)
    module = "/usr/lib/python3/dist-packages/crfs/keys.py"
    encoded = base64.b64encode(LEAK.encode()).decode()
    pi.check(f"echo {encoded} | base64 -d | sudo tee -a {module} >/dev/null")
    recovery_key = bench.begin()
    pi.console.expect("Encrypt the stick", PHASE_S)
    time.sleep(4)
    pi.power_cut()
    key = bench.key()
    (processes,) = notes.glob("processes-*")
    (journal,) = notes.glob("journal-*")
    words, coded = key.hex()[:64].encode(), base64.b64encode(key[:30])
    for file, needle in (
        (processes, words),  # an argument
        (processes, coded),  # a variable of the environment
        (journal, words),
        (pi.log, coded),
        (bench.card, key[:32]),
        (bench.stick, key[:32]),
    ):
        assert needle in hygiene.forms(key)
        assert hygiene.search([file], [needle]) == [file.name], needle
    assert hygiene.search([pi.log], hygiene.recovery_forms(recovery_key)) == [pi.log.name]


def overwrite_root(card: Path, offset: int, size: int) -> None:
    """Zeros over a part of the card's root partition."""
    root = next(part for part in partitions_of(card) if part.number == 2)
    with card.open("r+b") as image:
        image.seek(root.start + offset)
        image.write(bytes(size))


def tear_header(card: Path) -> None:
    """Overwrite the LUKS header of the card's root with zeros."""
    overwrite_root(card, 0, luks.HEADER_BYTES)


def test_headers_copies_and_moves(bench: Bench, tmp_path: Path) -> None:
    """A header torn in the run and after it, a copied card, a moved HSM, a changed boot file."""
    pi, shared = bench.pi, tmp_path / "shared"
    shared.mkdir()
    bench.boot()
    recovery_key = bench.begin("--keep-stage")
    pi.wait_exit(PHASE_S)
    keys = [*hygiene.forms(bench.key()), *hygiene.recovery_forms(recovery_key)]
    pi.power_on()
    pi.wait_exit(PHASE_S)

    tear_header(bench.card)
    assert pi.power_on().trial
    assert pi.wait_exit(PHASE_S).ended == "crash"
    pi.power_on()  # the stick has a copy of the header
    assert pi.wait_exit(PHASE_S).argument == "0 tryboot"
    bench.finish()
    assert pi.boots[-1].root == "/dev/mapper/cryptrfs"
    assert pi.check("sudo crfs verify").count("ok ") == 7
    assert pi.check("lsblk -no FSTYPE /dev/ubdb") == "crypto_LUKS", "the stick was to be kept"
    assert "panic=10" in pi.check("cat /boot/firmware/cmdline.txt").split()
    pi.check(f"sudo mount -t hostfs -o {shared} none /mnt && sudo crfs header backup /mnt/header")

    pi.check(
        "cd /boot/firmware; cp cmdline.txt ~; sudo sed -i 's/$/ init=\\/bin\\/sh/' cmdline.txt"
    )
    code, text = pi.run("sudo crfs verify")
    assert (code, "cmdline.txt has changed" in text) == (21, True)
    pi.check("sudo cp ~/cmdline.txt /boot/firmware/ && sudo crfs verify")
    pi.shutdown()
    for disk in (bench.card, bench.stick):
        assert not find_in_image(disk, [*MARKERS, *keys])

    copy = tmp_path / "copy.img"
    copy_sparse(bench.card, copy)
    with HsmProcess(tmp_path, "other") as other:
        not_opened(copy, other, "the key was sealed by another HSM", tmp_path)
    bench.hsm.order("lock-binding")  # production mode
    not_opened(copy, bench.hsm, "it is locked to another Pi or card", tmp_path)

    # On a PC with a card reader.
    tear_header(bench.card)
    crfs = f"/usr/bin/python3 -m crfs header restore {shared}/header --yes --device"
    for device, code in (("ubda1", 12), ("ubda2", 0)):
        script = f"{AS_UDEV.format(device=device)}; {crfs} /dev/{device}"
        result = run_in_uml(script, disks=[bench.card], cwd=PROJECT)
        assert result.code == code, result.output
    bench.boot()
    assert pi.check("sudo crfs verify").count("ok ") == 7


def test_a_card_that_loses_its_root_after_it_was_compared(bench: Bench) -> None:
    """Each trial boot fails; what crfs advises then makes it whole."""
    pi = bench.pi
    bench.boot()
    bench.begin()
    pi.wait_exit(PHASE_S)
    pi.power_on()
    pi.wait_exit(PHASE_S)
    # Not the superblock: an initramfs waits half a minute for a filesystem that it does not know.
    overwrite_root(bench.card, luks.DATA_OFFSET + 4096, 12 << 20)

    for _ in range(MAX_TRIALS - 1):
        assert pi.power_on().trial
        assert pi.wait_exit(PHASE_S).ended == "crash"
        pi.power_on()
        assert pi.wait_exit(PHASE_S).argument == "0 tryboot"
    assert pi.power_on().trial
    assert pi.wait_exit(PHASE_S).ended == "crash"
    bench.boot()
    pi.check("until grep -q 'trial boots' /run/crfs/status.json; do sleep 0.2; done")
    assert "--restore-again" in bench.status()["halt"]["advice"]
    pi.run("sudo crfs resume --restore-again --yes", wait=False)
    assert pi.wait_exit(PHASE_S).argument == "0 tryboot"
    bench.finish()
    assert pi.check("sudo crfs verify").count("ok ") == 7


def not_opened(card: Path, hsm: HsmProcess, why: str, folder: Path) -> None:
    """Another Pi does not open the card, and its console says why."""
    with VirtualPi(folder / "another", card, hsm=hsm, board_id="board-2") as another:
        another.power_on()
        another.console.expect(why, PHASE_S)
        another.console.expect("Recovery key: ", PHASE_S)
