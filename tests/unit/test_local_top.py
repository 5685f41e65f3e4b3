"""The initramfs puts the last good config.txt back before a trial goes on, or leaves it alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "initramfs-hooks"
pytestmark = pytest.mark.real_commands


def one_shot(tmp_path: Path, around: str = "") -> Path:
    """Run local-top in a one-shot boot, with `around` in place of commands; the config.txt."""
    boot = tmp_path / "boot"
    (boot / "crfs").mkdir(parents=True)
    (boot / "config.txt").write_text("the trial's")
    (boot / "crfs/good-config.txt").write_text("the good one")
    functions = tmp_path / "functions"
    functions.write_text(
        (SCRIPTS / "functions").read_text().replace("/crfs-boot", str(boot))
        + "boot_option() { echo 1; }\nmount_boot() { :; }\numount() { :; }\n"
        + f"modprobe() {{ :; }}\n{around}\n"
    )
    text = (SCRIPTS / "local-top").read_text()
    for word, path in {"/scripts/crfs-functions": str(functions), "/crfs-boot": str(boot)}.items():
        assert word in text
        text = text.replace(word, path)
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return boot / "config.txt"


def test_the_good_one_is_put_back(tmp_path: Path) -> None:
    assert one_shot(tmp_path).read_text() == "the good one"


def test_a_copy_that_fails_replaces_nothing(tmp_path: Path) -> None:
    """With an empty config.txt the firmware would boot what cmdline.txt names: the plain root."""
    around = 'cp() { echo part >"$2"; return 1; }'
    assert one_shot(tmp_path, around).read_text() == "the trial's"
