"""`crfs doctor` and `crfs hsm` on a virtual Pi that is broken in one way after another."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crfs.rehearsal.image import CardOptions, compose_stick
from crfs.rehearsal.layout import copy_sparse
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import VirtualPi
from tests.rehearsal.test_pi import CLIENT_ON_CARD, vendors_client

pytestmark = pytest.mark.pi

PACKAGES = "/usr/local/lib/python3.11/dist-packages"
STATE = "/var/lib/zymbit/zk_device_state.bin"
CONFIG = "/boot/firmware/config.txt"
# As the FAQ shows it, on the module that the key is to be known to elsewhere.
SAVE_KEY = "import zymkey; open('/tmp/pub_key_slot0', 'wb').write(zymkey.client.get_public_key(0))"

# From the worst verdict, the exit code of each.
CODES = {"failure": 32, "warning": 31, "cannot tell": 30}
Broken = contextlib.AbstractContextManager[object]


@pytest.fixture(scope="module")
def pi(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualPi]:
    """A healthy Pi with crfs and Zymbit's own client, which runs."""
    folder = tmp_path_factory.mktemp("doctor")
    card, stick = folder / "card.img", folder / "stick.img"
    copy_sparse(installed, card)
    CardOptions(files={CLIENT_ON_CARD: vendors_client(folder)}).write_to(card)
    compose_stick(stick, 256 << 20)
    shutil.copy(installed.parent / "hsm.json", folder / "hsm.json")
    with HsmProcess(folder) as hsm, VirtualPi(folder, card, stick=stick, hsm=hsm) as made:
        made.power_on()
        made.login()
        made.check(f"sudo python3 -m zipfile -e {CLIENT_ON_CARD} {PACKAGES}")
        made.check(f"sudo python3 -m compileall -q {PACKAGES}")
        yield made


def module_of(pi: VirtualPi) -> HsmProcess:
    assert pi.hsm is not None
    return pi.hsm


def doctor(pi: VirtualPi) -> dict[str, set[str]]:
    """What `crfs doctor` finds: the checks of each verdict but ok."""
    code, text = pi.run("sudo crfs doctor --json 2>/tmp/said")
    found: dict[str, set[str]] = {verdict: set() for verdict in CODES}
    for row in json.loads(text):
        if row["verdict"] != "ok":
            found[row["verdict"]].add(row["id"])
    assert code == next((CODES[verdict] for verdict in CODES if found[verdict]), 0)
    assert "Traceback" not in pi.check("cat /tmp/said")
    return found


@contextlib.contextmanager
def typed(pi: VirtualPi, breaks: str, mends: str) -> Iterator[None]:
    pi.check(breaks)
    yield
    pi.check(mends)


@contextlib.contextmanager
def module(pi: VirtualPi, *orders: str, **values: object) -> Iterator[None]:
    """The module as it is after these orders and settings; afterwards as before."""
    before = module_of(pi).order("get")
    for order in orders:
        module_of(pi).order(order)
    module_of(pi).set(**values)
    yield
    # A destroyed secret does not come back: another module takes the place.
    if module_of(pi).order("get")["destroyed_by"]:
        module_of(pi).order("swap")
    del before["counters"], before["serial"], before["destroyed_by"]
    module_of(pi).set(**before)


@contextlib.contextmanager
def clock_at_1970(pi: VirtualPi) -> Iterator[None]:
    pi.check("sudo date -s @1000")
    yield
    pi.check(f"sudo date -s @{time.time():.0f}")


