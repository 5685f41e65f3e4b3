"""Imports point downwards, and the package on the Pi needs nothing that Debian does not have."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "crfs"

# From the bottom up. A module may import from the lines above its own; the modules of one folder
# (`steps`, `commands`) may import each other too.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "model", "live", "sight", "boards"),
    ("runner", "log", "fatfile", "streams", "marks", "led", "topics"),
    ("journal",),
    ("bootconfig", "consent"),
    ("bootfiles", "extlinux"),
    ("probe", "bootrecord"),
    (
        "keys",
        "luks",
        "blocks",
        "trees",
        "dress",
        "recovery",
        "swapfiles",
        "zymbit",
        "failing",
        "fstab",
        "services",
    ),
    ("tpm2", "proof"),
    ("bindings", "checks"),
    ("preflight",),
    ("steps",),
    ("machine", "progress"),
    ("worker",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
# Installed on the Pi by Debian packages of these names (python3-...).
FROM_DEBIAN = {"transitions", "sh", "pyudev", "structlog", "systemd"}

_RANK = {name: number for number, names in enumerate(LAYERS) for name in names}
_FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "rehearsal"
)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield node.lineno, one.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for one in node.names:
                yield node.lineno, f"{node.module}.{one.name}"


def _layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", _FILES, ids=_ids)
def test_imports_point_downwards(path: Path) -> None:
    mine = _layer(path)
    if mine == "__init__":
        assert not [name for _, name in _imports(path) if name.startswith("crfs")]
        return
    assert mine in _RANK, f"{mine} is new: give it a place in LAYERS"
    for line, name in _imports(path):
        parts = name.split(".")
        if parts[0] != "crfs" or parts[1] == "__version__":
            continue
        other = parts[1]
        if path.name == "rehearse.py" and other == "rehearsal":
            continue  # the one command that leads into the virtual Pi
        same_folder = other == mine and path.parent != PACKAGE
        assert other in _RANK, f"{path}:{line} imports {name}"
        assert same_folder or _RANK[other] < _RANK[mine], f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", _FILES, ids=_ids)
def test_the_package_on_the_pi_needs_only_debian(path: Path) -> None:
    allowed = {"crfs", *FROM_DEBIAN, *sys.stdlib_module_names}
    foreign = [name for _, name in _imports(path) if name.split(".")[0] not in allowed]
    assert not foreign, f"{path} imports {foreign}"


def test_only_the_runner_starts_commands() -> None:
    """One door for commands, so that one fake and one review cover them all."""
    doors = [
        path.name
        for path in _FILES
        for _, name in _imports(path)
        if name.split(".")[0] in ("subprocess", "sh", "pty", "multiprocessing")
    ]
    assert doors == ["runner.py"]


def test_every_layer_exists() -> None:
    found = {_layer(path) for path in _FILES}
    assert set(_RANK) <= found
