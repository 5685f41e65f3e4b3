"""Make a copy of a user's own card image bootable on a virtual board."""

from __future__ import annotations

from pathlib import Path

from crfs.rehearsal.base import GUEST
from crfs.rehearsal.workbench import run_in_uml

TIMEOUT_S = 300


def graft(card: Path, base: Path) -> None:
    """Put the virtual board's kernel, HSM6 and login from `base` on `card`, which is a copy.

    Raises RehearsalError if the card's filesystems cannot be mounted or have no room for it.
    """
    run_in_uml((GUEST / "graft.sh").read_text(), disks=[card, base], timeout=TIMEOUT_S, check=True)