def breakages(pi: VirtualPi) -> dict[str, tuple[Callable[[], Broken], dict[str, set[str]]]]:
    """What may break, how, and which checks are to name it."""
    mount = "sudo mkdir -p /media/pi/OLDSTICK && sudo mount /dev/ubdb1 /media/pi/OLDSTICK"
    return {
        "zkifc stopped": (
            lambda: typed(pi, "sudo systemctl stop zkifc", "sudo systemctl start zkifc"),
            {"failure": {"zkifc"}},
        ),
        "zymbit folder damaged": (
            lambda: typed(
                pi,
                f"sudo cp -p {STATE} /tmp/kept && sudo truncate -s 0 {STATE}",
                f"sudo cp -p /tmp/kept {STATE}",
            ),
            {"failure": {"hsm-folder"}},
        ),
        "zymbit folder missing": (
            lambda: typed(
                pi,
                "sudo mv /var/lib/zymbit /var/lib/kept",
                "sudo mv /var/lib/kept /var/lib/zymbit",
            ),
            {"failure": {"hsm-folder"}},
        ),
        "HSM silent": (lambda: module(pi, answering="silent"), {"failure": {"hsm-answers"}}),
        "production mode, another card": (
            lambda: module(pi, "lock-binding", card="card-2"),
            {"failure": {"hsm-binding"}},
        ),
        "tampered": (lambda: module(pi, "tamper"), {"warning": {"hsm-perimeter"}}),
        "battery low": (lambda: module(pi, battery=2.1), {"failure": {"hsm-battery"}}),
        "1-Wire": (
            lambda: typed(
                pi,
                f"sudo cp {CONFIG} /tmp/config && echo dtoverlay=w1-gpio | sudo tee -a {CONFIG}",
                f"sudo cp /tmp/config {CONFIG}",
            ),
            {"failure": {"gpio-4"}},
        ),
        "boot partition read-only": (
            lambda: typed(
                pi,
                "sudo mount -o remount,ro /boot/firmware",
                "sudo mount -o remount,rw /boot/firmware",
            ),
            {"failure": {"boot-writable"}},
        ),
        "automounted stick": (
            lambda: typed(pi, mount, "sudo umount /media/pi/OLDSTICK"),
            {"warning": {"automount"}},
        ),
        "clock at 1970": (lambda: clock_at_1970(pi), {"failure": {"clock"}}),
        # Last: it is another module afterwards.
        "tampered and armed": (
            lambda: destroyed(pi),
            {"failure": {"hsm-seals"}, "warning": {"hsm-perimeter"}},
        ),
    }


@contextlib.contextmanager
def destroyed(pi: VirtualPi) -> Iterator[None]:
    """A module that was set to destroy itself, and has."""
    module_of(pi).set(perimeter_actions=[2, 2])
    with module(pi, "tamper"):
        yield
    module_of(pi).set(perimeter_actions=[0, 0])


def test_a_healthy_pi_has_no_warning_and_no_failure(pi: VirtualPi) -> None:
    found = doctor(pi)
    assert not found["failure"] and not found["warning"]
    began = time.monotonic()
    pi.run("sudo crfs doctor >/tmp/doctor 2>&1")
    took = time.monotonic() - began
    print(f"crfs doctor took {took:.2f} s; it cannot tell {sorted(found['cannot tell'])}")
    print(pi.check("cat /tmp/doctor"))


def test_without_root_it_says_what_root_would_add(pi: VirtualPi) -> None:
    code, text = pi.run("crfs doctor")
    assert code == 30
    assert "As root ('sudo crfs doctor') these can tell as well: " in text
    assert "FAILURE" not in text and "WARNING" not in text and "Traceback" not in text


def test_each_fault_is_named_and_nothing_else(pi: VirtualPi) -> None:
    healthy = doctor(pi)
    for what, (broken, expected) in breakages(pi).items():
        with broken():
            found = doctor(pi)
        del found["cannot tell"]
        assert found == {"failure": set(), "warning": set(), **expected}, what
        assert doctor(pi) == healthy, f"after {what} was mended"


def test_the_commands_for_the_hsm(pi: VirtualPi) -> None:
    hsm = module_of(pi)
    text = pi.check("sudo crfs hsm info")
    assert hsm.order("get")["serial"] in text
    assert "development mode" in text

    code, text = pi.run("sudo crfs hsm set-i2c-address 0x50 --yes")
    assert (code, "no address" in text) == (2, True)
    assert hsm.order("get")["i2c_address"] == 0x30
    assert "answers at 0x31" in pi.check("sudo crfs hsm set-i2c-address 0x31 --yes")
    assert hsm.order("get")["i2c_address"] == 0x31

    pi.check(f'sudo python3 -c "{SAVE_KEY}"')
    assert "foreign slot 16" in pi.check("sudo crfs hsm store-public-key /tmp/pub_key_slot0")
    text = pi.check("sudo crfs hsm keys")
    assert "Own keys: 3 of 640" in text
    assert "Foreign keys: 1 of 512" in text
    assert (
        pi.check("sudo cat /tmp/pub_key_slot0 | od -An -v -tx1 | tr -d ' \\n'")
        == (hsm.order("get")["foreign_keys"][0])
    )
