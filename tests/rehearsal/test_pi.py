"""A whole virtual Pi: it boots, its HSM answers, the vendor's own client works, copies are seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.errors import RehearsalError
from crfs.rehearsal.image import CardOptions, compose_card, compose_stick
from crfs.rehearsal.life import MARKERS
from crfs.rehearsal.manifest import card_manifest, compare
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import VirtualPi
from crfs.rehearsal.rawsearch import find_in_image
from crfs.rehearsal.workbench import run_in_uml

CLIENT = "zku==1.0.33"
CLIENT_ON_CARD = "/home/pi/zku.whl"
ASK_EVERYTHING = """
import zymkey
hsm = zymkey.create_new_client()
assert len(hsm.get_random(32)) == 32
blob = hsm.lock(bytearray(b"secret"))
assert hsm.unlock(blob) == b"secret"
hsm.lock(bytearray(b"in a file"), "/tmp/blob")
assert hsm.unlock("/tmp/blob") == b"in a file"
hsm.led_on(); hsm.led_flash(100, 200, 3); hsm.led_off()
assert hsm.get_current_binding_info() == (False, False)
hsm.set_perimeter_event_actions(0, action_notify=True, action_self_destruct=False)
assert hsm.get_perimeter_detect_info() == [0, 0]
hsm.clear_perimeter_detect_info()
assert 2.9 < hsm.get_batt_volt() < 3.1
hsm.set_battery_voltage_action(sleep=False, self_destruct=False)
hsm.set_battery_voltage_threshold(2.4)
assert 0 < hsm.get_cpu_temp() < 100
hsm.get_rtc_drift()
assert hsm.get_time() > 1_600_000_000
assert "HSM6" in hsm.get_model_number()
assert hsm.get_firmware_version() and hsm.get_serial_number()
hsm.set_i2c_address(0x31)
slot = hsm.store_foreign_public_key("secp256r1", bytearray(range(64)))
assert hsm.get_public_key(slot, foreign=True) == bytearray(range(64))
assert hsm.get_slot_alloc_list(foreign=True) == ([slot], 512)
assert len(hsm.get_public_key(0)) == 64
hsm.lock_binding()
assert hsm.get_current_binding_info() == (True, True)
print("all asked")
"""


def vendors_client(folder: Path) -> Path:
    """The vendor's Python client, as it is published."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    done = subprocess.run([*command, CLIENT], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the vendor's client cannot be had: {done.stderr[-200:]}")
    return next(folder.glob("zku-*.whl"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pi")


@pytest.fixture(scope="module")
def pi(folder: Path) -> Iterator[VirtualPi]:
    script = folder / "ask.py"
    script.write_text(ASK_EVERYTHING)
    files = {CLIENT_ON_CARD: vendors_client(folder), "/home/pi/ask.py": script}
    compose_card(folder / "card.img", options=CardOptions(files=files))
    compose_stick(folder / "stick.img", 256 << 20)
    with (
        HsmProcess(folder) as hsm,
        VirtualPi(folder, folder / "card.img", stick=folder / "stick.img", hsm=hsm) as pi,
    ):
        pi.power_on()
        pi.login()
        yield pi


def module_of(pi: VirtualPi) -> HsmProcess:
    assert pi.hsm is not None
    return pi.hsm


@pytest.mark.pi
def test_it_looks_like_a_raspberry_pi(pi: VirtualPi) -> None:
    assert pi.check("hostname") == "raspberrypi"
    assert "ubda2" in pi.check("findmnt -no SOURCE /")
    assert pi.check("findmnt -no FSTYPE /boot/firmware") == "vfat"
    assert "auto_initramfs=1" in pi.check("cat /boot/firmware/config.txt")
    assert pi.check("systemctl --failed --no-legend --plain") == ""


@pytest.mark.pi
def test_exit_codes_and_odd_output_come_through(pi: VirtualPi) -> None:
    assert pi.run("printf 'a\\n\\nb'; exit_with() { return 7; }; exit_with") == (7, "a\n\nb")
    assert pi.run("echo '@>'; cat") == (0, "@>")
    with pytest.raises(RehearsalError, match="failed with code 1"):
        pi.check("false")


@pytest.mark.pi
def test_the_tools_need_the_device_for_themselves(pi: VirtualPi) -> None:
    code, output = pi.run("sudo zkgrifs 8")
    assert code == 1
    assert "zkifc holds it" in output
    pi.check("sudo systemctl stop zkifc")
    assert pi.check("sudo zkgrifs 512 | wc -c") == "512"
    sealed = "echo word >s && sudo zklockifs s >b && sudo zkunlockifs b"
    assert pi.check(sealed) == "word"


@pytest.mark.pi
def test_a_silent_and_a_refusing_module_are_told_apart(pi: VirtualPi) -> None:
    pi.check("sudo systemctl stop zkifc; echo word >s; sudo zklockifs s >b")
    hsm = module_of(pi)
    hsm.set(answering="silent")
    code, output = pi.run("sudo zkunlockifs b")
    hsm.set(answering="ok")
    assert (code, "HSM does not answer (-110)" in output) == (1, True)
    hsm.order("lock-binding")
    hsm.set(card="another")
    code, output = pi.run("sudo zkunlockifs b")
    hsm.set(card="card-1", production=False)
    assert (code, "bound to another host" in output) == (1, True)
    assert pi.check("sudo zkunlockifs b") == "word"


@pytest.mark.pi
def test_the_vendors_own_client_works_unchanged(pi: VirtualPi) -> None:
    output = pi.check(f"sudo PYTHONPATH={CLIENT_ON_CARD} python3 ask.py", timeout=120)
    assert output.endswith("all asked")


@pytest.mark.pi
def test_reboots_cuts_and_records(pi: VirtualPi, folder: Path) -> None:
    """Runs last: an orderly reboot tells its argument, a cut loses no acknowledged record."""
    card = folder / "card.img"
    boot = pi.reboot("0 tryboot")
    assert (boot.ended, boot.argument, boot.root) == ("reboot", "0 tryboot", "/dev/ubda2")
    with pytest.raises(RehearsalError, match=r"tryboot\.txt"):
        pi.power_on()
    before = card_manifest(card)
    pi.power_on()  # the argument counts for one boot only
    pi.login()
    pi.power_cut()
    assert pi.boots[-1].ended == "cut"
    after = card_manifest(card)
    changed = compare(before, after)
    assert not any("/srv/" in line or "/home/" in line for line in changed)
    assert pi.acknowledged > 0
    records = run_in_uml(
        'mkdir "$UML_WORK/m"; mount /dev/ubda2 "$UML_WORK/m" '
        '&& tail -n 1 "$UML_WORK/m/var/lib/recorder/records"',
        disks=[card],
        keep_writes=False,
        check=True,
    )
    assert int(records.output.split()[0]) >= pi.acknowledged
    assert set(find_in_image(card, MARKERS)) == set(MARKERS)
    assert find_in_image(folder / "stick.img", MARKERS) == {}
