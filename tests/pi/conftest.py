"""What the tests on a virtual Pi begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from crfs.rehearsal.image import CardOptions, compose_card
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import VirtualPi
from crfs.rehearsal.rehearse import DEB_ON_CARD

PROJECT = Path(__file__).resolve().parents[2]


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
