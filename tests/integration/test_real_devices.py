"""Runs inside.py under user-mode Linux, with Debian's Python and libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from crfs.rehearsal.workbench import run_in_uml

pytestmark = pytest.mark.integration
PROJECT = Path(__file__).resolve().parents[2]


def test_tools_on_real_dm_crypt_ext4_and_fat(tmp_path: Path) -> None:
    disks = [tmp_path / "card.img", tmp_path / "stick.img"]
    for disk in disks:
        with disk.open("wb") as image:
            image.truncate(256 * 2**20)
    result = run_in_uml(
        "/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/integration/inside.py",
        disks=disks,
        cwd=PROJECT,
        timeout=600,
    )
    print(result.output)
    assert result.code == 0, result.output
    assert " passed" in result.output
