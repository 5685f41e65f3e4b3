"""Style, types and shell scripts are checked like everything else: by a test."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_SHELL = re.compile(
    rb"\A#!\s*/\S*(?:\s\S*)?\b(?:sh|dash|bash)\b|^# shellcheck shell=", re.MULTILINE
)

pytestmark = pytest.mark.real_commands


def _passes(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"


def _needs(module: str) -> None:
    # Debian's Python has no ruff; the linters run with the development environment.
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed for {sys.executable}")


def shell_files() -> list[str]:
    """Every shell script of the project, by its first lines."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    found = []
    for name in filter(None, listing.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in (".py", ".md", ".c"):
            with path.open("rb") as file:
                if _SHELL.search(file.read(300)):
                    found.append(name)
    return sorted(found)


def test_ruff_check() -> None:
    _needs("ruff")
    _passes(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


def test_ruff_format() -> None:
    _needs("ruff")
    _passes(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_mypy() -> None:
    _needs("mypy")
    _passes(sys.executable, "-m", "mypy")


def test_shellcheck() -> None:
    files = shell_files()
    assert {"initramfs-hooks/functions", "initramfs-hooks/zk_get_key"} <= set(files)
    beside = Path(sys.executable).with_name("shellcheck")
    tool = str(beside) if beside.exists() else shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    _passes(tool, "--external-sources", *files)


def test_initramfs_scripts_are_plain_sh() -> None:
    """The initramfs has busybox only."""
    for path in sorted((ROOT / "initramfs-hooks").iterdir()):
        first = path.read_text().split("\n", 1)[0]
        assert first == "#!/bin/sh" or path.name == "functions", f"{path.name}: {first}"
        _passes("sh", "-n", str(path))
