"""A Pi with crfs installed, its images, and how whoever owns it goes about a migration."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crfs.rehearsal.firmware import BootPartition
from crfs.rehearsal.image import CardOptions, compose_card, compose_stick
from crfs.rehearsal.layout import copy_sparse
from crfs.rehearsal.life import MARKERS
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import ConsoleClosed, VirtualPi
from crfs.rehearsal.rawsearch import find_in_image
from crfs.rehearsal.rehearse import DEB_ON_CARD

PROJECT = Path(__file__).resolve().parents[2]
DISKS = "--disk /dev/ubda --usb /dev/ubdb"
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

    def begin(self, *options: str) -> str:
        """Type the command, which goes on in the background; the recovery key that it shows."""
        words = ("sudo crfs encrypt --yes --erase-usb", DISKS, *options)
        self.pi.run(" ".join(words), wait=False)
        shown = self.pi.console.expect(RECOVERY_KEY, PHASE_S)
        return str(shown[1] + shown[2])

    def key(self) -> bytes:
        """The key of the migration under way, with the Pi off: it lies on the FAT, sealed."""
        sealed = BootPartition(self.card).read("crfs/key.bin.lock")
        assert sealed
        return self.hsm.unseal(sealed)

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


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card on which the user has installed crfs with apt; powered off."""
    folder = tmp_path_factory.mktemp("installed")
    deb = next((PROJECT / "build").glob("crfs_*_all.deb"))
    card = folder / "card.img"
    compose_card(card, options=CardOptions(files={DEB_ON_CARD: deb}))
    with HsmProcess(folder) as hsm, VirtualPi(folder, card, hsm=hsm) as pi:
        pi.power_on()
        pi.login()
        install = "sudo apt-get install -y --no-install-recommends"
        pi.check(f"{install} {DEB_ON_CARD}", timeout=120)
        pi.shutdown()
    return card


@pytest.fixture
def bench(installed: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A fresh copy of that card, a used stick, an HSM.

    The parameter: has it firmware with tryboot, and disks that discard? Or neither.
    """
    modern = bool(getattr(request, "param", True))
    card, stick = tmp_path / "card.img", tmp_path / "stick.img"
    copy_sparse(installed, card)
    CardOptions(tryboot=modern).write_to(card)
    compose_stick(stick)
    # The module came with the card: in development mode it is bound to nothing.
    shutil.copy(installed.parent / "hsm.json", tmp_path / "hsm.json")
    with (
        HsmProcess(tmp_path) as hsm,
        VirtualPi(tmp_path, card, stick=stick, hsm=hsm, tryboot=modern, discard=modern) as pi,
    ):
        yield Bench(pi, hsm, card, stick)
