"""Hashes of the boot files, kept on the encrypted root: the boot partition itself is in the clear.

Nobody can keep others from changing it, but a change need not go unnoticed. The file has
sha256sum's own form. crfs writes it at the end of a migration; two hooks that it leaves on the
root bring it up to date after an update of the kernel or of the initramfs.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from crfs import fatfile
from crfs.bootconfig import INITRAMFS
from crfs.bootfiles import setting

FILE = Path("/var/lib/crfs/boot.sha256")
# Of Raspberry Pi OS, and of Debian's own images; the hook kernel-installed knows the same.
_KERNELS = ("kernel*.img", "vmlinuz*")


def write(boot: Path) -> None:
    """Take the boot files as they are now for right. Raises OSError."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(_now(boot).items())]
    FILE.parent.mkdir(mode=0o755, exist_ok=True)
    fatfile.replace(FILE, "".join(lines).encode())


def changes(boot: Path) -> list[str]:
    """What is not as recorded, a line each. Raises OSError where nothing was recorded."""
    lines = FILE.read_text().splitlines()
    recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    now = _now(boot)
    return [
        f"{name} {_what(name in recorded, name in now)} ('sudo crfs verify --record' if by you)"
        for name in sorted({*recorded, *now})
        if recorded.get(name) != now.get(name) and (name in now or not _is_kernel(name))
    ]


def _is_kernel(name: str) -> bool:
    """Kernels of Debian have their version in the name, and go with their package."""
    return any(fnmatch(name, pattern) for pattern in _KERNELS)


def _what(recorded: bool, there: bool) -> str:
    return "has changed" if recorded and there else "is gone" if recorded else "is new"


def _now(boot: Path) -> dict[str, str]:
    """What the firmware is told, and what it loads: name and SHA-256."""
    config = boot / "config.txt"
    cmdline = setting(config.read_bytes(), "cmdline") or "cmdline.txt"
    kernels = [path for pattern in _KERNELS for path in boot.glob(pattern)]
    paths = [config, boot / cmdline, boot / INITRAMFS, *kernels]
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()
    }
