"""The package cannot be removed while a migration needs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crfs.journal import SLOTS

SCRIPT = Path(__file__).resolve().parents[2] / "debian/crfs.prerm"
pytestmark = pytest.mark.real_commands


def prerm(boot: Path, what: str) -> tuple[int, str]:
    text = SCRIPT.read_text()
    assert "/boot/firmware/crfs/" in text
    text = text.replace("/boot/firmware/crfs/", f"{boot}/crfs/").replace(" /boot/crfs/", " /none/")
    done = subprocess.run(["/bin/sh", "-c", text, "prerm", what], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("slot", SLOTS)
def test_a_migration_under_way(tmp_path: Path, slot: str) -> None:
    (tmp_path / "crfs").mkdir()
    (tmp_path / "crfs" / slot).touch()
    code, said = prerm(tmp_path, "remove")
    assert code == 1
    assert "crfs rollback" in said
    assert prerm(tmp_path, "upgrade") == (0, "")


def test_none(tmp_path: Path) -> None:
    assert prerm(tmp_path, "remove") == (0, "")
