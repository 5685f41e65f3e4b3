"""Scripts in user-mode Linux: real block devices, exit codes, limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from crfs.errors import RehearsalError
from crfs.rehearsal.layout import MIB, make_empty
from crfs.rehearsal.workbench import run_in_uml

pytestmark = pytest.mark.integration

MAKE_AND_FILL = """
set -e
head -c 64 /dev/urandom >"$UML_WORK/key"
cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/ubda "$UML_WORK/key"
cryptsetup open --key-file "$UML_WORK/key" /dev/ubda plain
mkfs.ext4 -q /dev/mapper/plain
mkdir "$UML_WORK/m"
mount /dev/mapper/plain "$UML_WORK/m"
echo "kept in the dark" >"$UML_WORK/m/file"
umount "$UML_WORK/m"
cryptsetup close plain
"""


def test_dm_crypt_is_real_and_writes_last(tmp_path: Path) -> None:
    disk = tmp_path / "disk,with:odd name"
    make_empty(disk, 64 * MIB)
    run_in_uml(MAKE_AND_FILL, disks=[disk], check=True)
    content = disk.read_bytes()
    assert content.startswith(b"LUKS\xba\xbe")
    assert b"kept in the dark" not in content


def test_exit_code_output_and_environment_come_back() -> None:
    result = run_in_uml('echo "$GREETING"; echo error >&2; exit 3', env={"GREETING": "it's me"})
    assert (result.code, result.ok) == (3, False)
    assert result.output == "it's me\nerror\n"


def test_writes_can_be_thrown_away(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_empty(disk, 4 * MIB)
    run_in_uml("echo changed | dd of=/dev/ubda", disks=[disk], keep_writes=False, check=True)
    assert disk.read_bytes() == bytes(4 * MIB)


def test_failures_raise(tmp_path: Path) -> None:
    with pytest.raises(RehearsalError, match="failed with code 1"):
        run_in_uml("false", check=True)
    with pytest.raises(RehearsalError, match="not done within 4 s"):
        run_in_uml("echo begun; sleep 60", timeout=4)
    with pytest.raises(RehearsalError, match="no disk image"):
        run_in_uml("true", disks=[tmp_path / "missing"])
